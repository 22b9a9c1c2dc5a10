"""The process that decodes one picture, for `vlm2vec_service.preprocess.apart`.

Its arguments are the format, by Pillow's name, and how many pixels the file says that there are. It
reads the file from its standard input and writes the pixels, of three or four bytes, row by row to
its standard output; or the words of the error to its standard error.
"""

import contextlib
import io
import resource
import sys

from PIL import AvifImagePlugin, Image

ROWS = 256
"""Rows that are written at a time, so that they are not in memory twice."""
OWN_BYTES, PIXEL_BYTES = 1 << 28, 20
"""Addresses that the process may use: for itself, and for each pixel. The largest picture takes 16
for one: 10 bits a color before they are converted, and the result twice."""


def main(format: str, pixels: int) -> None:
    """Decodes the one picture on the standard input."""
    most = OWN_BYTES + PIXEL_BYTES * pixels
    with contextlib.suppress(OSError, ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    Image.MAX_IMAGE_PIXELS = None  # whoever asks has measured it
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    if format == "HEIF":
        import pi_heif

        pi_heif.register_heif_opener(decode_threads=1)
    try:
        image: Image.Image = Image.open(io.BytesIO(sys.stdin.buffer.read()), formats=(format,))
        image.load()
        if image.mode not in ("RGB", "RGBA"):
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except Exception as error:  # noqa: BLE001 (Pillow's readers raise nearly anything)
        sys.exit(str(error) or type(error).__name__)
    for top in range(0, image.height, ROWS):
        rows = image.crop((0, top, image.width, min(top + ROWS, image.height)))
        sys.stdout.buffer.write(rows.tobytes())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
