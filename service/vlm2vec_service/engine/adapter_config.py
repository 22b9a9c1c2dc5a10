"""``adapter_config.json``: what PEFT's settings mean for linear layers, and which are refused."""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm2vec_service.errors import AdapterError

CONFIG_NAME = "adapter_config.json"

WITHOUT_EFFECT = {
    # On inference through linear layers; whatever they say, the vector is the same.
    "auto_mapping", "base_model_name_or_path", "eva_config", "fan_in_fan_out", "inference_mode",
    "lora_dropout", "megatron_core", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "task_type",
}  # fmt: skip
INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")
"""The values that leave the base weights alone; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA do not."""


@dataclass(frozen=True)
class AdapterConfig:
    """The settings of a PEFT adapter that decide which layers it is on and how it scales.

    They have PEFT's names, and its defaults where ``adapter_config.json`` leaves one out.
    """

    r: int = 8
    lora_alpha: float = 8
    target_modules: str | tuple[str, ...] = ()
    exclude_modules: str | tuple[str, ...] = ()
    layers_to_transform: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False

    @classmethod
    def read(cls, folder: Path) -> "AdapterConfig":
        """Reads ``folder/adapter_config.json``.

        Raises `AdapterError` that names each setting that would change the vector in a way not
        supported here; nothing is ignored.
        """
        path = folder / CONFIG_NAME
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise AdapterError(f"{path}: {error}") from error
        if not isinstance(values, dict) or values.pop("peft_type", None) != "LORA":
            raise AdapterError(f"{path}: peft_type is not LORA")
        values = {key: value for key, value in values.items() if key not in WITHOUT_EFFECT}
        own = {key: values.pop(key) for key in list(values) if key in cls.__dataclass_fields__}
        initialisation = values.pop("init_lora_weights", None)
        refused = [f"{key}={value!r}" for key, value in values.items() if value not in NEUTRAL]
        if initialisation not in INITIALISATIONS:
            refused.append(f"init_lora_weights={initialisation!r} (it changes the base weights)")
        if refused:
            raise AdapterError(f"{path}: not supported: {', '.join(sorted(refused))}")
        return cls(
            **{
                key: value if key in ("rank_pattern", "alpha_pattern") else _plain(key, value)
                for key, value in own.items()
                if value is not None
            }
        )

    def targets(self, name: str) -> bool:
        """Says whether PEFT would put the adapter on the linear layer ``name``."""
        if _listed(self.exclude_modules, name):
            return False
        if self.target_modules == "all-linear":
            return name != "lm_head"
        if isinstance(self.target_modules, str):
            return re.fullmatch(self.target_modules, name) is not None
        if not _listed(self.target_modules, name):
            return False
        if name in self.target_modules or self.layers_to_transform is None:
            return True
        # The first numbered part of the name is the layer.
        patterns = self.layers_pattern or (r"[^.]*",)
        matches = (re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", name) for pattern in patterns)
        found = next((match for match in matches if match), None)
        return found is not None and int(found[1]) in self.layers_to_transform

    def rank(self, name: str) -> int:
        """Finds the rank of the adapter's matrices on the linear layer ``name``."""
        return int(_pattern(self.rank_pattern, name, self.r))

    def scaling(self, name: str) -> float:
        """Computes ``s`` of ``W + s·BA`` on the linear layer ``name``.

        It is alpha over the rank, or over the rank's square root with rsLoRA.
        """
        rank = self.rank(name)
        alpha = _pattern(self.alpha_pattern, name, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


NEUTRAL: tuple[Any, ...] = (None, False, "none", {}, [], "")


def _plain(key: str, value: Any) -> Any:
    if key == "layers_to_transform":
        # PEFT takes an empty list for none given.
        return (value,) if isinstance(value, int) else tuple(value) or None
    if key == "layers_pattern" and isinstance(value, str):
        return (value,) if value else ()
    return tuple(value) if isinstance(value, list) else value


def _listed(modules: str | Iterable[str], name: str) -> bool:
    if isinstance(modules, str):
        return re.fullmatch(modules, name) is not None
    return any(name == module or name.endswith(f".{module}") for module in modules)


def _pattern(patterns: dict[str, Any], name: str, default: float) -> float:
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return float(value)
    return default
