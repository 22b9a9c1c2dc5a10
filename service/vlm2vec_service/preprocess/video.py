"""Video files to RGB frames, sampled and decoded by PyAV."""

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import av
import numpy as np
from PIL import Image

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.containers import CUT_OFF, UNDECODABLE, check_codec, is_cut_off
from vlm2vec_service.preprocess.images import check_pixels, check_size
from vlm2vec_service.preprocess.runs import Run, Unplannable, packets_shown, plan
from vlm2vec_service.preprocess.runs import decode as decode_runs
from vlm2vec_service.preprocess.sampling import USUAL_FPS, FrameCount, Sampling
from vlm2vec_service.preprocess.stop import NEVER, Stop, StoppableMedia
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

    ``wanted`` are their indices among ``total``, of which there are ``fps`` a second; ``stored`` is
    the width and height of each before it is turned as ``turn`` says, the display matrix of the
    first. ``runs`` are all that has to be decoded for them; without any, everything up to the last
    has to be. ``field`` is where the file stands in the input, for errors; ``stop`` says until when
    it may be decoded.
    """

    data: bytes = field(repr=False)
    field: str
    wanted: tuple[int, ...]
    total: int
    fps: float
    stored: tuple[tuple[int, int], ...]
    turn: Turn
    runs: tuple[Run, ...] = ()
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
            with _opened(self.data, self.stop, self.field) as (container, stream):
                packets = _packets(container, stream, self.stop, self.field)
                if self.runs:
                    frames = decode_runs(stream.codec_context, packets, self.runs)
                else:
                    decoded = (frame for packet in packets for frame in packet.decode())
                    numbered = enumerate(islice(decoded, self.wanted[-1] + 1))
                    frames = (frame for index, frame in numbered if index in self.wanted)
                for frame in frames:
                    yield _rgb(frame, self.turn, decode)
        except UNDECODABLE as error:
            raise InvalidInputError(self.field, f"undecodable video: {error}") from error


def sample_video(
    data: bytes, wanted: int | Sampling, limits: Limits, field: str = "video", stop: Stop = NEVER
) -> SampledVideo:
    """Chooses frames of the first video stream in ``data``: as ``wanted`` says, or so many, as
    `FrameCount` does.

    The file is decoded here to count and measure the frames, and again for their pixels, so that
    memory holds one frame however long the video is. Of a file that tells when each frame is shown,
    only what the sampled ones need is decoded. Raises `InvalidInputError` that names ``field``,
    also for a file that is cut off, and what `Stop.check` does.
    """
    if len(data) > limits.max_video_bytes:
        raise InvalidInputError(
            field, f"{len(data)} bytes are more than max_video_bytes, {limits.max_video_bytes}"
        )
    sampling = FrameCount(wanted) if isinstance(wanted, int) else wanted
    if isinstance(sampling, FrameCount) and not 1 <= sampling.count <= limits.max_video_frames:
        raise InvalidInputError(
            field,
            f"{sampling.count} frames are not in 1 to max_video_frames, {limits.max_video_frames}",
        )
    try:
        _check_whole(data, limits, field, stop)
        try:
            return _sample_runs(data, sampling, limits, field, stop)
        except UNDECODABLE:  # as good a reason as any to look at all
            _check_all(data, limits, field, stop)
            return _sample(data, sampling, limits, field, stop)
    except UNDECODABLE as error:
        raise InvalidInputError(field, f"undecodable video: {error}") from error


def _check_whole(data: bytes, limits: Limits, field: str, stop: Stop) -> None:
    """Refuses a file that is cut off, and one with frames that are too large."""
    with _opened(data, stop, field) as (container, stream):
        if is_cut_off(data, container.format.name):
            raise InvalidInputError(field, CUT_OFF)
        width, height = stream.codec_context.width, stream.codec_context.height
        if width and height:
            check_size((width, height), limits, field)


def _sample_runs(
    data: bytes, sampling: Sampling, limits: Limits, field: str, stop: Stop
) -> SampledVideo:
    """Samples a file of which not all has to be decoded. Raises `Unplannable` for any other."""
    with _opened(data, stop, field) as (container, stream):
        shown = packets_shown(container, stream)
        width, height = stream.codec_context.width, stream.codec_context.height
        fps = _fps(stream)
    if not shown or not width or not height:
        raise Unplannable("the file does not tell its frames")
    _check_frames(len(shown), limits, field)
    wanted = _indices(sampling, len(shown), fps, limits, field)
    runs, packets = plan(shown, wanted)
    check_pixels(packets * width * height, limits, field)
    stored: list[tuple[int, int]] = []
    turn: Turn | None = None
    with _opened(data, stop, field) as (container, stream):
        for frame in decode_runs(
            stream.codec_context, _packets(container, stream, stop, field), runs
        ):
            check_size((frame.width, frame.height), limits, field)
            stored.append((frame.width, frame.height))
            turn = turn or _turn(frame)
    return SampledVideo(
        data, field, wanted, len(shown), fps, tuple(stored), turn or UPRIGHT, runs, stop
    )


def _indices(
    sampling: Sampling, frames: int, fps: float, limits: Limits, field: str
) -> tuple[int, ...]:
    wanted = sampling.indices(frames, fps)
    if not wanted:
        raise InvalidInputError(field, f"{frames} frames are too few: the model takes pairs of two")
    if len(wanted) > limits.max_video_frames:
        raise InvalidInputError(
            field,
            f"the model takes {len(wanted)} frames of it, more than max_video_frames, "
            f"{limits.max_video_frames}",
        )
    return wanted


def _fps(stream: av.VideoStream) -> float:
    return float(stream.average_rate or USUAL_FPS)


def _check_frames(frames: int, limits: Limits, field: str) -> None:
    if frames > limits.max_video_decoded_frames:
        raise InvalidInputError(
            field,
            f"more frames than max_video_decoded_frames, {limits.max_video_decoded_frames}",
        )


def _check_all(data: bytes, limits: Limits, field: str, stop: Stop) -> None:
    """Refuses a file with too many pixels in all its frames, before one of them is decoded."""
    with _opened(data, stop, field) as (container, stream):
        width, height = stream.codec_context.width, stream.codec_context.height
        if width and height:
            frames = sum(packet.size > 0 for packet in container.demux(stream))
            check_pixels(frames * width * height, limits, field)


def _sample(
    data: bytes, sampling: Sampling, limits: Limits, field: str, stop: Stop
) -> SampledVideo:
    """Samples a file by decoding all of it."""
    stored: list[tuple[int, int]] = []
    pixels = 0
    turn: Turn | None = None
    with _opened(data, stop, field) as (container, stream):
        fps = _fps(stream)
        groups: deque[deque[av.Packet[av.VideoStream]]] = deque(maxlen=2)
        for packet in _packets(container, stream, stop, field):
            if container.format.name in WITHOUT_LENGTHS and packet.size:
                if packet.is_keyframe or not groups:
                    groups.append(deque(maxlen=MOST_TAIL))
                groups[-1].append(packet)
            for frame in packet.decode():
                _check_frames(len(stored) + 1, limits, field)
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
    wanted = _indices(sampling, len(stored), fps, limits, field)
    sizes = tuple(stored[index] for index in wanted)
    return SampledVideo(data, field, wanted, len(stored), fps, sizes, turn or UPRIGHT, (), stop)


@contextlib.contextmanager
def _opened(
    data: bytes, stop: Stop, field: str
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    options = {"format_whitelist": FORMATS}
    # Of tags nothing is read, and many are in no encoding that PyAV could tell.
    file = StoppableMedia(data, stop, field)
    with av.open(file, "r", options=options, metadata_errors="ignore") as container:
        if not container.streams.video:
            raise InvalidInputError(field, "the file has no video stream")
        stream = container.streams.video[0]
        check_codec(stream, CODECS, field)
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
