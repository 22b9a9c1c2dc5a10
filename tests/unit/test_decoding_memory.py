"""Many large pictures in one input take the memory of about one of them."""

import subprocess
import sys
from pathlib import Path

import av
import pytest
from PIL import Image

SIDE = 4_000
DECODED = SIDE * SIDE * 4
"""Bytes of one decoded picture: Pillow keeps four for each pixel."""
CHILD = """
import sys
from pathlib import Path
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.preprocess.messages import parse_input
from vlm2vec_service.settings import Limits

def peak():
    # Not ru_maxrss, which begins at what the parent had.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

kind, file, base = sys.argv[1], Path(sys.argv[2]).read_bytes(), Path(sys.argv[3])
if kind == "images":
    message = pb.Input(parts=[pb.Part(image=file)] * 12)
elif kind == "frames":
    message = pb.Input(parts=[pb.Part(video=pb.Video(frames=pb.Frames(images=[file] * 24)))])
else:
    message = pb.Input(parts=[pb.Part(video=pb.Video(file=file))])
preprocessor = load_preprocessor(base, Limits(max_tokens=100_000))
embedding = EmbeddingConfig(image={"max_pixels": 50_176})
small = parse_input(pb.Input(parts=[pb.Part(text="a")]), Limits(), 8)
preprocessor.prepare(small, embedding)
before = peak()
request = parse_input(message, Limits(), 24)
measured = peak()
prepared = preprocessor.prepare(request, embedding)
print(measured - before, peak() - before, sum(len(media.values) for media in prepared.media))
"""


def write_film(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        frame = av.VideoFrame(SIDE, SIDE, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for index in range(24):
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(("kind", "count"), [("images", 12), ("frames", 24), ("film", 24)])
def test_pictures_are_decoded_one_at_a_time(
    checkpoints: Path, tmp_path: Path, kind: str, count: int
) -> None:
    file = tmp_path / "file.mp4"
    if kind == "film":
        write_film(file)
    else:
        Image.new("L", (SIDE, SIDE)).save(file, "PNG")
    result = subprocess.run(
        [sys.executable, "-c", CHILD, kind, str(file), str(checkpoints / "qwen2_vl")],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    measured, prepared, pictures = map(int, result.stdout.split())
    assert pictures == count
    if kind != "film":  # which is decoded once to count its frames
        assert measured < DECODED / 4
    # A picture, its grey and what resizing needs; a decoder of films keeps some frames besides.
    # All at once would take twelve or twenty-four.
    assert prepared < (5 if kind == "film" else 3) * DECODED
