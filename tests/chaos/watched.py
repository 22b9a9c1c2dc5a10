"""A server in whose log nothing may be left that nobody handled."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import adapter_folder
from tests.e2e.server import Server, running_server


@contextlib.contextmanager
def watched_server(checkpoints: Path, folder: Path, *more: str) -> Iterator[Server]:
    """Starts a server with the versions ``base`` and ``lora`` of ``qwen``, or those of a registry,
    and the flags ``more``, and stops it in the end. Its log, in ``folder``, must then have no error
    that nobody handled, of ours, of gRPC's or of asyncio's."""
    flags = [
        f"--model=qwen={checkpoints / 'qwen2_vl'}",
        "--dtype=float32",
        # A line for each of so many calls tells nothing.
        "--log-level=WARNING",
    ]
    if "--registry" not in more:
        flags.append(f"--adapter=qwen/lora={adapter_folder('qwen2_vl', 'lora')}")
    with running_server(folder, *flags, *more) as started:
        yield started
    log = started.log.read_text()
    assert not re.findall(r".*(?:Traceback|Exception|asyncio|destroyed).*", log)
