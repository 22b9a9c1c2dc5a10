"""What a caller can get wrong, and the field that the server has to name for it."""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import cast

from PIL import Image

from tests.e2e.cases import options, png, text
from tests.parity.audio_specs import wav
from vlm2vec.v1 import embedding_pb2 as pb

LONG_NAME = "x" * 257


@dataclass(frozen=True)
class Bad:
    """An input or its options, for the models of the test servers. ``field`` is the one named in
    the error; where it starts with a dot, it is below the input."""

    name: str
    field: str
    input: pb.Input
    options: pb.CallOptions


def _of_input(name: str, field: str, *parts: pb.Part, **values: str) -> Bad:
    prompt, instruction = values.get("prompt"), values.get("instruction", "")
    return Bad(
        name, field, pb.Input(parts=parts, prompt=prompt, instruction=instruction), options()
    )


def _of_options(name: str, field: str, given: pb.CallOptions) -> Bad:
    return Bad(name, f"options.{field}", text("fine"), given)


def _model(**selector: str) -> pb.CallOptions:
    return pb.CallOptions(model=pb.ModelRef(**{"name": "qwen", **selector}))


def _picture(width: int, height: int) -> bytes:
    return png(Image.new("RGB", (width, height), (9, 99, 199)))


def _saved(format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, format)
    return buffer.getvalue()


def _png_that_claims(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + checksum


def _image(data: bytes) -> pb.Part:
    return pb.Part(image=data)


def _frames(*images: bytes) -> pb.Part:
    return pb.Part(video=pb.Video(frames=pb.Frames(images=images)))


def _file(data: bytes) -> pb.Part:
    return pb.Part(video=pb.Video(file=data))


def _samples(rate: int, channels: int = 0) -> pb.Part:
    samples = pb.Samples(data=bytes(4096), rate=rate, channels=channels)
    return pb.Part(audio=pb.Audio(samples=samples))


def _words(words: str) -> pb.Part:
    return pb.Part(text=words)


SOUND = {"rate": 16_000, "samples": 1600, "format": "int16", "channels": [{"kind": "silence"}]}
GOOD, SMALL = _picture(30, 30), _picture(28, 28)

BAD_INPUTS = [
    _of_input("nothing", ".text"),
    _of_input("empty part", ".parts[0]", pb.Part()),
    _of_input("empty part behind text", ".parts[1]", _words("a"), pb.Part()),
    _of_input("empty text", ".text", _words("")),
    _of_input("empty prompt", ".text", prompt=""),
    _of_input("empty image", ".parts[0].image", _image(b"")),
    _of_input("no image", ".parts[0].image", _image(b"no image at all")),
    _of_input("text instead of an image", ".parts[1].image", _words("a"), _image(b"<svg/>")),
    _of_input("truncated image", ".parts[0].image", _image(_picture(200, 200)[:-60])),
    _of_input(
        "damaged image", ".parts[0].image", _image(_picture(99, 99).replace(b"IDAT", b"IDAX"))
    ),
    _of_input("image of an unknown format", ".parts[0].image", _image(_saved("PPM"))),
    _of_input("icon", ".parts[0].image", _image(_saved("ICO"))),
    _of_input("too many pixels", ".parts[0].image", _image(_png_that_claims(60_000, 60_000))),
    _of_input("no pixels", ".parts[0].image", _image(_png_that_claims(0, 10))),
    _of_input("flat image", ".images[0]", _image(_picture(300, 1))),
    _of_input("too many images", ".parts", *[_image(GOOD)] * 17),
    _of_input("text beside a prompt", ".parts[0].text", _words("a"), prompt="b"),
    _of_input("instruction beside a prompt", ".prompt", prompt="b", instruction="a"),
    _of_input("image without placeholder", ".images", _image(GOOD), prompt="a"),
    _of_input("placeholder without image", ".images", prompt="<|image_pad|> a"),
    _of_input("placeholder without video", ".video", prompt="<|video_pad|> a"),
    _of_input("placeholder in the text", ".text", _words("a <|image_pad|>")),
    _of_input(
        "placeholder in the instruction", ".instruction", _words("a"), instruction="<|video_pad|>"
    ),
    _of_input("too much text", ".text", _words("a" * 262_145)),
    _of_input("too long a prompt", ".prompt", prompt="a" * 262_145),
    _of_input("too many tokens", ".input", _words("one two " * 8000)),
    _of_input("empty video", ".parts[0].video", pb.Part(video=pb.Video())),
    _of_input("no frames", ".parts[0].video", _frames()),
    _of_input("frame that is no image", ".parts[0].video.frames.images[1]", _frames(GOOD, b"x")),
    _of_input("frames of two sizes", ".video", _frames(GOOD, SMALL)),
    _of_input("too many frames", ".parts[0].video.frames", _frames(*[SMALL] * 65)),
    _of_input("too many videos", ".parts", *[_frames(SMALL)] * 5),
    _of_input("empty video file", ".parts[0].video.file", _file(b"")),
    _of_input("no video file", ".parts[0].video.file", _file(b"no video at all" * 99)),
    _of_input("playlist", ".parts[0].video.file", _file(b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")),
    _of_input("audio for a model that takes none", ".parts[1].audio.file",
              _words("a"), pb.Part(audio=pb.Audio(file=wav(SOUND)))),
    _of_input("samples for it", ".parts[0].audio.samples", _samples(rate=16_000)),
    _of_input("empty audio", ".parts[0].audio", pb.Part(audio=pb.Audio())),
    _of_input("picture as audio", ".parts[0].audio.file", pb.Part(audio=pb.Audio(file=GOOD))),
    _of_input("no rate", ".parts[0].audio.samples.rate", _samples(rate=0)),
    _of_input("too many channels", ".parts[0].audio.samples.channels",
              _samples(rate=16_000, channels=2**32 - 1)),
    _of_input("too many audios", ".parts", *[_samples(rate=16_000)] * 5),
    _of_options("long model name", "model.name", _model(name=LONG_NAME)),
    _of_options("long alias", "model.alias", _model(alias=LONG_NAME)),
    _of_options("long version", "model.version", _model(version=LONG_NAME)),
    _of_options("long space", "model.space", _model(space=LONG_NAME)),
    _of_options("empty alias", "model.alias", _model(alias="")),
    _of_options("empty version", "model.version", _model(version="")),
    _of_options("empty space", "model.space", _model(space="")),
    _of_options("long routing key", "routing_key", options(routing_key=LONG_NAME)),
    _of_options("unknown priority", "priority", options(priority=cast(pb.Priority.ValueType, 7))),
    _of_options(
        "unknown format", "output.dtype",
        options(output=pb.OutputOptions(dtype=cast(pb.Dtype.ValueType, 77))),
    ),
    _of_options(
        "too many dimensions", "output.dimensions", options(output=pb.OutputOptions(dimensions=129))
    ),
    _of_options(
        "most dimensions of all", "output.dimensions",
        options(output=pb.OutputOptions(dimensions=2**32 - 1)),
    ),
    _of_options(
        "dimensions not trained for", "output.dimensions",
        options(output=pb.OutputOptions(dimensions=64)),
    ),
    _of_options(
        "dimensions of the base", "output.dimensions",
        options(version="base", output=pb.OutputOptions(dimensions=16)),
    ),
]  # fmt: skip

UNKNOWN = {
    "model": _model(name="gwen"),
    "alias": _model(alias="canaries"),
    "version": _model(version="loro"),
    "space": _model(space="elsewhere"),
}
