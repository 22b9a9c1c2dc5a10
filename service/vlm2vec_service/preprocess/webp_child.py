"""The process that decodes a large WebP picture, since Pillow's decoder would keep every other
thread of the server from running.

It reads the file from its standard input and writes the pixels, of three or four bytes, row by row
to its standard output; or the words of the error to its standard error.
"""

import io
import sys

from PIL import Image

ROWS = 256
"""Rows that are written at a time, so that they are not in memory twice."""


def main() -> None:
    """Decodes the one picture on the standard input."""
    Image.MAX_IMAGE_PIXELS = None  # whoever asks has measured it
    try:
        image = Image.open(io.BytesIO(sys.stdin.buffer.read()), formats=("WEBP",))
        image.load()
    except Exception as error:  # noqa: BLE001 (Pillow's readers raise nearly anything)
        sys.exit(str(error))
    for top in range(0, image.height, ROWS):
        rows = image.crop((0, top, image.width, min(top + ROWS, image.height)))
        sys.stdout.buffer.write(rows.tobytes())


if __name__ == "__main__":
    main()
