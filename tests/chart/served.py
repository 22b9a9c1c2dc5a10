"""A server that is configured by the chart."""

from pathlib import Path
from typing import Any

from tests.chart.rendering import one, render

MODEL = "qwen"


def chart_values(checkpoints: Path) -> dict[str, Any]:
    """Values that serve the tiny checkpoint where it is."""
    return {
        "models": [{"name": MODEL, "folder": "qwen2_vl"}],
        "modelCache": {"type": "hostPath", "mountPath": str(checkpoints)},
        "device": "cpu",
        "drainSeconds": 10,
        "settings": {"dtype": "float32", "log-format": "json", "log-level": "warning"},
    }


def chart_flags(values: dict[str, Any], folder: Path) -> list[str]:
    """``--config`` with what the chart renders; flags that say where a test listens override it."""
    config = one(render(values), "ConfigMap")["data"]["config.toml"]
    (folder / "config.toml").write_text(config)
    return ["--config", str(folder / "config.toml")]
