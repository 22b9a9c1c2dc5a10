"""Files that are no pictures or films any more."""

import io

import av
import numpy as np
from PIL import Image

from tests.soak.samples import encoded
from vlm2vec.v1 import embedding_pb2 as pb

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
PICTURE = Image.effect_mandelbrot((160, 120), (-2, -1, 1, 1), 50).convert("RGB")


def _film() -> bytes:
    """Ten frames as MP4."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(10):
            pixels = np.full((64, 64, 3), 25 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def broken(data: bytes) -> dict[str, bytes]:
    """Ways to spoil any file so that nobody can take it for whole."""
    return {
        "its first bytes alone": data[:24],
        "a tenth": data[: len(data) // 10],
        "half": data[: len(data) // 2],
        "without its head": data[16:],
        "zeros behind its head": data[:12] + bytes(len(data) - 12),
        "ones behind its head": data[:12] + b"\xff" * (len(data) - 12),
    }


def _image_parts() -> dict[str, pb.Part]:
    return {
        f"{format}, {how}": pb.Part(image=data)
        for format in FORMATS
        for how, data in broken(encoded(PICTURE, format)).items()
    }


def _video_parts() -> dict[str, pb.Part]:
    files = {f"MP4, {how}": data for how, data in broken(_film()).items()}
    files |= {"a PNG for a film": encoded(PICTURE, "PNG")[:99], "text for a film": b"film " * 99}
    return {name: pb.Part(video=pb.Video(file=data)) for name, data in files.items()}


PICTURES: dict[str, pb.Part] = {**_image_parts(), **_video_parts()}
"""Parts that cannot be decoded, by what is wrong with them."""
