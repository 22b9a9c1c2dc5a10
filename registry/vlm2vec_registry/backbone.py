"""Which backbone a checkpoint is for, by what its ``config.json`` says."""

from collections.abc import Mapping
from typing import Any

PARTS = {"qwen2_5_omni_thinker": "qwen2_5_omni"}
"""Values of ``model_type`` that a model's part has where it was saved alone, and the backbone that
it is all of."""


def backbone_of(config: Mapping[str, Any]) -> str:
    """Names the backbone of a checkpoint with the parsed ``config``. Raises `KeyError` if that has
    no ``model_type``."""
    model_type = str(config["model_type"])
    return PARTS.get(model_type, model_type)
