"""Video files to RGB frames, sampled uniformly and decoded by PyAV."""

import contextlib
import io
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import av
import numpy as np
from PIL import Image

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.containers import is_cut_off
from vlm2vec_service.preprocess.images import check_pixels, check_size
from vlm2vec_service.preprocess.stop import NEVER, Stop
from vlm2vec_service.preprocess.viewed import on_white
from vlm2vec_service.settings import Limits

FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,gif"
"""The containers that are read, by FFmpeg's names (mov is mp4 too, matroska is webm). Playlists
are not among them: they name other files, which FFmpeg would open on the machine that decodes."""
CODECS = {
    "av1", "flv1", "gif", "h263", "h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4",
    "msmpeg4v2", "msmpeg4v3", "prores", "theora", "vc1", "vp8", "vp9", "wmv1", "wmv2", "wmv3",
}  # fmt: skip
"""The codecs that are decoded. FFmpeg's rarer decoders give pixel formats that its conversion to
RGB does not know, of which one even ends the process."""


WITHOUT_LENGTHS = ("mpegts", "mpeg")
"""The containers that may be cut between two packets without a trace but in the last frame."""
MOST_TAIL = 1_000
"""Packets of such a container that are decoded once more, at most, of each of its last two groups:
the frames behind a key frame may refer to those before it."""
CUT_OFF = "the file is cut off: there is less of it than it says"
Turn = tuple[tuple[int, int], tuple[int, int]]
"""A display matrix of quarter turns and mirrors: where a frame's x and y axes go, as x and y."""
UPRIGHT: Turn = ((1, 0), (0, 1))
TURNS: dict[Turn, Image.Transpose] = {
    ((-1, 0), (0, 1)): Image.Transpose.FLIP_LEFT_RIGHT,
    ((-1, 0), (0, -1)): Image.Transpose.ROTATE_180,
    ((1, 0), (0, -1)): Image.Transpose.FLIP_TOP_BOTTOM,
    ((0, 1), (1, 0)): Image.Transpose.TRANSPOSE,
    ((0, 1), (-1, 0)): Image.Transpose.ROTATE_270,
    ((0, -1), (-1, 0)): Image.Transpose.TRANSVERSE,
    ((0, -1), (1, 0)): Image.Transpose.ROTATE_90,
}
"""What turns a frame as a player shows it; `UPRIGHT` is as it is."""


@dataclass(frozen=True)
class SampledVideo:
    """A video file that has been decoded once, and which of its frames are sampled.

    ``wanted`` are their indices, ``stored`` the width and height of each before it is turned as
    ``turn`` says, the display matrix of the first. ``field`` is where the file stands in the input,
    for errors; ``stop`` says until when it may be decoded.
    """

    data: bytes = field(repr=False)
    field: str
    wanted: tuple[int, ...]
    stored: tuple[tuple[int, int], ...]
    turn: Turn
    stop: Stop = NEVER

    def __len__(self) -> int:
        return len(self.wanted)

    def sizes(self, decode: str) -> tuple[tuple[int, int], ...]:
        """Tells the width and height of each of the `frames`."""
        turned = decode != "raw" and self.turn[0][0] == 0
        return tuple(
            (height, width) if turned else (width, height) for width, height in self.stored
        )

    def frames(self, decode: str) -> Iterator[Image.Image]:
        """Decodes the sampled frames to RGB, one after the other.

        ``decode`` is ``viewed``, turned by the display matrix and on white where they are
        transparent, or ``raw``. Raises `InvalidInputError`, and what `Stop.check` does.
        """
        try:
            with _opened(self.data, self.field) as (container, stream):
                packets = _packets(container, stream, self.stop, self.field)
                decoded = (frame for packet in packets for frame in packet.decode())
                for index, frame in enumerate(islice(decoded, self.wanted[-1] + 1)):
                    if index in self.wanted:
                        yield _rgb(frame, self.turn, decode)
        except (av.FFmpegError, ValueError) as error:
            raise InvalidInputError(self.field, f"undecodable video: {error}") from error


def sample_video(
    data: bytes, count: int, limits: Limits, field: str = "video", stop: Stop = NEVER
) -> SampledVideo:
    """Chooses ``count`` frames of the first video stream in ``data``.

    Frame ``floor(i * (n - 1) / (count - 1))`` of ``n`` is taken for each ``i``, as the models
    were trained; a video with fewer frames than ``count`` gives all it has. The file is decoded
    here to count and measure the frames, and again for their pixels, so that memory holds one
    frame however long the video is. Raises `InvalidInputError` that names ``field``, also for a
    file that is cut off, and what `Stop.check` does.
    """
    if len(data) > limits.max_video_bytes:
        raise InvalidInputError(
            field, f"{len(data)} bytes are more than max_video_bytes, {limits.max_video_bytes}"
        )
    if not 1 <= count <= limits.max_video_frames:
        raise InvalidInputError(
            field, f"{count} frames are not in 1 to max_video_frames, {limits.max_video_frames}"
        )
    try:
        _check_file(data, limits, field)
        return _sample(data, count, limits, field, stop)
    except (av.FFmpegError, ValueError) as error:
        raise InvalidInputError(field, f"undecodable video: {error}") from error


def _check_file(data: bytes, limits: Limits, field: str) -> None:
    """Refuses a file that is cut off, and one with too many pixels in all its frames, before one of
    them is decoded."""
    with _opened(data, field) as (container, stream):
        if is_cut_off(data, container.format.name):
            raise InvalidInputError(field, CUT_OFF)
        width, height = stream.codec_context.width, stream.codec_context.height
        if width and height:
            check_size((width, height), limits, field)
            frames = sum(packet.size > 0 for packet in container.demux(stream))
            check_pixels(frames * width * height, limits, field)


def _sample(data: bytes, count: int, limits: Limits, field: str, stop: Stop) -> SampledVideo:
    stored: list[tuple[int, int]] = []
    pixels = 0
    turn: Turn | None = None
    with _opened(data, field) as (container, stream):
        groups: deque[deque[av.Packet[av.VideoStream]]] = deque(maxlen=2)
        for packet in _packets(container, stream, stop, field):
            if container.format.name in WITHOUT_LENGTHS and packet.size:
                if packet.is_keyframe or not groups:
                    groups.append(deque(maxlen=MOST_TAIL))
                groups[-1].append(packet)
            for frame in packet.decode():
                if len(stored) == limits.max_video_decoded_frames:
                    raise InvalidInputError(
                        field,
                        f"more frames than max_video_decoded_frames, "
                        f"{limits.max_video_decoded_frames}",
                    )
                size = (frame.width, frame.height)
                check_size(size, limits, field)
                pixels += frame.width * frame.height
                check_pixels(pixels, limits, field)  # a frame may be larger than the file says
                stored.append(size)
                # Of the first frame only: looking at what is beside a frame keeps the frame in
                # memory until the next garbage collection.
                turn = turn or _turn(frame)
        tail = [packet for group in groups for packet in group]
        if tail and not _last_is_whole(stream.codec_context, tail, stop, field):
            raise InvalidInputError(field, CUT_OFF)
    if not stored:
        raise InvalidInputError(field, "the video holds no frame")
    chosen = np.linspace(0, len(stored) - 1, min(count, len(stored)), dtype=int).tolist()
    return SampledVideo(
        data, field, tuple(chosen), tuple(stored[index] for index in chosen), turn or UPRIGHT, stop
    )


@contextlib.contextmanager
def _opened(
    data: bytes, field: str
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    options = {"format_whitelist": FORMATS}
    with av.open(io.BytesIO(data), mode="r", options=options) as container:
        if not container.streams.video:
            raise InvalidInputError(field, "the file has no video stream")
        stream = container.streams.video[0]
        context = stream.codec_context  # None where FFmpeg knows no decoder
        codec = context.codec.canonical_name if context else "unknown"
        if codec not in CODECS:
            raise InvalidInputError(
                field, f"the codec {codec} is none of {', '.join(sorted(CODECS))}"
            )
        yield container, stream


def _packets(
    container: av.container.InputContainer, stream: av.VideoStream, stop: Stop, field: str
) -> "Iterator[av.Packet[av.VideoStream]]":
    """The packets of ``stream`` in order, until the decoding is to stop."""
    for packet in container.demux(stream):
        stop.check(field)
        yield packet


def _last_is_whole(
    context: av.VideoCodecContext,
    packets: "Sequence[av.Packet[av.VideoStream]]",
    stop: Stop,
    field: str,
) -> bool:
    """Decodes ``packets``, the end of a stream, by a decoder that does not conceal errors, and says
    whether the last of them has none."""
    strict = av.VideoCodecContext.create(context.codec.name, "r")
    assert isinstance(strict, av.VideoCodecContext)
    strict.extradata = context.extradata
    strict.options = {"err_detect": "explode"}
    for packet in packets[:-1]:
        stop.check(field)
        with contextlib.suppress(av.FFmpegError):  # damage before the end is none of it
            strict.decode(packet)
    try:
        strict.decode(packets[-1])
    except av.FFmpegError:
        return False
    return True


def _turn(frame: av.VideoFrame) -> Turn:
    """Reads a frame's display matrix, to the nearest quarter turn."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()  # type: ignore[call-overload]
    across = abs(a) >= abs(b)
    turn = (_axis(a, 0), _axis(0, d)) if across else (_axis(0, b), _axis(c, 0))
    return turn if turn in TURNS else UPRIGHT


def _axis(x: int, y: int) -> tuple[int, int]:
    return ((x > 0) - (x < 0), (y > 0) - (y < 0))


def _rgb(frame: av.VideoFrame, turn: Turn, decode: str) -> Image.Image:
    if decode == "raw":
        return Image.fromarray(frame.to_ndarray(format="rgb24"))
    if any(component.is_alpha for component in frame.format.components):
        picture = on_white(Image.fromarray(frame.to_ndarray(format="rgba")))
    else:
        picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
    return picture if turn == UPRIGHT else picture.transpose(TURNS[turn])
