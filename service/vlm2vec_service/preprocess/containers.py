"""What the containers of video and audio say: of their codecs, and whether they are cut off.

FFmpeg plays what is there of a file without a word, which is right for a player; a vector of it
would be one of another video.
"""

import struct
from collections.abc import Callable

import av

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess import audio_containers
from vlm2vec_service.preprocess.elements import MOST_ELEMENTS, Ends, number, overshoots

CUT_OFF = "the file is cut off: there is less of it than it says"
UNDECODABLE = (av.FFmpegError, ValueError, LookupError)
"""What PyAV raises on hostile bytes: the last of them where a stream appears that the file's head
does not have."""


def check_codec(stream: av.VideoStream | av.AudioStream, codecs: set[str], field: str) -> None:
    """Refuses a stream whose codec, by FFmpeg's name, is none of ``codecs``.

    Raises `InvalidInputError` that names ``field``.
    """
    context = stream.codec_context  # None where FFmpeg knows no decoder
    codec = context.codec.canonical_name if context else "unknown"
    if codec not in codecs:
        raise InvalidInputError(field, f"the codec {codec} is none of {', '.join(sorted(codecs))}")


def is_cut_off(data: bytes, format: str) -> bool:
    """Says whether a file of FFmpeg's ``format`` says of itself that it is longer than ``data``.

    False where the container has no lengths to say so: a transport stream that ends between two of
    its packets, or a live recording between two of its blocks.
    """
    check = CHECKS.get(format)
    try:
        return check is not None and check(data)
    except IndexError:  # an element's own head is cut
        return True


def _mp4(data: bytes) -> bool:
    return overshoots(_boxes(data), len(data))


def _boxes(data: bytes) -> Ends:
    place = 0
    while place + 8 <= len(data):
        length = number(data, place, 4)
        if length == 1:
            length = number(data, place + 8, 8)
        if length < 8:  # to the end of the file, or no box
            return
        place += length
        yield place


def _matroska(data: bytes) -> bool:
    return overshoots(_ebml(data), len(data))


SEGMENT, CLUSTER = 0x18538067, 0x1F43B675


def _ebml(data: bytes) -> Ends:
    """The ends of the heads and of the segment; where that has no length, of what is below it."""
    place, id = 0, None
    while place < len(data) and id != SEGMENT:
        id, start = _vint(data, place, marked=True)
        length, start = _vint(data, start)
        if length is not None:
            place = start + length
            yield place
        elif id in (SEGMENT, CLUSTER):  # written live: its children follow
            place, id = start, None
        else:
            return


def _vint(data: bytes, place: int, *, marked: bool = False) -> tuple[int | None, int]:
    """EBML's number at ``place`` and where it ends; None is a length that is not known."""
    size = 9 - data[place].bit_length()
    value = number(data, place, size)
    if marked:
        return value, place + size
    value &= (1 << 7 * size) - 1
    return (None if value == (1 << 7 * size) - 1 else value), place + size


def _avi(data: bytes) -> bool:
    # Some writers count the eight bytes of the head too, or leave the padding out.
    return overshoots((end - 8 for end in _riffs(data)), len(data))


def _riffs(data: bytes) -> Ends:
    place, live = 0, False
    while place < len(data) and (live or data[place : place + 4] == b"RIFF"):
        length = number(data, place + 4, 4, "little")
        if length not in (0, 0xFFFFFFFF):
            place += 8 + length + length % 2
        else:  # written live: the chunks of a list follow
            live = True
            place += 12 if data[place : place + 4] in (b"RIFF", b"LIST") else 8
        yield place


def _mpegts(data: bytes) -> bool:
    """A transport stream has packets of one size; what is cut off ends within one."""
    for size, before in ((188, 0), (192, 4), (204, 0)):
        for sync in range(before, size + before):
            places = range(sync, min(len(data), sync + 8 * size), size)
            if len(places) > 1 and all(data[place] == 0x47 for place in places):
                return (len(data) - sync + before) % size != 0
    return False


def _mpegps(data: bytes) -> bool:
    return overshoots(_packs(data), len(data))


def _packs(data: bytes) -> Ends:
    place = 0
    while data[place : place + 3] == b"\0\0\1":
        kind = number(data, place + 3, 1)
        if kind == 0xB9:  # the end of the program
            place += 4
        elif kind == 0xBA:
            mpeg2 = data[place + 4] >> 6 == 1
            place += 14 + (number(data, place + 13, 1) & 7) if mpeg2 else 12
        else:
            place += 6 + number(data, place + 4, 2)
        yield place


def _flv(data: bytes) -> bool:
    place = data.find(b"filesize\0", 0, 4096) + len(b"filesize\0")
    if (
        place > 9
        and len(data) >= place + 8
        and struct.unpack_from(">d", data, place)[0] > len(data)
    ):
        return True
    return overshoots(_tags(data), len(data))


def _tags(data: bytes) -> Ends:
    place = number(data, 5, 4) + 4
    while place < len(data):
        place += 11 + number(data, place + 1, 3) + 4
        yield place


FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
SIMPLE_INDEX = bytes.fromhex("90080033b1e5cf1189f400a0c90349cb")
"""The names of two of ASF's objects."""


def _asf(data: bytes) -> bool:
    place = data.find(FILE_PROPERTIES, 0, 1 << 16)
    if place < 0 or not number(data, place + 88, 4, "little") & 1:
        return overshoots(_objects(data), len(data))
    # Written live: after the heads of two objects there are packets of one size, and an index.
    start = number(data, 16, 8, "little") + 50
    size = number(data, place + 92, 4, "little") or 1
    index = data.rfind(SIMPLE_INDEX)
    end = index if index >= 0 else len(data)
    return (end - start) % size != 0


def _objects(data: bytes) -> Ends:
    place = 0
    while place < len(data):
        length = number(data, place + 16, 8, "little")
        if length < 24:  # no object
            return
        place += length
        yield place


def _ogg(data: bytes) -> bool:
    """Every logical stream of an Ogg file has a page that says that it is the last."""
    place = 0
    open_streams: set[bytes] = set()
    for _ in range(MOST_ELEMENTS):
        if data[place : place + 4] != b"OggS":
            return place > len(data) or bool(open_streams)
        flags, serial, segments = data[place + 5], data[place + 14 : place + 18], data[place + 26]
        lengths = data[place + 27 : place + 27 + segments]
        place += 27 + segments + sum(lengths)
        if flags & 4:
            open_streams.discard(serial)
        else:
            open_streams.add(serial)
    return False


def _gif(data: bytes) -> bool:
    """A GIF's last block is its trailer."""
    place, in_block = 13 + _table(data[10]), False
    for _ in range(MOST_ELEMENTS):
        kind = data[place]
        if in_block:  # one of its pieces, which begin with their lengths; the last has none
            place += 1 + kind
            in_block = kind > 0
        elif kind == 0x2C:
            place += 11 + _table(data[place + 9])
            in_block = True
        elif kind == 0x21:
            place += 2
            in_block = True
        else:  # the trailer, or no GIF's block, which is not ours to judge
            return False
    return False


def _table(flags: int) -> int:
    """The bytes of the table of colors that ``flags`` announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


CHECKS: dict[str, Callable[[bytes], bool]] = {
    "mov,mp4,m4a,3gp,3g2,mj2": _mp4,
    "matroska,webm": _matroska,
    "avi": _avi,
    "mpegts": _mpegts,
    "mpeg": _mpegps,
    "flv": _flv,
    "asf": _asf,
    "ogg": _ogg,
    "gif": _gif,
    **audio_containers.CHECKS,
}
"""How each container that is read is checked, by FFmpeg's name of the demuxer."""
