"""``adapter_config.json``: the settings of PEFT that count here, and which are refused."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm2vec_registry.space import INITIALISATIONS, NEUTRAL, WITHOUT_EFFECT
from vlm2vec_registry.strict import (
    Fields,
    FormatError,
    is_count,
    is_number,
    is_text,
    read_object,
    shown,
)
from vlm2vec_service.errors import AdapterError, listed

CONFIG_NAME = "adapter_config.json"
MAX_RANK = 65_536
MAX_ALPHA = 1e9
"""Far more than anybody uses, and no scaling from it overflows float32."""


@dataclass(frozen=True)
class AdapterConfig:
    """The settings of a PEFT adapter that decide which layers it is on and how it scales.

    They have PEFT's names, and its defaults where ``adapter_config.json`` leaves one out. What they
    mean for the layers of a base is a `Placement`.
    """

    r: int = 8
    lora_alpha: float = 8
    target_modules: str | frozenset[str] = frozenset()
    exclude_modules: str | frozenset[str] = frozenset()
    layers_to_transform: frozenset[int] | None = None
    layers_pattern: tuple[str, ...] = ()
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False

    @classmethod
    def read(cls, folder: Path) -> "AdapterConfig":
        """Reads ``folder/adapter_config.json``.

        Raises `AdapterError` that names the setting which has a value of another type than PEFT's,
        or each setting that would change the vector in a way not supported here; nothing is
        ignored.
        """
        path = folder / CONFIG_NAME
        try:
            values = read_object(path)
            fields = Fields(
                {key: value for key, value in values.items() if key not in WITHOUT_EFFECT},
                str(path),
                nulls=True,
            )
            kind = fields.any("peft_type")
            if kind != "LORA":
                raise AdapterError(f"{path}: peft_type is not LORA but {shown(kind)}")
            config = cls._take(fields)
            initialisation = fields.any("init_lora_weights")
            refused = [
                f"{shown(key)[1:-1]}={shown(value)}"
                for key in fields.left()
                if (value := fields.any(key)) not in NEUTRAL
            ]
        except FormatError as error:
            raise AdapterError(str(error)) from error
        if initialisation not in INITIALISATIONS:
            shown_value = shown(initialisation)
            refused.append(f"init_lora_weights={shown_value} (it changes the base weights)")
        if refused:
            raise AdapterError(f"{path}: not supported: {listed(refused)}")
        return config

    @classmethod
    def _take(cls, fields: Fields) -> "AdapterConfig":
        key = "layers_to_transform"
        layers = _one_or_more(fields, key, fields.any(key, []), _is_int, "whole number")
        key = "layers_pattern"
        # PEFT takes an empty text or list for none given, here and there.
        stacks = _one_or_more(fields, key, fields.any(key) or [], is_text, "string")
        return cls(
            r=fields.count("r", cls.r, MAX_RANK),
            lora_alpha=fields.number("lora_alpha", cls.lora_alpha, -MAX_ALPHA, MAX_ALPHA),
            target_modules=_text_or_list(fields, "target_modules"),
            exclude_modules=_text_or_list(fields, "exclude_modules"),
            layers_to_transform=frozenset(layers) or None,
            layers_pattern=stacks,
            rank_pattern=fields.mapping(
                "rank_pattern",
                lambda rank: is_count(rank, MAX_RANK),
                f"a whole number from 1 to {MAX_RANK}",
            ),
            alpha_pattern=fields.mapping(
                "alpha_pattern",
                lambda alpha: is_number(alpha, -MAX_ALPHA, MAX_ALPHA),
                f"a number from {-MAX_ALPHA:g} to {MAX_ALPHA:g}",
            ),
            use_rslora=fields.flag("use_rslora", cls.use_rslora),
            use_dora=fields.flag("use_dora", cls.use_dora),
        )


def _text_or_list(fields: Fields, key: str) -> str | frozenset[str]:
    """Takes a regular expression, or a list of names."""
    value = fields.any(key, [])
    if isinstance(value, str):
        return value
    return frozenset(_one_or_more(fields, key, value, is_text, "string"))


def _one_or_more(
    fields: Fields, key: str, value: Any, good: Callable[[Any], bool], kind: str
) -> tuple[Any, ...]:
    """Makes a tuple of ``value``, a ``good`` one or a list of them."""
    values = value if isinstance(value, list) else [value]
    if not all(map(good, values)):
        fields.fail(key, f"a {kind} or a list of them", value)
    return tuple(values)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
