"""``embedding.json``: how an adapter wants to be prompted, pooled and shown pictures.

It stands beside ``adapter_config.json`` in an adapter folder and says everything that changes a
vector and that PEFT's own file does not. A folder without one gets its backbone's defaults.
"""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class EmbeddingConfig:
    """The contents of ``embedding.json``.

    ``image`` overrides keys of the base model's ``preprocessor_config.json`` (``max_pixels``,
    ``num_crops``); which of them a backbone reads is for the service to say, which refuses any
    other when it loads the adapter. ``dimensions`` lists the prefixes that the vector was trained
    to be cut to; empty means only the whole vector.
    """

    backbone: str | None = None
    base_model: str | None = None
    base_revision: str | None = None
    pooling: str = "last"
    normalize: bool = True
    prompt: PromptTemplate = field(default_factory=PromptTemplate)
    image: dict[str, int] = field(default_factory=dict)
    dimensions: tuple[int, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "EmbeddingConfig":
        """Reads ``folder/embedding.json``; the defaults where there is none.

        Raises `ValueError` that names the file and the key: unknown keys are never ignored, since
        each of them would change the vector.
        """
        path = folder / FILE_NAME
        if not path.exists():
            return cls()
        try:
            return cls.from_dict(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, values: Any) -> "EmbeddingConfig":
        """Builds a config from parsed JSON. Raises `ValueError` naming the key at fault."""
        _check_object("", values, [item.name for item in fields(cls)])
        values = dict(values)
        for key in ("backbone", "base_model", "base_revision"):
            _check(isinstance(values.get(key), str | None), key, values.get(key), "a string")
        if values.get("pooling", "last") != "last":
            raise ValueError(
                f"pooling: {values['pooling']!r} is not supported; it is always 'last'"
            )
        normalize = values.get("normalize", True)
        _check(isinstance(normalize, bool), "normalize", normalize, "true or false")
        if "prompt" in values:
            _check_object(
                "prompt", values["prompt"], [item.name for item in fields(PromptTemplate)]
            )
            for key, value in values["prompt"].items():
                _check(isinstance(value, str), f"prompt.{key}", value, "a string")
            values["prompt"] = PromptTemplate(**values["prompt"])
        if "image" in values:
            _check(isinstance(values["image"], dict), "image", values["image"], "an object")
            for key, value in values["image"].items():
                _check(_positive(value), f"image.{key}", value, "a positive whole number")
        if "dimensions" in values:
            sizes = values["dimensions"]
            listed = isinstance(sizes, list) and all(map(_positive, sizes))
            _check(listed, "dimensions", sizes, "a list of positive whole numbers")
            values["dimensions"] = tuple(sizes)
        return cls(**values)

    def to_json(self) -> str:
        """The text of ``embedding.json``; keys sorted, so that equal configs are equal bytes."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def _check_object(key: str, value: Any, known: Collection[str]) -> None:
    _check(isinstance(value, dict), key or "the whole", value, "an object")
    if unknown := sorted(set(value) - set(known)):
        where = f"{key}: " if key else ""
        raise ValueError(f"{where}unknown key {', '.join(unknown)}; known are {', '.join(known)}")


def _check(good: bool, key: str, value: Any, expected: str) -> None:
    if not good:
        raise ValueError(f"{key}: expected {expected}, got {value!r}")


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
