"""Frames of a film of which not all is decoded: the same, bit for bit, as when all of it is."""

import io
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import pytest

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess import video
from vlm2vec_service.preprocess.runs import Shown, Unplannable, plan
from vlm2vec_service.preprocess.video import SampledVideo, sample_video
from vlm2vec_service.settings import Limits

FRAMES, BETWEEN_KEYS = 200, 45
SIDE = 64
FILMS: list[tuple[str, str, dict[str, str]]] = [
    ("libx264", "mp4", {}),
    ("libx264", "matroska", {"bf": "0"}),
    ("libx264", "mov", {"x264-params": "interlaced=1"}),
    ("libx265", "mp4", {"x265-params": "log-level=0"}),
    ("libx265", "matroska", {"x265-params": f"log-level=0:open-gop=1:keyint={BETWEEN_KEYS}"}),
    ("libvpx-vp9", "webm", {"cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    ("libsvtav1", "mp4", {"preset": "12"}),
]
"""Codec, container and options of films with several places to begin at."""


def film(codec: str, container: str, options: dict[str, str]) -> bytes:
    """A picture that moves, with a key frame every `BETWEEN_KEYS`."""
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    buffer = io.BytesIO()
    scene = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    with av.open(buffer, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        stream.codec_context.gop_size = BETWEEN_KEYS
        for index in range(FRAMES):
            pixels = np.roll(scene, 3 * index, axis=1)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def changed(data: bytes, change: Callable[[int, Any], None]) -> bytes:
    """The film with packets that are ``change``d: each is given with its place."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data), "r") as source, av.open(buffer, "w", "matroska") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for place, packet in enumerate(source.demux(video=0)):
            if packet.size:
                change(place, packet)
                packet.stream = stream
                output.mux(packet)
    return buffer.getvalue()


def pixels(sampled: SampledVideo) -> list[Any]:
    return [np.asarray(frame).tolist() for frame in sampled.frames("viewed")]


def by_all(data: bytes, count: int, monkeypatch: pytest.MonkeyPatch) -> SampledVideo:
    """Samples by decoding everything."""
    with monkeypatch.context() as patched:
        patched.setattr(video, "packets_shown", lambda *_: None)
        sampled = sample_video(data, count, Limits())
    assert sampled.runs == ()
    return sampled


@pytest.mark.parametrize(("codec", "container", "options"), FILMS)
def test_the_same_frames_from_less(
    codec: str, container: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = film(codec, container, options)
    for count, runs in ((1, 1), (3, 3), (8, 1)):  # of eight, each begins near the end of another
        sampled, whole = sample_video(data, count, Limits()), by_all(data, count, monkeypatch)
        assert len(sampled.runs) == runs
        assert (sampled.wanted, sampled.stored) == (whole.wanted, whole.stored)
        assert pixels(sampled) == pixels(whole)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"x264-params": "open-gop=1:bframes=3"}),
        ("libx264", {"intra-refresh": "1"}),
    ],
)
def test_decoding_begins_only_where_nothing_before_is_needed(
    codec: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = film(codec, "mp4", options)
    sampled = sample_video(data, 3, Limits())
    assert [run.first for run in sampled.runs] == [0]
    assert pixels(sampled) == pixels(by_all(data, 3, monkeypatch))


def no_key_frame(place: int, packet: Any) -> None:
    packet.is_keyframe = True


def twice_at_a_time(place: int, packet: Any) -> None:
    packet.pts = packet.dts = packet.pts - packet.pts % 80


def damaged(place: int, packet: Any) -> None:
    if place == FRAMES * 3 // 5:  # in the run of the third of four frames
        packet.update(bytes(packet)[: packet.size // 2] + bytes(packet.size - packet.size // 2))


@pytest.mark.parametrize("change", [no_key_frame, twice_at_a_time, damaged])
@pytest.mark.parametrize("codec", ["libvpx-vp9", "libx264"])
def test_files_that_say_what_is_not_so_are_decoded_whole(
    codec: str, change: Callable[[int, Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = changed(film(codec, "matroska", {"bf": "0"}), change)
    try:
        whole = by_all(data, 4, monkeypatch)
    except InvalidInputError as error:
        with pytest.raises(InvalidInputError, match=error.problem[:20]):
            sample_video(data, 4, Limits())
    else:
        assert pixels(sample_video(data, 4, Limits())) == pixels(whole)


@pytest.mark.parametrize(
    ("codec", "container"), [("libx264", "mp4"), ("libx264", "matroska"), ("libvpx-vp9", "webm")]
)
def test_damaged_bytes_raise_nothing_but_invalid_input(codec: str, container: str) -> None:
    data = np.frombuffer(film(codec, container, {}), np.uint8)
    rng = np.random.default_rng(0)
    limits = Limits(max_image_pixels=100_000, max_video_decoded_frames=2 * FRAMES)
    head = np.concatenate([np.arange(1000), np.arange(len(data) - 3000, len(data))])
    for places in (head, np.arange(len(data))):
        for _ in range(20):
            damaged = data.copy()
            damaged[rng.choice(places, 4)] = rng.integers(0, 256, 4)
            try:
                assert len([*sample_video(damaged.tobytes(), 4, limits).frames("viewed")]) <= 4
            except InvalidInputError as error:
                assert error.field == "video"  # noqa: PT017 (both outcomes are right)


def test_frames_before_any_key_frame_are_nothing_to_plan() -> None:
    shown = [Shown(5, 0, True), Shown(2, 1, False), Shown(6, 2, False)]
    with pytest.raises(Unplannable):
        plan(shown, [0, 1, 2])


@pytest.mark.parametrize(("codec", "container"), [("mpeg4", "mp4"), ("libx264", "mpegts")])
def test_other_films_are_decoded_whole(codec: str, container: str) -> None:
    assert sample_video(film(codec, container, {}), 3, Limits()).runs == ()


def test_only_what_is_decoded_counts() -> None:
    data = film("libx264", "mp4", {"bf": "0"})
    sampled = sample_video(data, 3, Limits())
    decoded = sum(len(run.times) for run in sampled.runs)
    assert decoded < FRAMES / 2
    limits = Limits(max_decoded_pixels=decoded * SIDE * SIDE)
    assert len(sample_video(data, 3, limits)) == 3
    with pytest.raises(InvalidInputError, match="max_decoded_pixels"):
        sample_video(data, 3, Limits(max_decoded_pixels=decoded * SIDE * SIDE - 1))
    with pytest.raises(InvalidInputError, match=rf"max_video_decoded_frames, {FRAMES - 1}$"):
        sample_video(data, 3, Limits(max_video_decoded_frames=FRAMES - 1))


def test_ten_minutes_of_a_camera_are_within_the_default() -> None:
    """1920x1080, 30 frames a second, a key frame every 250."""
    assert Limits().max_decoded_pixels >= 8 * 250 * 1920 * 1080
    assert Limits().max_video_decoded_frames >= 10 * 60 * 30
