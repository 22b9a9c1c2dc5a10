"""Pictures of some formats, decoded in a process of their own.

Pillow's decoder of WebP keeps every other thread from running while it decodes, the event loop's
too, and cannot be stopped; a process can. A picture within an AVIF or HEIC file may be larger than
the file says: those decoders find that out when they have decoded it, and a process has a limit of
memory.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from subprocess import PIPE

from PIL import Image

from vlm2vec_service.errors import ServeError
from vlm2vec_service.preprocess import apart_child
from vlm2vec_service.preprocess.stop import Stop

FORMATS = ("AVIF", "HEIF", "WEBP")
"""Pillow's names of the formats."""
SMALL_PIXELS = 1_500_000
"""Pixels of a WebP picture that is decoded in this process: it takes 50 ms at most."""
COMMAND = [sys.executable, "-I", str(Path(apart_child.__file__))]
"""-I: nothing but what is installed, whatever the environment says."""
PAUSE = 0.05
"""Seconds between looks at whether the decoding is to stop."""


def decode_apart(image: Image.Image, data: bytes, stop: Stop, field: str) -> Image.Image:
    """Decodes ``image``, which was opened from the file ``data``, to RGB, or to RGBA where it has
    transparency.

    Raises `OSError` for a damaged one, `ServeError` where no process can be started, and what
    `Stop.check` does.
    """
    pixels = image.width * image.height
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        command = [*COMMAND, str(image.format), str(pixels)]
        try:
            process = subprocess.Popen(command, stdin=file, stdout=PIPE, stderr=PIPE)
        except OSError as error:
            raise ServeError(f"no process could be started to decode {field}: {error}") from error
    with process:
        try:
            decoded, problem = _answer(process, stop, field)
        finally:
            process.kill()
    if process.returncode:
        raise OSError(problem.decode(errors="replace").strip() or "its decoder was ended")
    return Image.frombytes("RGB" if len(decoded) == 3 * pixels else "RGBA", image.size, decoded)


def _answer(process: subprocess.Popen[bytes], stop: Stop, field: str) -> tuple[bytes, bytes]:
    """What the process writes to its outputs."""
    while True:
        stop.check(field)
        try:
            return process.communicate(timeout=PAUSE)
        except subprocess.TimeoutExpired:
            continue
