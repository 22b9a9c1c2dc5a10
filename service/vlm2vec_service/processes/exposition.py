"""The metrics of all processes together: each answers on a socket, and whoever is asked asks all.

A sample gets the label ``process``, so that a process that starts anew resets its own counters
only, which is what Prometheus understands.
"""

import contextlib
import re
import socket
import threading
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingMixIn, UnixStreamServer

from prometheus_client import generate_latest

SECONDS = 5.0
"""How long a process may take to answer before it is left out."""
SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{)?", re.MULTILINE)


class _Handler(StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(generate_latest())


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


def answer_metrics(folder: Path, process: str) -> None:
    """Answers the other processes, from a thread, with the metrics of this one."""
    path = _path(folder, process)
    path.unlink(missing_ok=True)
    server = _Server(str(path), _Handler)
    threading.Thread(target=server.serve_forever, name="members", daemon=True).start()


def gather(folder: Path) -> bytes:
    """The metrics of every process that answers, one family after the other."""
    heads: dict[str, str] = {}
    samples: dict[str, list[str]] = {}
    for path in sorted(folder.glob("metrics-*.sock")):
        process = path.stem.removeprefix("metrics-")
        with contextlib.suppress(OSError):
            for family in _ask(path).split("# HELP ")[1:]:
                name = family.partition(" ")[0]
                help_line, type_line, *rest = family.splitlines()
                heads.setdefault(name, f"# HELP {help_line}\n{type_line}\n")
                samples.setdefault(name, []).extend(_labelled(line, process) for line in rest)
    return "".join(head + "".join(samples[name]) for name, head in heads.items()).encode()


def _ask(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SECONDS)
        connection.connect(str(path))
        with connection.makefile("rb") as file:
            return file.read().decode()


def _labelled(sample: str, process: str) -> str:
    label = f'process="{process}"'
    return (
        SAMPLE.sub(
            lambda match: f"{match[1]}{{{label}," if match[2] else f"{match[1]}{{{label}}}",
            sample,
            1,
        )
        + "\n"
    )


def _path(folder: Path, process: str) -> Path:
    return folder / f"metrics-{process}.sock"
