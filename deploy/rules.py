"""Writes ``rules.yaml``: the chart's alerts, as they are for the server of ``compose.yaml``.

With ``--check`` it writes nothing, and fails where something would change.
"""

import sys
from pathlib import Path

import yaml
from helm_python import Chart

FOLDER = Path(__file__).parent
VALUES = {
    "fullnameOverride": "vlm2vec",
    "monitoring": {"rules": True},
    "models": [{"name": "any", "folder": "any"}],
}
TEMPLATE = "vlm2vec-serve/templates/prometheusrule.yaml"


def rules() -> str:
    """Renders the groups of rules in the form that Prometheus reads, but for those of one model:
    which models there are, whoever starts it says."""
    with Chart.load(FOLDER.parent / "helm" / "vlm2vec-serve") as chart:
        text = chart.render(VALUES, name="vlm2vec", namespace="compose")[TEMPLATE]
    every = yaml.safe_load(text)["spec"]["groups"]
    groups = [group for group in every if group["name"] != "vlm2vec-models"]
    return f"# Made by `make chart`.\n{yaml.safe_dump({'groups': groups}, sort_keys=False)}"


if __name__ == "__main__":
    path, made = FOLDER / "rules.yaml", rules()
    if "--check" in sys.argv:
        sys.exit(path.read_text() != made and f"{path} is not what the chart has: make chart")
    path.write_text(made)
