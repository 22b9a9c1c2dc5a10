"""The process of a worker that this front end starts itself."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import fields
from pathlib import Path

from vlm2vec_service.settings import EngineSettings
from vlm2vec_service.worker.parent import PARENT

STOP_SECONDS = 8.0
"""What a worker is given to stop by itself."""


@contextlib.asynccontextmanager
async def child(
    base: Path, address: str, settings: EngineSettings
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs a worker on ``base`` that listens on ``address``; at the end it is told to stop, and
    killed if that takes it longer than `STOP_SECONDS`. It ends with this process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vlm2vec_service.worker",
        "--base", str(base), "--address", address, *flags(settings),
        env={**os.environ, "PYTHONUNBUFFERED": "1", PARENT: str(os.getpid())},
        # Ctrl-C is for the front end, which needs its workers to finish.
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        ended = asyncio.create_task(process.wait())
        stopped, _ = await asyncio.wait({ended}, timeout=STOP_SECONDS)
        if not stopped:
            kill(process)
        await asyncio.shield(ended)


def kill(process: asyncio.subprocess.Process) -> None:
    """Kills ``process`` if it still runs."""
    if process.returncode is None:
        process.kill()


def flags(settings: EngineSettings) -> list[str]:
    """Lists the command line's flags for ``settings``, which the worker's options read back."""
    listed = []
    for item in fields(settings):
        name, value = item.name.replace("_", "-"), getattr(settings, item.name)
        if isinstance(value, bool):
            listed.append(f"--{name}" if value else f"--no-{name}")
        else:
            listed += [f"--{name}", str(value)]
    return listed
