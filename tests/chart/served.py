"""A server that is configured by the chart."""

from pathlib import Path
from typing import Any

from tests.chart.rendering import one, render

MODEL = "qwen"


def chart_flags(checkpoints: Path, folder: Path, settings: dict[str, Any]) -> list[str]:
    """``--config`` with what the chart renders for the tiny checkpoint; flags that say where a test
    listens go before it."""
    values = {
        "models": [{"name": MODEL, "folder": "qwen2_vl"}],
        "modelCache": {"type": "hostPath", "mountPath": str(checkpoints)},
        "device": "cpu",
        "drainSeconds": 10,
        "settings": {"dtype": "float32", "log-format": "json", "log-level": "WARNING", **settings},
    }
    config = one(render(values), "ConfigMap")["data"]["config.toml"]
    (folder / "config.toml").write_text(config)
    return ["--config", str(folder / "config.toml")]
