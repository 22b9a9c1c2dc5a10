"""Whether a file that is nothing but audio is cut off, and where the frames of an MP3 end."""

from collections.abc import Callable

from vlm2vec_service.preprocess.elements import MOST_ELEMENTS, Ends, number, overshoots

UNKNOWN = 0x7FFFF000
"""The least length of a chunk of samples that programs write who do not know it."""


def _wav(data: bytes) -> bool:
    length, start = _chunk(data, b"data", "little")
    if data[:4] == b"RF64" and data[12:16] == b"ds64":
        length = number(data, 28, 8, "little")
    elif length >= UNKNOWN:
        return False
    return start + length > len(data)


def _aiff(data: bytes) -> bool:
    length, start = _chunk(data, b"SSND", "big")
    return start + length > len(data)


def _chunk(data: bytes, name: bytes, order: str) -> tuple[int, int]:
    """The length and the place of what is in a chunk. Raises `IndexError` where there is none."""
    place = 12
    for _ in range(MOST_ELEMENTS):
        length = number(data, place + 4, 4, order)
        if data[place : place + 4] == name:
            return length, place + 8
        place += 8 + length + length % 2
    return 0, place


HAS_FRAMES, HAS_BYTES = 1, 2
"""What an MP3's first frame has, by its flags: two numbers of four bytes, in this order."""


def _mp3(data: bytes) -> bool:
    return frames_end(data) > len(data)


def frames_end(mp3: bytes) -> int:
    """Where the frames of an MP3 end, by what most encoders write into the first of them: behind
    may be tags. Where they did not write it, it is the end of the file, or of its first tag."""
    start = _after_id3(mp3)
    head = mp3[start : start + 64]
    tag = start + max(head.find(b"Xing"), head.find(b"Info"))
    if tag < start or not number(mp3, tag + 4, 4) & HAS_BYTES:
        return max(start, len(mp3))
    end = start + number(mp3, tag + 8 + 4 * (mp3[tag + 7] & HAS_FRAMES), 4)
    # Some do not count the first frame itself.
    return len(mp3) if mp3[end : end + 1] == b"\xff" else end


def _after_id3(data: bytes) -> int:
    """Where a file's tags end, whose length has seven bits a byte."""
    if data[:3] != b"ID3":
        return 0
    length = 0
    for place in range(6, 10):
        length = length << 7 | data[place] & 0x7F
    return 10 + length


def _adts(data: bytes) -> bool:
    return overshoots(_adts_frames(data), len(data))


def _adts_frames(data: bytes) -> Ends:
    place = _after_id3(data)
    while data[place : place + 1] == b"\xff":
        place += max(7, number(data, place + 3, 3) >> 5 & 0x1FFF)
        yield place


CHECKS: dict[str, Callable[[bytes], bool]] = {
    "wav": _wav,
    "aiff": _aiff,
    "mp3": _mp3,
    "aac": _adts,
}
"""How each container is checked, by FFmpeg's name of the demuxer."""
