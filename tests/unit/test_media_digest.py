"""What the vision cache knows a picture by: its file and what is done with it, or its pixels."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.pictures import noise
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones.table import load_preprocessor
from vlm2vec_service.preprocess.images import measure_image
from vlm2vec_service.preprocess.pictures import Frames, Pictures
from vlm2vec_service.preprocess.prepared import Media, Preprocessor, Request
from vlm2vec_service.settings import Limits


def jpeg(seed: int = 0, size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    noise(*size, seed).save(file, "JPEG", quality=30)
    return file.getvalue()


def digest(pictures: Pictures, kind: str = "image") -> bytes:
    return Media.of(
        "video" if kind == "video" else "image", pictures.pixels(), 0, 4, pictures
    ).digest


def read(data: bytes, decode: str = "viewed") -> Pictures:
    return Pictures.of((measure_image(data, Limits()),), decode)


STEPS: dict[str, Callable[[Pictures], Pictures]] = {
    "nothing": lambda one: one,
    "resized": lambda one: one.resized((56, 56)),
    "resized otherwise": lambda one: one.resized((28, 112)),
    "resized by another way": lambda one: one.resized((28, 28)).resized((56, 56)),
    "padded": lambda one: one.padded(100),
    "padded to a size": lambda one: one.padded(56).resized((56, 56)),
}


def test_equal_files_that_become_equal_pixels_have_equal_digests() -> None:
    for step in STEPS.values():
        assert digest(step(read(jpeg()))) == digest(step(read(jpeg())))


def test_whatever_is_done_with_a_file_changes_its_digest() -> None:
    found = {
        (name, seed, decode, kind): digest(step(read(jpeg(seed), decode)), kind)
        for name, step in STEPS.items()
        for seed in (0, 1)
        for decode in ("viewed", "raw")
        for kind in ("image", "video")
    }
    assert len(set(found.values())) == len(found)


def test_without_a_file_or_with_a_larger_one_pixels_decide() -> None:
    picture = noise(64, 48)
    pictures = Pictures.of((picture,), "viewed")
    same = Media.of("image", pictures.pixels(), 0, 4).digest
    assert digest(pictures) == digest(Pictures.of((picture.copy(),), "raw")) == same
    assert digest(Pictures.of((noise(64, 48, 1),), "viewed")) != same
    files = []
    for level in (0, 9):
        file = io.BytesIO()
        picture.save(file, "PNG", compress_level=level)
        files.append(file.getvalue())
        assert len(files[-1]) > 64 * 48 * 3
    assert files[0] != files[1]
    assert [digest(read(file)) for file in files] == [same, same]
    assert digest(read(jpeg())) != Media.of("image", read(jpeg()).pixels(), 0, 4).digest


@pytest.fixture(scope="module")
def preprocessor(checkpoints: Path) -> Preprocessor:
    return load_preprocessor(checkpoints / "qwen2_vl")


def test_a_film_is_known_by_its_frames_and_an_image_by_its_file(
    preprocessor: Preprocessor,
) -> None:
    def digests(**media: object) -> list[bytes]:
        request = Request(text="a", **media)  # type: ignore[arg-type]
        return [one.digest for one in preprocessor.prepare(request, EmbeddingConfig()).media]

    first, second = (measure_image(jpeg(seed, (112, 84)), Limits()) for seed in (0, 1))
    decoded = first.decoded("viewed")
    images = digests(images=(first, second, first))
    assert images[0] == images[2] != images[1]
    assert digests(images=(decoded,)) != images[:1]
    assert digests(images=(decoded,)) == digests(images=(Image.open(io.BytesIO(first.data)),))
    films = [Frames((first,)), Frames((first, second)), Frames((second, first))]
    found = [digest for film in films for digest in digests(videos=(film,))]
    assert len({*found, *images}) == len(found) + 2
