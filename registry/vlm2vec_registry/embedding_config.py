"""``embedding.json``: how an adapter wants to be prompted, pooled and shown pictures.

It stands beside ``adapter_config.json`` in an adapter folder and says everything that changes a
vector and that PEFT's own file does not. A folder without one gets its backbone's defaults.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlm2vec_registry.strict import Fields, is_count, read_object

FILE_NAME = "embedding.json"


@dataclass(frozen=True)
class PromptTemplate:
    """How placeholders, instruction and text become one prompt.

    ``media_separator`` stands between the media placeholders and the words, ``separator`` between
    instruction and text, ``suffix`` at the end. A part that is absent takes its separator along.
    """

    media_separator: str = " "
    separator: str = " "
    suffix: str = ""


DECODES = ("viewed", "raw")
"""How pictures are decoded: as a viewer shows them, or as Pillow's bare ``convert("RGB")`` does."""
MOST_SIDE = 1 << 14
"""Pixels of one side that ``image.resize`` may ask for."""


@dataclass(frozen=True)
class EmbeddingConfig:
    """The contents of ``embedding.json``.

    ``image`` overrides keys of the base model's ``preprocessor_config.json`` (``max_pixels``,
    ``num_crops``); which of them a backbone reads is for the service to say, which refuses any
    other when it loads the adapter. Its keys ``resize`` and ``decode`` are ``image_resize``, the
    width and height in pixels that every picture gets first, its aspect lost, and ``image_decode``,
    one of `DECODES`. ``max_text_tokens`` is where the text of an input is cut; None is nowhere.
    ``dimensions`` lists the prefixes that the vector was trained to be cut to; empty means that it
    does not say.
    """

    backbone: str | None = None
    base_model: str | None = None
    base_revision: str | None = None
    pooling: str = "last"
    normalize: bool = True
    prompt: PromptTemplate = field(default_factory=PromptTemplate)
    image: dict[str, int] = field(default_factory=dict)
    image_resize: tuple[int, int] | None = None
    image_decode: str = DECODES[0]
    max_text_tokens: int | None = None
    dimensions: tuple[int, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "EmbeddingConfig":
        """Reads ``folder/embedding.json``; gives the defaults where there is none.

        Raises `FormatError` that names the file and the key: unknown keys are never ignored, since
        each of them would change the vector.
        """
        path = folder / FILE_NAME
        return cls.from_dict(read_object(path), str(path)) if path.exists() else cls()

    @classmethod
    def from_dict(cls, values: Any, where: str = "") -> "EmbeddingConfig":
        """Builds a config from parsed JSON that stands ``where``. Raises `FormatError` naming the
        key at fault."""
        given = Fields(values, where)
        image, resize, decode = _image(given.object("image"))
        config = cls(
            backbone=given.text("backbone", None),
            base_model=given.text("base_model", None),
            base_revision=given.text("base_revision", None),
            pooling=given.choice("pooling", "last", ("last",)),
            normalize=given.flag("normalize", True),
            prompt=_prompt(given.object("prompt")),
            image=image,
            image_resize=resize,
            image_decode=decode,
            max_text_tokens=given.count("max_text_tokens", None),
            dimensions=tuple(given.list_of("dimensions", is_count, "positive whole numbers") or ()),
        )
        given.done()
        return config

    def to_dict(self) -> dict[str, Any]:
        """The values of ``embedding.json``. Those that came after its first version are left out
        where they say nothing, so that an older file keeps its bytes, and its space."""
        values = asdict(self)
        resize, decode = values.pop("image_resize"), values.pop("image_decode")
        if resize is not None:
            values["image"]["resize"] = list(resize)
        if decode != DECODES[0]:
            values["image"]["decode"] = decode
        if self.max_text_tokens is None:
            del values["max_text_tokens"]
        return values

    def to_json(self) -> str:
        """The text of ``embedding.json``; keys sorted, so that equal configs are equal bytes."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"


def _prompt(given: Fields | None) -> PromptTemplate:
    if given is None:
        return PromptTemplate()
    default = PromptTemplate()
    template = PromptTemplate(
        given.text("media_separator", default.media_separator),
        given.text("separator", default.separator),
        given.text("suffix", default.suffix),
    )
    given.done()
    return template


def _image(given: Fields | None) -> tuple[dict[str, int], tuple[int, int] | None, str]:
    """The overrides of the base's settings, the fixed size, and how to decode."""
    if given is None:
        return {}, None, DECODES[0]
    decode = given.choice("decode", DECODES[0], DECODES)
    sides = given.list_of("resize", lambda side: is_count(side, MOST_SIDE), "width and height")
    if sides is not None and len(sides) != 2:
        given.fail("resize", "a width and a height", sides)
    overrides = {key: given.count(key, 0) for key in given.left()}
    return overrides, (sides[0], sides[1]) if sides else None, decode
