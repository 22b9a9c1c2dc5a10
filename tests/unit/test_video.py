"""Video files to frames, and what is refused."""

import io
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.video import SampledVideo, sample_video
from vlm2vec_service.settings import Limits

LIMITS = Limits()
STEP = 12
"""Frame ``i`` of every video here is of the gray level ``12 * i``."""


def video(path: Path, frames: int = 20, codec: str = "mpeg4", title: str = "") -> bytes:
    with av.open(str(path), "w") as container:
        container.metadata["title"] = title
        stream = container.add_stream(codec, rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            gray = np.full((64, 64, 3), STEP * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


def indices(sampled: SampledVideo) -> list[int]:
    """Which frames of the video these are, by their gray level."""
    frames = list(sampled.frames("viewed"))
    assert len(frames) == len(sampled)
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
            assert len([*sample_video(damaged.tobytes(), 4, limits).frames("viewed")]) <= 4
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


@pytest.mark.parametrize("container", ["mp4", "mkv", "avi", "flv"])
def test_tags_may_be_in_any_encoding(tmp_path: Path, container: str) -> None:
    path = tmp_path / f"video.{container}"
    codec = "flv" if container == "flv" else "mpeg4"
    data = video(path, codec=codec, title="Ueberraschung")
    assert b"Ueberraschung" in data
    tagged = data.replace(b"Ueberraschung", "Überraschung!".encode("latin-1"))
    assert indices(sample_video(tagged, 3, LIMITS)) == [0, 9, 19]


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


CASES = Path(__file__).parent / "data" / "pictures"
QUARTERS = np.array([[0, 80], [160, 240]])
"""The grey of the quarters of a frame, which differ, so that each turn and mirror of it does."""
ONE = 1 << 16


def turned_video(matrix: tuple[int, int, int, int]) -> bytes:
    """A video of `QUARTERS`, 64x32, with a display matrix of ``a, b, c, d``."""
    a, b, c, d = (value * ONE for value in matrix)
    pixels = QUARTERS.astype(np.uint8).repeat(16, 0).repeat(32, 1)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.stack([pixels] * 3, axis=-1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("matrix", "quarters"),
    [
        ((1, 0, 0, 1), QUARTERS),
        ((0, 1, -1, 0), np.rot90(QUARTERS, -1)),
        ((-1, 0, 0, -1), np.rot90(QUARTERS, 2)),
        ((0, -1, 1, 0), np.rot90(QUARTERS)),
        ((-1, 0, 0, 1), np.fliplr(QUARTERS)),
        ((1, 0, 0, -1), np.flipud(QUARTERS)),
        ((0, 1, 1, 0), QUARTERS.T),
        ((0, -1, -1, 0), np.rot90(QUARTERS, 2).T),
        ((0, 0, 0, 0), QUARTERS),
    ],
)
def test_display_matrix_is_applied(
    matrix: tuple[int, int, int, int], quarters: npt.NDArray[np.int_]
) -> None:
    sampled = sample_video(turned_video(matrix), 2, LIMITS)
    turned = matrix[0] == 0 and any(matrix)
    for decode, size, expected in (
        ("viewed", (32, 64) if turned else (64, 32), quarters),
        ("raw", (64, 32), QUARTERS),
    ):
        assert sampled.sizes(decode) == (size, size)
        for frame in sampled.frames(decode):
            assert frame.size == size
            grey = np.asarray(frame.convert("L")).astype(int)
            middles = grey[size[1] // 4 :: size[1] // 2, size[0] // 4 :: size[0] // 2]
            np.testing.assert_allclose(middles, expected, atol=8)


def test_case_of_a_display_matrix() -> None:
    turned, plain = (
        sample_video((CASES / name).read_bytes(), 8, LIMITS)
        for name in (
            "film-turned-by-its-display-matrix.mp4", "film-the-same-frames-without-it.mp4"
        )
    )  # fmt: skip
    for shown, raw, stored in zip(
        turned.frames("viewed"), turned.frames("raw"), plain.frames("viewed"), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(raw), np.asarray(stored))
        np.testing.assert_array_equal(np.asarray(shown), np.rot90(np.asarray(stored), -1))


def test_transparent_gif_is_put_on_white() -> None:
    first = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    first.paste((0, 0, 255, 255), (0, 0, 32, 64))
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=[first.rotate(180)], disposal=2)
    one, two = sample_video(buffer.getvalue(), 2, LIMITS).frames("viewed")
    blue, white = (0, 0, 255), (255, 255, 255)
    for frame, left, right in ((one, blue, white), (two, white, blue)):
        assert [frame.getpixel((16, 32)), frame.getpixel((48, 32))] == [left, right]
