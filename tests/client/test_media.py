"""Images, videos and audios of every kind."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vlm2vec
from tests.client.server import Service
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.preprocess.images import measure_image
from vlm2vec_service.settings import Limits


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels_of(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)))


PIXELS = np.random.default_rng(3).integers(0, 256, (5, 4, 3), dtype=np.uint8)


def test_media(client: Any, service: Service, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(png(PIXELS))
    client.embed(
        [
            path,
            vlm2vec.Input(
                text="words",
                instruction="own",
                images=[str(path), b"encoded", Image.fromarray(PIXELS), PIXELS],
                video=[PIXELS, path],
            ),
            vlm2vec.Input(prompt="<|image_pad|> all of it", images=[path]),
            vlm2vec.Input(video=b"file"),
            vlm2vec.Input(video=path),
        ],
        instruction="given",
    )
    photo, mixed, prompt, file, read = service.calls[0][0].inputs
    data = path.read_bytes()
    assert photo == pb.Input(instruction="given", parts=[pb.Part(image=data)])
    assert mixed.instruction == "own"
    kinds = [part.WhichOneof("part") for part in mixed.parts]
    assert kinds == ["image", "image", "image", "image", "video", "text"]
    assert [part.image for part in mixed.parts[:2]] == [data, b"encoded"]
    for part in mixed.parts[2:4]:
        np.testing.assert_array_equal(pixels_of(part.image), PIXELS)
    frames = mixed.parts[4].video.frames.images
    np.testing.assert_array_equal(pixels_of(frames[0]), PIXELS)
    assert frames[1] == data
    assert mixed.parts[5].text == "words"
    assert prompt == pb.Input(prompt="<|image_pad|> all of it", parts=[pb.Part(image=data)])
    assert file.parts[0].video.file == b"file"
    assert read.parts[0].video.file == data


def test_picture_of_another_mode(client: Any, service: Service) -> None:
    client.embed(vlm2vec.Input(images=[Image.fromarray(PIXELS).convert("CMYK")]))
    sent = Image.open(io.BytesIO(service.calls[0][0].inputs[0].parts[0].image))
    assert (sent.mode, sent.size) == ("RGB", (4, 5))


def opened(image: Image.Image, format: str, **options: Any) -> tuple[bytes, Image.Image]:
    """A file of ``image``, and what PIL makes of it."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue(), Image.open(io.BytesIO(buffer.getvalue()))


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    exif[0x010F] = "a maker, who is nobody's business"
    return exif


GREY = Image.fromarray(PIXELS[:, :, 0])
ALPHA = Image.merge("RGBA", [*Image.fromarray(PIXELS).split(), GREY])
WIDE = np.arange(0, 65_000, 3_250).reshape(4, 5)
FILES = {
    "16-bit PNG": opened(Image.fromarray(WIDE.astype(np.uint16)), "PNG"),
    "16-bit TIFF": opened(Image.fromarray(WIDE.astype(np.uint16)), "TIFF"),
    "32-bit TIFF": opened(Image.fromarray((WIDE * 30_000).astype(np.int32)), "TIFF"),
    "float TIFF": opened(Image.fromarray((WIDE / 65_000).astype(np.float32)), "TIFF"),
    "alpha": opened(ALPHA, "PNG"),
    "grey with alpha": opened(Image.merge("LA", [GREY, GREY]), "PNG"),
    "transparent grey": opened(GREY, "PNG", transparency=int(PIXELS[0, 0, 0])),
    "transparent color": opened(
        Image.fromarray(PIXELS), "PNG", transparency=tuple(PIXELS[0, 0].tolist())
    ),
    "transparent GIF": opened(GREY.convert("P"), "GIF", transparency=int(PIXELS[0, 0, 0])),
    "CMYK": opened(Image.fromarray(PIXELS).convert("CMYK"), "TIFF"),
    **{
        f"{format} turned by {value}": opened(Image.fromarray(PIXELS), format, exif=oriented(value))
        for format in ("JPEG", "PNG", "WEBP", "TIFF")
        for value in range(1, 9)
    },
}


@pytest.mark.parametrize("name", FILES)
def test_opened_picture_means_what_its_file_does(client: Any, service: Service, name: str) -> None:
    file, image = FILES[name]
    client.embed(vlm2vec.Input(images=[image, file]))
    sent = [part.image for part in service.calls[0][0].inputs[0].parts]
    assert sent[1] == file
    for decode in ("viewed", "raw"):
        ours, theirs = (measure_image(data, Limits()).decoded(decode) for data in sent)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs), err_msg=decode)
    assert b"nobody" not in sent[0]


@pytest.mark.parametrize(("mode", "sent"), [("PA", "RGBA"), ("La", "LA"), ("RGBa", "RGBA")])
def test_alpha_that_png_has_not(client: Any, service: Service, mode: str, sent: str) -> None:
    image = ALPHA.convert({"PA": "LA", "La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    client.embed(vlm2vec.Input(images=[image]))
    got = Image.open(io.BytesIO(service.calls[0][0].inputs[0].parts[0].image))
    assert got.mode == sent
    np.testing.assert_array_equal(np.asarray(got), np.asarray(image.convert(sent)))


@pytest.mark.parametrize("pixels", [PIXELS[:, :, 0], PIXELS.astype(float), PIXELS[:0]])
def test_pixels_of_another_shape(client: Any, pixels: Any) -> None:
    with pytest.raises(vlm2vec.InvalidInput, match=r"images\[1\]: not uint8") as caught:
        client.embed(["fine", vlm2vec.Input(images=[PIXELS, pixels])])
    assert (caught.value.field, caught.value.id) == ("images[1]", 1)


def test_audios(client: Any, service: Service, tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    path.write_bytes(b"RIFF")
    ramp = np.arange(6, dtype=np.int16).reshape(3, 2)
    audios: list[Any] = [
        path,
        b"encoded",
        "data:audio/wav;base64,UklGRg==",
        vlm2vec.Samples(ramp, 44_100),
        vlm2vec.Samples(ramp.astype(">i2")[:, 0], np.int64(8000)),  # type: ignore[arg-type]
        vlm2vec.Samples(np.linspace(-1, 1, 5), 16_000),
    ]
    client.embed(vlm2vec.Input(text="words", audios=audios, images=[b"picture"], video=b"film"))
    parts = service.calls[0][0].inputs[0].parts
    kinds = [part.WhichOneof("part") for part in parts]
    assert kinds == ["image", "video", *["audio"] * 6, "text"]
    files = [part.audio.file for part in parts[2:5]]
    assert files == [b"RIFF", b"encoded", b"RIFF"]
    stereo, mono, floats = (part.audio.samples for part in parts[5:8])
    assert (stereo.format, stereo.rate, stereo.channels) == (pb.SAMPLE_FORMAT_INT16, 44_100, 2)
    assert np.frombuffer(stereo.data, "<i2").tolist() == [0, 1, 2, 3, 4, 5]
    assert (mono.format, mono.rate, mono.channels) == (pb.SAMPLE_FORMAT_INT16, 8000, 1)
    assert np.frombuffer(mono.data, "<i2").tolist() == [0, 2, 4]
    assert (floats.format, floats.channels) == (pb.SAMPLE_FORMAT_FLOAT32, 1)
    assert np.frombuffer(floats.data, "<f4").tolist() == [-1, -0.5, 0, 0.5, 1]


@pytest.mark.parametrize(
    ("audio", "problem"),
    [
        ("none.wav", r"audios\[0\]: cannot read 'none.wav'"),
        (vlm2vec.Samples(np.zeros((2, 3, 4)), 8000), r"audios\[0\]: not float .* \(2, 3, 4\)"),
        (vlm2vec.Samples(np.zeros(3, np.int32), 8000), r"audios\[0\]: not float .* int32 \(3,\)"),
        (vlm2vec.Samples(np.zeros(3), 0), r"audios\[0\]: the rate is 0 samples"),
    ],
)
def test_audios_that_cannot_be_sent(client: Any, audio: Any, problem: str) -> None:
    with pytest.raises(vlm2vec.InvalidInput, match=problem) as caught:
        client.embed(["fine", vlm2vec.Input(audios=[audio])])
    assert (caught.value.field, caught.value.id) == ("audios[0]", 1)


def test_frames_with_their_rate(client: Any, service: Service) -> None:
    stacked = np.stack([PIXELS, PIXELS])
    for fps, sent in ((None, 0.0), (2, 2.0), (0.5, 0.5)):
        client.embed(vlm2vec.Input(video=vlm2vec.Frames(stacked, fps=fps)))
        frames = service.calls[-1][0].inputs[0].parts[0].video.frames
        assert (len(frames.images), frames.fps) == (2, sent)
    for fps in (0, -1, float("nan")):
        with pytest.raises(vlm2vec.InvalidInput, match=f"video: fps is {fps}, not above 0"):
            client.embed(vlm2vec.Input(video=vlm2vec.Frames(stacked, fps=fps)))


def test_missing_file(client: Any, tmp_path: Path) -> None:
    with pytest.raises(vlm2vec.InvalidInput, match=r"images\[0\]: cannot read '.*none\.jpg'"):
        client.embed(tmp_path / "none.jpg")


def test_several_videos(client: Any, service: Service) -> None:
    given = vlm2vec.Input(
        videos=[b"file", [PIXELS], vlm2vec.Frames([PIXELS], fps=3)], audios=[b"sound"], text="words"
    )
    client.embed(given)
    parts = service.calls[0][0].inputs[0].parts
    kinds = [part.WhichOneof("part") for part in parts]
    assert kinds == ["video", "video", "video", "audio", "text"]
    assert parts[0].video.file == b"file"
    assert [part.video.frames.fps for part in parts[1:3]] == [0.0, 3.0]
    assert repr(given).startswith("<Input text: words, videos[0]: 4 bytes, videos[1]: ")
    with pytest.raises(ValueError, match="video is one of videos"):
        vlm2vec.Input(video=b"a", videos=[b"b"])


def test_prompt_beside_text() -> None:
    with pytest.raises(ValueError, match="prompt is the whole text"):
        vlm2vec.Input(prompt="p", text="t")
