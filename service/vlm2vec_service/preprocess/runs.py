"""Some frames of a film without decoding all of it: runs of packets, each from a key frame on.

This is for films whose container tells when each frame is shown, and whose frames are then those
that decoding everything gives, bit for bit. What is decoded is compared with what the container
says; where they differ, `Unplannable` says that all has to be decoded.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import av

CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
"""FFmpeg's names of the containers that tell when each frame is shown."""
CODECS = ("av1", "h264", "hevc", "vp9")
"""The codecs whose packets hold one frame that is shown, and whose key frames can be told."""
NEAR = 32
"""Packets between two runs that are decoded rather than skipped: a decoder gives its frames out
later than it takes their packets."""
IDR, NOT_IDR = 5, 1
"""Types of H.264's units: a picture behind which nothing refers to what was before it, another."""


class Unplannable(ValueError):
    """The film has to be decoded whole."""


@dataclass(frozen=True)
class Shown:
    """A packet whose frame is shown, and when: its place, and whether decoding may begin there."""

    place: int
    time: int
    starts: bool


@dataclass(frozen=True)
class Run:
    """Packets from the place ``first`` on, up to where the last of the ``wanted`` frames is out.

    ``times`` are those of all frames that have to come, in order and from the first packet's on;
    ``wanted`` are some of them.
    """

    first: int
    times: tuple[int, ...]
    wanted: frozenset[int]


def packets_shown(
    container: av.container.InputContainer, stream: av.VideoStream
) -> list[Shown] | None:
    """Lists the packets of a film as they are shown; None where its container or codec, or what
    its packets say, does not tell."""
    context = stream.codec_context
    tells = container.format.name in CONTAINERS and context.codec.canonical_name in CODECS
    extra = context.extradata or b""
    if not tells or (context.codec.canonical_name == "h264" and (len(extra) < 5 or extra[0] != 1)):
        return None
    shown = []
    for place, packet in enumerate(container.demux(stream)):
        if packet.size and not packet.is_discard:
            if packet.pts is None or packet.is_corrupt:
                return None
            starts = packet.is_keyframe
            if starts and context.codec.canonical_name == "h264":
                starts = _begins_with_idr(bytes(packet), 1 + (extra[4] & 3))
            shown.append(Shown(place, packet.pts, starts))
    shown.sort(key=lambda packet: packet.time)
    times = {packet.time for packet in shown}
    return shown if shown and shown[0].starts and len(times) == len(shown) else None


def _begins_with_idr(packet: bytes, length_bytes: int) -> bool:
    """Whether the first picture in a packet of H.264, of units behind their lengths, is an IDR."""
    place = 0
    while place + length_bytes < len(packet):
        kind = packet[place + length_bytes] & 31
        if kind in (IDR, NOT_IDR):
            return kind == IDR
        place += length_bytes + int.from_bytes(packet[place : place + length_bytes], "big")
    return False


def plan(shown: Sequence[Shown], wanted: Sequence[int]) -> tuple[tuple[Run, ...], int]:
    """Plans runs for the frames at the indices ``wanted``, in order; and counts their packets.

    A run begins at the last packet that may begin one, is shown no later than the frame and stands
    before it in the file: what is shown before the packet that it stands behind may refer to more.
    Raises `Unplannable`.
    """
    starts = [index for index, packet in enumerate(shown) if packet.starts]
    spans: list[tuple[int, list[int]]] = []
    last = 0
    for index in wanted:
        begin = bisect_right(starts, index) - 1
        while begin >= 0 and shown[starts[begin]].place > shown[index].place:
            begin -= 1
        if begin < 0:
            raise Unplannable("a frame before the first key frame")
        first = starts[begin]
        if spans and shown[first].place <= last + NEAR:
            spans[-1][1].append(index)
        else:
            spans.append((first, [index]))
        last = max(last, shown[index].place)
    runs, packets = [], 0
    for first, indices in spans:
        span = shown[first : indices[-1] + 1]
        times = frozenset(shown[index].time for index in indices)
        runs.append(Run(span[0].place, tuple(packet.time for packet in span), times))
        packets += max(packet.place for packet in span) - span[0].place + 1
    return tuple(runs), packets


def decode(
    context: av.VideoCodecContext,
    packets: "Iterator[av.Packet[av.VideoStream]]",
    runs: Sequence[Run],
) -> Iterator[av.VideoFrame]:
    """Decodes the frames that ``runs`` want from all ``packets`` of a film.

    Raises `Unplannable` where other frames come than should, and FFmpeg's errors.
    """
    waiting = list(runs)
    due: list[int] = []  # times of the frames that have to come, the next one last
    run = waiting[0]
    for place, packet in enumerate(packets):
        if waiting and place == waiting[0].first:
            if due:
                raise Unplannable("frames of the run before are missing")
            if place:
                context.flush_buffers()
            run = waiting.pop(0)
            due = list(reversed(run.times))
        if not due:
            continue
        for frame in packet.decode():
            if not due or frame.pts is None or frame.pts < run.times[0]:
                continue
            begins = frame.pts == run.times[0]
            if frame.pts != due.pop() or frame.is_corrupt or (begins and not frame.key_frame):
                raise Unplannable("another frame than was due")
            if frame.pts in run.wanted:
                yield frame
    if due or waiting:
        raise Unplannable("frames are missing at the end")
