"""The chart as Helm renders it, for the value sets of ``ci/``."""

import functools
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "vlm2vec-serve"
NAMESPACE = "embeddings"
NAME = "demo-vlm2vec-serve"
"""What resources of the release ``demo`` are called."""
VALUES: dict[str, dict[str, Any]] = {"default": {}} | {
    path.stem.removesuffix("-values"): yaml.safe_load(path.read_text())
    for path in sorted((CHART / "ci").glob("*-values.yaml"))
}

Document = dict[str, Any]


def render(
    values: dict[str, Any] | str, release: str = "demo", namespace: str = NAMESPACE
) -> list[Document]:
    """Every document, for a value set or the name of one. Raises what Helm finds wrong."""
    given = VALUES[values] if isinstance(values, str) else values
    return _render(json.dumps(given), release, namespace)


@functools.cache
def _render(values: str, release: str, namespace: str) -> list[Document]:
    return [
        document
        for name, text in sorted(render_files(json.loads(values), release, namespace).items())
        if name.endswith(".yaml")
        for document in yaml.load_all(text, yaml.CSafeLoader)
        if document is not None
    ]


def render_files(
    values: dict[str, Any], release: str = "demo", namespace: str = NAMESPACE
) -> dict[str, str]:
    """The text of each file, as Helm writes it now."""
    with Chart.load(CHART) as chart:
        files: dict[str, str] = chart.render(values, name=release, namespace=namespace)
    return files


def write_rules(folder: Path, values: dict[str, Any], namespace: str) -> Path:
    """The alerts of a release, in a file as Prometheus reads it."""
    documents = render({"monitoring": {"rules": True}} | values, namespace=namespace)
    (spec,) = [d["spec"] for d in documents if d["kind"] == "PrometheusRule"]
    (folder / "rules.yaml").write_text(yaml.safe_dump(spec))
    return folder / "rules.yaml"


def one(documents: list[Document], kind: str, name: str = NAME) -> Document:
    """The only document of ``kind`` called ``name``."""
    (found,) = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """The pod specs, with what they belong to."""
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        if document["kind"] == "Pod":
            yield name, document["spec"]
        elif document["kind"] == "Deployment":
            yield name, document["spec"]["template"]["spec"]


def containers(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """The containers, those of initialisation included, with what they belong to."""
    for name, pod in pods(documents):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield f"{name}/{container['name']}", container


def config(documents: list[Document]) -> Document:
    """The server's configuration."""
    return tomllib.loads(one(documents, "ConfigMap")["data"]["config.toml"])


def mappings(value: Any) -> Iterator[Document]:
    """Every mapping in ``value``, at any depth."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from mappings(item)
