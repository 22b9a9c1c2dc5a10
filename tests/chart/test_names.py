"""Whatever a user may write as a name or word arrives as that, also where YAML would read another
kind of value."""

import copy
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
from helm_python import HelmError

from tests.chart.rendering import CHART, VALUES, Document, mappings, one, render

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
CUSTOM = {path.stem for path in (Path(__file__).parent / "schemas").glob("*.json")}
NAME = "r123-vlm2vec-serve"
"""What resources of the release 123 are called: a Service's name begins with a letter."""
WORDS = ("123", "1e3", "true", "null", "0x1f", "~")
"""Each is no string to YAML unless it is quoted."""
MODELS: list[Document] = [
    {
        "name": "2024",
        "folder": "1e3",
        "adapters": [{"version": "1", "folder": "007"}],
        "aliases": {"champion": "1", "123": "1"},
    },
    {"name": "1e3", "repository": "1/2", "revision": "3"},
]


def validate(documents: list[Document]) -> None:
    """Raises for a value that is not of the kind that Kubernetes wants."""
    for document in documents:
        for mapping in mappings(document):
            for key, value in mapping.items():
                assert isinstance(key, str), document["metadata"]
                if key in {"labels", "annotations", "matchLabels", "nodeSelector"}:
                    assert all(isinstance(word, str) for word in value.values()), document
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, "1.37", strict=True)


@pytest.mark.parametrize("split", [False, True])
def test_a_release_a_namespace_models_and_versions_may_look_like_numbers(split: bool) -> None:
    models = [{**model, "worker": {"nodeSelector": {"a": "1"}}} if split else model
              for model in MODELS]  # fmt: skip
    monitoring = {"kind": "podMonitor", "rules": True, "dashboards": True}
    values = {"models": models, "split": {"enabled": split}, "monitoring": monitoring}
    documents = render(values, "123", "456")
    validate(documents)
    settings = tomllib.loads(one(documents, "ConfigMap", NAME)["data"]["config.toml"])
    assert settings["adapter"] == ["2024/1=/models/007"]
    assert settings["model"] == ["2024=/models/1e3", "1e3=/models/1/2@3"]
    assert "2024@123=1" in settings["alias"]


def strings(part: Document, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The paths of the texts among the values, with the patterns that they have to match."""
    part = SCHEMA["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
    for key, inner in part.get("properties", {}).items():
        if key not in {"settings", "global", "fullnameOverride"}:
            yield from strings(inner, (*path, key))
    if part.get("type") == "string":
        yield path, part.get("pattern", "")


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("name", ["default", "tls", "mlflow", "istio", "keda", "zero"])
def test_every_text_among_the_values_is_quoted(word: str, name: str) -> None:
    """All that may be ``word`` are, at once."""
    values = copy.deepcopy(VALUES[name])
    given = 0
    for path, pattern in strings(SCHEMA):
        if re.search(pattern, word):
            place = values
            for key in path[:-1]:
                place = place.setdefault(key, {})
            place[path[-1]] = word
            given += 1
    assert given > 5
    maps = ("podLabels", "podAnnotations", "annotations", "nodeSelector")
    validate(render(values | {key: {"a": word} for key in maps}))


@pytest.mark.parametrize("word", ["true", "null", "no"])
def test_a_name_that_yaml_reads_as_something_else_is_refused(word: str) -> None:
    with pytest.raises(HelmError, match="fullnameOverride"):
        render({"fullnameOverride": word})
