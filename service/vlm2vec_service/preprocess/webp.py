"""Large WebP pictures, decoded in a process of their own.

Pillow's decoder of this format, and of no other that is read, keeps every other thread from running
while it decodes, the event loop's too, and cannot be stopped; a process can.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from subprocess import PIPE

from PIL import Image

from vlm2vec_service.errors import ServeError
from vlm2vec_service.preprocess import webp_child
from vlm2vec_service.preprocess.stop import Stop

SMALL_PIXELS = 1_500_000
"""Pixels of a picture that is decoded in this process: it takes 50 ms at most."""
COMMAND = [sys.executable, "-I", str(Path(webp_child.__file__))]
"""-I: nothing but what is installed, whatever the environment says."""
PAUSE = 0.05
"""Seconds between looks at whether the decoding is to stop."""


def decode_webp(data: bytes, size: tuple[int, int], stop: Stop, field: str) -> Image.Image:
    """Decodes the picture of ``size`` in ``data`` to RGB, or to RGBA where it has transparency.

    Raises `OSError` for a damaged one, `ServeError` where no process can be started, and what
    `Stop.check` does.
    """
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        try:
            process = subprocess.Popen(COMMAND, stdin=file, stdout=PIPE, stderr=PIPE)
        except OSError as error:
            raise ServeError(f"no process could be started to decode {field}: {error}") from error
    with process:
        try:
            pixels, problem = _answer(process, stop, field)
        finally:
            process.kill()
    if process.returncode:
        raise OSError(problem.decode(errors="replace").strip() or "its decoder was ended")
    return Image.frombytes("RGB" if len(pixels) == 3 * size[0] * size[1] else "RGBA", size, pixels)


def _answer(process: subprocess.Popen[bytes], stop: Stop, field: str) -> tuple[bytes, bytes]:
    """What the process writes to its outputs."""
    while True:
        stop.check(field)
        try:
            return process.communicate(timeout=PAUSE)
        except subprocess.TimeoutExpired:
            continue
