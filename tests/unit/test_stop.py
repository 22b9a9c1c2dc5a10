"""Decoding that stops: at the deadline, after the server's time, and before it costs too much."""

import io
import math
import struct
import time
from collections.abc import Callable

import av
import numpy as np
import pytest
from PIL import Image

from tests.unit.pictures import gif_of_huge_frames
from tests.unit.recordings import encoded, tones
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import DeadlineError, InvalidInputError
from vlm2vec_service.preprocess import containers, images, video
from vlm2vec_service.preprocess.audio import measure_audio
from vlm2vec_service.preprocess.images import measure_image
from vlm2vec_service.preprocess.limits import check_media
from vlm2vec_service.preprocess.messages import parse_input
from vlm2vec_service.preprocess.pictures import Pictures
from vlm2vec_service.preprocess.stop import CHECK_EVERY, Stop
from vlm2vec_service.preprocess.video import sample_video
from vlm2vec_service.settings import Limits

NOISE = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)


def picture(format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, format, **options)
    return file.getvalue()


def film(codec: str, format: str, side: int = 64, frames: int = 12) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=5)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = side
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for index in range(frames):
            shade = np.full((side, side, 3), index * 20 % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shade, "rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def bmp_of_single_pixels(width: int, height: int) -> bytes:
    """A BMP whose runs, which Pillow reads by the byte, are one pixel long."""
    pixels = (b"\x01\x00" * width + b"\0\0") * height
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 0, 0, 2, 2) + bytes(
        8
    )
    return b"BM" + struct.pack("<IHHI", 62 + len(pixels), 0, 0, 62) + head + pixels


def audio(container: str, codec: str) -> bytes:
    """Two thirds of a second."""
    return encoded(tones(32_000, 48_000), 48_000, container, codec)


class Countdown(Stop):
    """Stops at the check number ``left``."""

    def __init__(self, left: float) -> None:
        super().__init__()
        self.left = left
        self.checks = 0

    def check(self, field: str) -> None:
        self.checks += 1
        if self.checks > self.left:
            self.cancel()
        super().check(field)


def decode_picture(data: bytes, stop: Stop) -> None:
    measure_image(data, Limits(), stop=stop).decoded("viewed")


def decode_film(data: bytes, stop: Stop) -> None:
    for _ in sample_video(data, 4, Limits(), stop=stop).frames("viewed"):
        pass


def decode_audio(data: bytes, stop: Stop) -> None:
    measure_audio(data, Limits(), stop=stop).samples(9.0)


def read_message(data: bytes, stop: Stop) -> None:
    frames = pb.Frames(images=[data] * 3)
    message = pb.Input(parts=[pb.Part(image=data), pb.Part(video=pb.Video(frames=frames))])
    request = parse_input(message, Limits(), 4, stop)
    for source in (request.images, *request.videos):
        list(Pictures.of(source, "viewed"))


@pytest.mark.parametrize(
    ("decode", "data", "least"),
    [
        pytest.param(decode_picture, picture("PNG"), 360_000 // 8192, id="png"),
        pytest.param(decode_picture, picture("JPEG", quality=95), 10, id="jpeg"),
        pytest.param(decode_picture, picture("JPEG", progressive=True), 4, id="progressive"),
        pytest.param(decode_picture, picture("GIF"), 10, id="gif"),
        pytest.param(decode_picture, picture("BMP"), 360_000 // 8192, id="bmp"),
        pytest.param(
            decode_picture, bmp_of_single_pixels(100, 30), 2 * 3000 // CHECK_EVERY, id="rle"
        ),
        pytest.param(decode_picture, picture("TIFF"), 360_000 // 65536, id="tiff"),
        pytest.param(decode_picture, picture("WEBP"), 1, id="webp"),
        pytest.param(decode_film, film("gif", "gif"), 24, id="film gif"),
        pytest.param(decode_film, film("libx264", "mp4"), 24, id="film mp4"),
        pytest.param(decode_film, film("libx264", "mpegts"), 36, id="film mpegts"),
        pytest.param(decode_audio, audio("mp3", "libmp3lame"), 35, id="audio mp3"),
        pytest.param(decode_audio, audio("mpegts", "aac"), 40, id="audio mpegts"),
        pytest.param(read_message, picture("PNG"), 4 * 360_000 // 8192, id="message"),
    ],
)
def test_decoding_stops_wherever_it_is(
    decode: Callable[[bytes, Stop], None], data: bytes, least: int
) -> None:
    whole = Countdown(math.inf)
    decode(data, whole)
    assert whole.checks >= least
    for left in {*range(min(whole.checks, 20)), whole.checks // 2, whole.checks - 1}:
        stop = Countdown(left)
        # The very error, whatever reader was under way.
        with pytest.raises(DeadlineError):
            decode(data, stop)
        assert stop.checks == left + 1


def test_what_stops_says_why() -> None:
    now = time.monotonic()
    Stop().check("input")
    Stop(deadline=now + 60, seconds=60).check("input")
    with pytest.raises(DeadlineError, match="deadline"):
        Stop(deadline=now).check("input")
    with pytest.raises(InvalidInputError, match=r"^parts\[1\].*preprocess_seconds, 2\.5") as error:
        Stop(deadline=now + 60, seconds=2.5, started=now - 3).check("parts[1]")
    assert error.value.field == "parts[1]"
    cancelled = Stop(seconds=60)
    cancelled.cancel()
    with pytest.raises(DeadlineError):
        cancelled.check("input")


@pytest.mark.parametrize("data", [gif_of_huge_frames(7000, 103), film("libx264", "mp4", 1024, 30)])
def test_a_film_of_too_many_pixels_is_refused_before_it_is_decoded(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("it is decoded")

    monkeypatch.setattr(video, "_sample", decoded)
    limits = Limits() if data.startswith(b"GIF") else Limits(max_decoded_pixels=29 * 1024**2)
    with pytest.raises(InvalidInputError, match="max_decoded_pixels") as error:
        sample_video(data, 8, limits, "parts[0].video.file")
    assert error.value.field == "parts[0].video.file"


def test_a_film_whose_frames_grow_is_refused_when_they_are_too_many_pixels() -> None:
    data = film("libx264", "mpegts", 64, 10) + film("libx264", "mpegts", 256, 10)
    assert len(sample_video(data, 8, Limits())) == 8
    with pytest.raises(InvalidInputError, match="max_decoded_pixels"):
        sample_video(data, 8, Limits(max_decoded_pixels=30 * 64**2))


def test_a_film_of_as_many_pixels_as_allowed_is_read() -> None:
    data = film("gif", "gif", 64, 12)
    assert len(sample_video(data, 8, Limits(max_decoded_pixels=12 * 64**2))) == 8
    with pytest.raises(InvalidInputError, match="max_decoded_pixels"):
        sample_video(data, 8, Limits(max_decoded_pixels=12 * 64**2 - 1))


@pytest.mark.parametrize("name", ["images", "video"])
def test_pictures_of_too_many_pixels_together_are_refused(name: str) -> None:
    pixels = Pictures.of([Image.new("RGB", (10, 10))] * 3, "viewed")
    images, videos = ([pixels], []) if name == "images" else ([], [pixels])
    check_media(images, videos, Limits(max_decoded_pixels=300))
    with pytest.raises(InvalidInputError, match=r"300 pixels in all.*max_decoded_pixels, 299"):
        check_media(images, videos, Limits(max_decoded_pixels=299))


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there until it has ``count`` scans."""
    data = picture("JPEG", progressive=True)
    places = [i for i in range(len(data)) if data[i : i + 2] == b"\xff\xda"]
    end = data.rindex(b"\xff\xd9")
    return data[:end] + data[places[-1] : end] * (count - len(places)) + data[end:]


def test_a_jpeg_of_many_scans_is_refused() -> None:
    decode_picture(scans(images.MOST_SCANS), Stop())
    for count in (images.MOST_SCANS + 1, 200):
        with pytest.raises(InvalidInputError, match="more than 32 scans"):
            measure_image(scans(count), Limits())
    # A fill byte, a marker without a length, and one that the decoder passes over between scans.
    head, *tail = scans(40).split(b"\xff\xda")
    for between in (b"\xff", b"\xff\x01", b"\xff\xd3", b"\xff\xfe\0\x04\xff\xd9"):
        disguised = head + b"\xff\xda" + (between + b"\xff\xda").join(tail)
        with pytest.raises(InvalidInputError, match="more than 32 scans"):
            measure_image(disguised, Limits())


def test_what_only_looks_like_scans_is_none() -> None:
    lookalike = b"\xff\xda\0\x02" * 100
    data = picture("JPEG", progressive=True, comment=lookalike)
    decode_picture(data + lookalike, Stop())


@pytest.mark.parametrize("data", [b"\0\0\0\x08free" * 50_000, b"RIFF\0\0\0\0AVI " + bytes(400_000)])
def test_opening_a_film_can_stop(data: bytes) -> None:
    stop = Stop()
    stop.cancel()
    with pytest.raises(InvalidInputError):
        sample_video(data, 8, Limits())
    with pytest.raises(DeadlineError):
        sample_video(data, 8, Limits(), stop=stop)


def test_the_pieces_of_a_gif_and_the_pages_of_an_ogg_are_walked_so_far_and_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces = b"GIF89a" + bytes(7) + b"\x21\xf9" + b"\x01\0" * 50
    page = b"OggS" + bytes(22) + b"\0"
    assert containers.is_cut_off(pieces, "gif")
    assert containers.is_cut_off(page * 50, "ogg")
    monkeypatch.setattr(containers, "MOST_ELEMENTS", 20)
    assert not containers.is_cut_off(pieces, "gif")
    assert not containers.is_cut_off(page * 50, "ogg")
