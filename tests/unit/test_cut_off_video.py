"""Video files that end too early are refused, whole ones never, in every container."""

import contextlib
import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.containers import is_cut_off
from vlm2vec_service.preprocess.video import sample_video
from vlm2vec_service.settings import Limits

CASES = Path(__file__).parent / "data" / "pictures"
FILMS = [
    ("mp4", "libx264"),
    ("mov", "mjpeg"),
    ("3gp", "h263"),
    ("matroska", "libx264"),
    ("matroska", "mpeg4"),
    ("webm", "libvpx"),
    ("webm", "libvpx-vp9"),
    ("avi", "mpeg4"),
    ("avi", "mjpeg"),
    ("mpegts", "libx264"),
    ("mpegts", "mpeg2video"),
    ("mpegts", "mpeg4"),
    ("mpeg", "mpeg1video"),
    ("vob", "mpeg2video"),
    ("flv", "flv"),
    ("flv", "libx264"),
    ("asf", "wmv2"),
    ("ogg", "libvpx"),
    ("gif", "gif"),
]
FORMATS = {"mjpeg": "yuvj420p", "gif": "rgb8"}
LIVE = [film for film in FILMS if film[0] not in ("mov", "3gp", "mp4", "gif")]


class Pipe(io.RawIOBase):
    """A file that is written from its start to its end, as a live recording is."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.data += bytes(data)
        return len(data)


def film(
    container: str,
    codec: str,
    *,
    live: bool = False,
    options: dict[str, str] | None = None,
    coding: dict[str, str] | None = None,
    frames: int = 24,
) -> bytes:
    """A file of so many ``frames`` of noise, 128x96."""
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    random = np.random.default_rng(0)
    file = Pipe() if live else io.BytesIO()
    with av.open(file, "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec, rate=25, options=coding or {})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = 128, 96
        stream.pix_fmt = FORMATS.get(codec, "yuv420p")
        for _ in range(frames):
            noise = random.integers(0, 256, (96, 128, 3), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        output.mux(stream.encode(None))
    return bytes(file.data) if isinstance(file, Pipe) else file.getvalue()


def require_cut_offs_refused(data: bytes) -> None:
    assert len(sample_video(data, 64, Limits())) == 24
    for percent in (5, 20, 50, 90, 99):
        size = len(data) * percent // 100 | 1  # never between two packets of an even size
        with pytest.raises(InvalidInputError) as refused:
            sample_video(data[:size], 8, Limits(), "clip")
        assert refused.value.field == "clip", percent


@pytest.mark.parametrize(("container", "codec"), FILMS)
def test_cut_off_file_is_refused(container: str, codec: str) -> None:
    require_cut_offs_refused(film(container, codec))


@pytest.mark.parametrize(("container", "codec"), LIVE)
def test_cut_off_live_recording_is_refused(container: str, codec: str) -> None:
    require_cut_offs_refused(film(container, codec, live=True))


@pytest.mark.parametrize(
    ("container", "options"),
    [
        ("mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("matroska", {"live": "1"}),
        ("mpegts", {"mpegts_m2ts_mode": "1"}),
    ],
)
def test_other_ways_of_writing(container: str, options: dict[str, str]) -> None:
    require_cut_offs_refused(film(container, "libx264", live=True, options=options))


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "libx264"), ("webm", "libvpx"), ("gif", "gif"), ("avi", "mpeg4")],
)
def test_any_byte_less_is_noticed(container: str, codec: str) -> None:
    data = film(container, codec)
    for size in range(100, len(data), len(data) // 300):
        with pytest.raises(InvalidInputError):
            sample_video(data[:size], 8, Limits())


@pytest.mark.parametrize("container", ["mpegts", "mpeg"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg2video", "libx265"])
@pytest.mark.parametrize("group", ["1", "2", "3", "5", "12"])
def test_whole_streams_of_any_groups_are_taken(container: str, codec: str, group: str) -> None:
    options = {"g": group, "x264-params": "open-gop=1", "x265-params": "log-level=0"}
    for frames, between in ((1, "0"), (4, "2"), (13, "2")):
        # Where x265 gets no more frames than it may reorder, it takes their decoding times from
        # memory that nobody has set, and a muxer refuses some of them (x265's issue 781).
        data = film(container, codec, coding=options | {"bf": between}, frames=frames)
        assert len(sample_video(data, 64, Limits())) == frames


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_transport_stream_that_ends_between_packets(codec: str) -> None:
    data = film("mpegts", codec, frames=10)
    ends = range(188 * 20, len(data) - 188, 188)
    # Only what ends with a frame's last packet, and reads as the whole of a shorter film, passes.
    passed = 0
    for end in ends:
        with contextlib.suppress(InvalidInputError):
            sample_video(data[:end], 8, Limits())
            passed += 1
    assert passed < len(ends) / 3


def test_webm_case() -> None:
    data = (CASES / "film.webm").read_bytes()
    assert len(sample_video(data, 8, Limits())) == 8
    with pytest.raises(InvalidInputError, match="clip: the file is cut off"):
        sample_video(data[: len(data) // 5], 8, Limits(), "clip")


@pytest.mark.parametrize("container", ["mp4", "avi", "matroska", "mpegts"])
def test_trailing_bytes_are_no_cut(container: str) -> None:
    codec = "mpeg4" if container == "avi" else "libx264"
    data = film(container, codec)
    padding = bytes(188 * 4) if container != "mpegts" else b""
    assert len(sample_video(data + padding, 64, Limits())) == 24


@pytest.mark.parametrize(
    "format",
    [
        "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "flv", "asf", "ogg",
        "gif",
    ],
)  # fmt: skip
def test_garbage_never_raises_nor_takes_long(format: str) -> None:
    random = np.random.default_rng(0)
    for size in (0, 1, 7, 100, 5000):
        for values in (random.integers(0, 256, size, np.uint8), np.zeros(size, np.uint8)):
            assert is_cut_off(values.tobytes(), format) in (True, False)
    for data in (b"\1" * 3_000_000, b"GIF89a" + bytes(7) + b"!\xf9" + b"\1" * 3_000_000):
        assert is_cut_off(data, format) in (True, False)


def test_unknown_container_is_whole() -> None:
    assert not is_cut_off(struct.pack(">I", 7), "something")
