"""Presets: what published models want, each a file with its source.

A preset names the model on the hub, a base and perhaps its adapter, and has the whole
``embedding.json`` that neither may have. One without a base is a form that adapters are trained in.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.errors import RegistryInputError
from vlm2vec_registry.strict import Fields, parse_object

FOLDER = files("vlm2vec_registry") / "presets"


@dataclass(frozen=True)
class Words:
    """One side of an example: what a caller would say, and whether the picture is with it."""

    instruction: str | None
    text: str | None
    image: bool


@dataclass(frozen=True)
class Similarity:
    """The ``cosine`` of two inputs that the model's authors published."""

    left: Words
    right: Words
    cosine: float


@dataclass(frozen=True)
class Preset:
    """One preset.

    ``source`` says where its settings were read; ``base`` and ``adapter`` are names on the hub, and
    ``example`` what the authors published of one picture.
    """

    name: str
    about: str
    source: str
    base: str | None
    adapter: str | None
    embedding: EmbeddingConfig
    example: tuple[Similarity, ...]


def names() -> list[str]:
    """Lists the presets in order."""
    return sorted(path.name.removesuffix(".json") for path in FOLDER.iterdir())


@cache
def read(name: str) -> Preset:
    """Reads the preset ``name``. Raises `RegistryInputError` that lists what there is."""
    if name not in names():
        raise RegistryInputError(f"no preset {name!r}; there are {', '.join(names())}")
    where = f"preset {name}"
    text = (FOLDER / f"{name}.json").read_text()
    given = Fields(parse_object(text, where), where)
    preset = Preset(
        name=name,
        about=given.text("about", ""),
        source=given.text("source", ""),
        base=given.text("base", None),
        adapter=given.text("adapter", None),
        embedding=EmbeddingConfig.from_dict(given.any("embedding", {}), f"{where}: embedding"),
        example=tuple(map(_similarity, given.any("example", []))),
    )
    given.done()
    return preset


def _similarity(values: Any) -> Similarity:
    given = Fields(values, "example")
    left, right = _words(given.object("left")), _words(given.object("right"))
    similarity = Similarity(left, right, given.number("cosine", 0.0, -1, 1))
    given.done()
    return similarity


def _words(given: Fields | None) -> Words:
    assert given is not None
    words = Words(
        given.text("instruction", None), given.text("text", None), given.flag("image", False)
    )
    given.done()
    return words
