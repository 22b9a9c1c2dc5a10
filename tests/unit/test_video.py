"""Video files to frames, and what is refused."""

import io
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.video import sample_video
from vlm2vec_service.settings import Limits

LIMITS = Limits()
STEP = 12
"""Frame ``i`` of every video here is of the gray level ``12 * i``."""


def video(path: Path, frames: int = 20, codec: str = "mpeg4") -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            gray = np.full((64, 64, 3), STEP * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


def indices(frames: tuple[Image.Image, ...]) -> list[int]:
    """Which frames of the video these are, by their gray level."""
    assert all(frame.mode == "RGB" and frame.size == (64, 64) for frame in frames)
    return [round(float(np.asarray(frame).mean()) / STEP) for frame in frames]


@pytest.fixture
def mp4(tmp_path: Path) -> bytes:
    return video(tmp_path / "video.mp4")


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
@pytest.mark.parametrize("container", ["mp4", "mkv", "avi", "ts"])
def test_frames_are_sampled_uniformly_from_first_to_last(
    tmp_path: Path, codec: str, container: str
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    data = video(tmp_path / f"video.{container}", codec=codec)
    assert indices(sample_video(data, 5, LIMITS)) == [0, 4, 9, 14, 19]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [0]),
        (2, [0, 19]),
        (8, [0, 2, 5, 8, 10, 13, 16, 19]),
        (20, list(range(20))),
        (64, list(range(20))),
    ],
)
def test_count_decides_which_frames(mp4: bytes, count: int, expected: list[int]) -> None:
    assert indices(sample_video(mp4, count, LIMITS)) == expected


def test_short_video_gives_all_it_has(tmp_path: Path) -> None:
    data = video(tmp_path / "video.mp4", frames=3)
    assert indices(sample_video(data, 8, LIMITS)) == [0, 1, 2]


@pytest.mark.parametrize(
    "data", [b"", bytes(2000), b"no video at all\n" * 100, bytes(range(256)) * 20]
)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInputError, match="clip: undecodable video") as caught:
        sample_video(data, 8, LIMITS, "clip")
    assert caught.value.field == "clip"


def test_truncated_video_is_refused(mp4: bytes) -> None:
    with pytest.raises(InvalidInputError, match="undecodable video"):
        sample_video(mp4[: len(mp4) // 2], 8, LIMITS)


@pytest.mark.parametrize("container", ["mp4", "avi"])
def test_damaged_bytes_raise_nothing_but_invalid_input(tmp_path: Path, container: str) -> None:
    data = np.frombuffer(video(tmp_path / f"video.{container}"), np.uint8)
    rng = np.random.default_rng(0)
    limits = replace(LIMITS, max_image_pixels=100_000, max_video_decoded_frames=100)
    for _ in range(40):
        damaged = data.copy()
        places = rng.integers(0, len(data), 8)
        damaged[places] = rng.integers(0, 256, len(places))
        try:
            assert len(sample_video(damaged.tobytes(), 4, limits)) <= 4
        except InvalidInputError as error:
            assert error.field == "video"  # noqa: PT017 (both outcomes are right)


def test_file_without_video_stream_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audio.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        assert isinstance(stream, av.AudioStream)
        samples = av.AudioFrame.from_ndarray(
            np.zeros((1, 800), np.int16), format="s16", layout="mono"
        )
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
        container.mux(stream.encode(None))
    with pytest.raises(InvalidInputError, match="video: the file has no video stream"):
        sample_video(path.read_bytes(), 8, LIMITS)


def test_playlist_of_other_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # FFmpeg would open what these name: files and addresses of the machine that decodes.
    video(tmp_path / "video.mp4")
    monkeypatch.chdir(tmp_path)
    playlists = [
        b"ffconcat version 1.0\nfile video.mp4\n",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nvideo.mp4\n#EXT-X-ENDLIST\n",
    ]
    for playlist in playlists:
        with pytest.raises(InvalidInputError, match="undecodable video"):
            sample_video(playlist, 8, LIMITS)


def test_picture_is_no_video() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    with pytest.raises(InvalidInputError, match="undecodable video"):
        sample_video(buffer.getvalue(), 8, LIMITS)


def test_codec_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    data = video(tmp_path / "video.mkv", codec="ffv1")
    with pytest.raises(InvalidInputError, match="video: the codec ffv1 is none of av1, "):
        sample_video(data, 8, LIMITS)


def test_codec_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    data = video(tmp_path / "video.avi").replace(b"FMP4", b"ZZZZ")
    with pytest.raises(InvalidInputError, match="video: the codec unknown is none of av1, "):
        sample_video(data, 8, LIMITS)


def test_too_many_bytes_are_refused(mp4: bytes) -> None:
    assert len(sample_video(mp4, 8, replace(LIMITS, max_video_bytes=len(mp4)))) == 8
    with pytest.raises(InvalidInputError, match=rf"max_video_bytes, {len(mp4) - 1}\b") as caught:
        sample_video(mp4, 8, replace(LIMITS, max_video_bytes=len(mp4) - 1), "clip")
    assert caught.value.field == "clip"


def test_too_many_decoded_frames_are_refused(mp4: bytes) -> None:
    assert len(sample_video(mp4, 8, replace(LIMITS, max_video_decoded_frames=20))) == 8
    with pytest.raises(InvalidInputError, match=r"max_video_decoded_frames, 19\b"):
        sample_video(mp4, 8, replace(LIMITS, max_video_decoded_frames=19))


@pytest.mark.parametrize("count", [-1, 0, 7])
def test_count_outside_the_limit_is_refused(mp4: bytes, count: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"{count} frames .* max_video_frames, 6\b"):
        sample_video(mp4, count, replace(LIMITS, max_video_frames=6))


def test_frames_of_too_many_pixels_are_refused(mp4: bytes) -> None:
    assert len(sample_video(mp4, 8, replace(LIMITS, max_image_pixels=64 * 64))) == 8
    with pytest.raises(InvalidInputError, match=r"64x64 pixels .* max_image_pixels, 4095\b"):
        sample_video(mp4, 8, replace(LIMITS, max_image_pixels=64 * 64 - 1))
