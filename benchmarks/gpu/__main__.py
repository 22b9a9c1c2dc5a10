"""Runs the sections one after the other, and prints the table of what they measured.

This process imports nothing but the standard library: it may be a Python that lacks some of what
the sections need. That is installed, then, into an environment of its own beside the Python's.
"""

import argparse
import collections
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import venv
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from benchmarks.gpu.rows import SECTIONS, Options, Row, table

NEEDED = {
    "torch": "torch", "transformers": "transformers", "peft": "peft", "numpy": "numpy",
    "PIL": "pillow", "safetensors": "safetensors", "tokenizers": "tokenizers",
    "sklearn": "scikit-learn", "pytest": "pytest",
}  # fmt: skip
"""The modules that the sections import, and the distributions that have them. torch brings the
triton that fits it."""
ENVIRONMENT = Path("build/gpu-environment")
VERSIONS = ("torch", "triton", "transformers", "peft")
CARD = f"""
import importlib.util, torch
from importlib.metadata import version
card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
there = [name for name in {VERSIONS} if importlib.util.find_spec(name)]
print(", ".join([card, *(f"{{name}} {{version(name)}}" for name in there)]))
"""


def main() -> None:
    """Runs the command line's sections; exits with 1 if one failed or a row is not as it has to
    be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, comma-separated")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default="", help="one of the sizes; by default the real ones")
    parser.add_argument("--output", default="build/gpu", help="folder for gpu.json and profiles")
    parser.add_argument("--time-limit", type=float, default=1.0, help="times the usual limits")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := set(names) - set(SECTIONS):
        parser.error(f"--only {','.join(sorted(unknown))}: there are {', '.join(SECTIONS)}")
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    python = ready_python()
    card = subprocess.run([python, "-c", CARD], capture_output=True, text=True, check=False).stdout
    title = f"{card.strip()}, Python {platform.python_version()}"
    print(title, flush=True)
    options = Options(args.device, args.size, str(output))
    rows: list[Row] = []
    for name in names:
        rows += run_section(python, name, options, SECTIONS[name] * args.time_limit)
        result = {"machine": title, "rows": [asdict(row) for row in rows]}
        (output / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{title}\n\n{table(rows)}\n")
    sys.exit(any(row.ok is False for row in rows))


def ready_python() -> str:
    """Finds a Python that has what the sections need: this one, or an environment made on top."""
    missing = [name for module, name in NEEDED.items() if find_spec(module) is None]
    if not missing:
        return sys.executable
    python = ENVIRONMENT / "bin" / "python"
    print(f"installing {', '.join(missing)} into {ENVIRONMENT}", flush=True)
    venv.create(ENVIRONMENT, system_site_packages=True, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *missing], check=True)
    return str(python)


def run_section(python: str, name: str, options: Options, limit: float) -> list[Row]:
    """Runs the section ``name`` for at most ``limit`` seconds and returns what it measured.

    Its last row says how long it took, and is not ok if it failed or was stopped.
    """
    print(f"{name} ...", flush=True)
    start = time.monotonic()
    process = subprocess.Popen(
        [python, "-m", "benchmarks.gpu.section", name, json.dumps(asdict(options))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said: collections.deque[str] = collections.deque(maxlen=1)
    listener = threading.Thread(target=pass_on, args=(process.stderr, said))
    listener.start()
    # The section may have started processes of its own.
    timer = threading.Timer(limit, lambda: os.killpg(process.pid, signal.SIGKILL))
    timer.start()
    rows = []
    for line in process.stdout:
        rows.append(Row.from_json(line))
        print(f"  {table(rows[-1:])}", flush=True)
    code = process.wait()
    timer.cancel()
    listener.join()
    seconds = time.monotonic() - start
    note = ""
    if code == -signal.SIGKILL:
        note = f"stopped, at its time limit of {limit:g} s or for want of memory"
    elif code:
        note = ": ".join([f"exit code {code}", *said])
    rows.append(Row(name, "the section", seconds, "s", note, code == 0))
    return rows


def pass_on(errors: TextIO, said: collections.deque[str]) -> None:
    """Prints what comes from ``errors`` and leaves the last of it in ``said``: of a traceback that
    is the exception."""
    for line in errors:
        sys.stderr.write(line)
        if line.strip():
            said.append(line.strip())


if __name__ == "__main__":
    main()
