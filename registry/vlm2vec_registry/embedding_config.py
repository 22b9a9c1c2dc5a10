"""``embedding.json``: how an adapter wants to be prompted, pooled and shown pictures.

It stands beside ``adapter_config.json`` in an adapter folder and says everything that changes a
vector and that PEFT's own file does not. A folder without one gets its backbone's defaults.
"""

import json
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

    ``image`` overrides keys of the base model's ``preprocessor_config.json`` (``min_pixels``,
    ``max_pixels``, ``num_crops``). ``dimensions`` lists the prefixes that the vector was trained
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
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, values: Any) -> "EmbeddingConfig":
        """Builds a config from parsed JSON. Raises `ValueError` naming the key at fault."""
        values = dict(_known(cls, values))
        if "prompt" in values:
            values["prompt"] = PromptTemplate(**_known(PromptTemplate, values["prompt"]))
        if "dimensions" in values:
            values["dimensions"] = tuple(values["dimensions"])
        config = cls(**values)
        if config.pooling != "last":
            raise ValueError(f"pooling: {config.pooling!r} is not supported; it is always 'last'")
        for key, value in config.image.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"image.{key}: {value!r} is no positive whole number")
        return config

    def to_json(self) -> str:
        """The text of ``embedding.json``; keys sorted, so that equal configs are equal bytes."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def _known(cls: type[EmbeddingConfig] | type[PromptTemplate], values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"expected an object, got {type(values).__name__}")
    unknown = set(values) - {item.name for item in fields(cls)}
    if unknown:
        raise ValueError(f"unknown key {', '.join(sorted(unknown))}")
    return values
