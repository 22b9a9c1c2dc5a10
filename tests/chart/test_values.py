"""The values: documented, checked by name, and as the options of the command are."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from helm_python import HelmError

from tests.chart.rendering import CHART, ROOT, render


def test_what_is_generated_is_current() -> None:
    command = [sys.executable, str(ROOT / "helm" / "generate.py"), "--check"]
    subprocess.run(command, check=True)


def test_the_schema_and_the_values_have_the_same_keys() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(value: Any, part: dict[str, Any], path: str) -> None:
        if not (isinstance(value, dict) and part.get("additionalProperties") is False):
            return
        properties = part["properties"]
        if path == ".settings":
            assert value.keys() <= properties.keys()
            return
        assert value.keys() == properties.keys() - {"global"}, path
        assert value.keys() == set(part["required"]), path  # null takes a key away
        for key, inner in value.items():
            compare(inner, properties[key], f"{path}.{key}")

    compare(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


ADAPTER = {"version": "1", "folder": "b"}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"replica": 2}, "replica"),
    ({"replicas": -1}, "replicas"),
    ({"replicas": "two"}, "replicas"),
    ({"device": "tpu"}, "device"),
    ({"gpu": {"count": 0}}, "count"),
    ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ({"image": {"digest": "sha256:abc"}}, "digest"),
    ({"models": []}, "models"),
    ({"models": [{"name": "a/b", "folder": "a"}]}, "name"),
    ({"models": [{"name": "a"}]}, "models[0] (a): needs a folder"),
    ({"models": [{"name": "a", "folder": "a", "repository": "b/c"}]}, "(a): has a folder"),
    ({"models": [{"name": "a", "folder": "a", "revision": "b"}]}, "models[0] (a): revision"),
    ({"models": [{"name": "a b", "folder": "a"}]}, "name"),
    ({"models": [{"name": "a", "folder": "a/../b"}]}, "folder"),
    ({"models": [{"name": "a", "repository": "../.."}]}, "repository"),
    ({"models": [{"name": "a", "folder": "a"}] * 2}, "models[1] (a): another model has this name"),
    (
        {"models": [{"name": "a", "folder": "a", "adapters": [ADAPTER] * 2}]},
        "models[0] (a), version 1: there is one of this name already",
    ),
    (
        {"models": [{"name": "a", "folder": "a", "aliases": {"champion": "2"}}]},
        "models[0] (a): alias champion is version 2",
    ),
    ({"models": [{"name": "a", "folder": "a", "worker": {"replicas": 2}}]}, "split.enabled"),
    ({"registry": {"uri": "https://mlflow.example.com"}}, "models[0] (v2): adapters and aliases"),
    ({"mlflow": {"enabled": True}}, "models[0] (v2): adapters and aliases"),
    ({"nameOverride": "my chart"}, "nameOverride"),
    ({"fullnameOverride": "Embeddings"}, "fullnameOverride"),
    ({"fullnameOverride": "a.b"}, "fullnameOverride"),
    ({"podLabels": {"app.kubernetes.io/component": "a"}}, "podLabels: app.kubernetes.io/component"),
    ({"podLabels": {"vlm2vec/model": "a"}}, "podLabels: vlm2vec/model"),
    ({"monitoring": {"labels": {"helm.sh/chart": "a"}}}, "monitoring.labels: helm.sh/chart"),
    ({"podAnnotations": {"checksum/config": "a"}}, "podAnnotations: checksum/config"),
    ({"extraEnv": [{"name": "HOME", "value": "/"}]}, "extraEnv: HOME"),
    ({"extraEnv": [{"name": "A", "value": "/"}] * 2}, "extraEnv: A"),
    ({"extraVolumes": [{"name": "models", "emptyDir": {}}]}, "extraVolumes: models"),
    ({"extraContainers": [{"name": "server", "image": "a"}]}, "extraContainers: server"),
    ({"initContainers": [{"name": "download", "image": "a"}]}, "initContainers: download"),
    ({"models": [{"name": "a", "folder": "/etc"}]}, "folder"),
    ({"models": [{"name": "a", "folder": "a", "path": "b"}]}, "path"),
    ({"models": [{"name": "a", "folder": "a", "revision": "x'; id; '"}]}, "revision"),
    ({"modelCache": {"type": "nfs"}}, "type"),
    ({"resources": {"requests": {"memory": "12 GB"}}}, "memory"),
    ({"settings": {"max-input": 3}}, "max-input"),
    ({"settings": {"max-inputs": "many"}}, "max-inputs"),
    ({"settings": {"listen": "0.0.0.0:1"}}, "listen"),
    ({"autoscaling": {"kind": "vpa"}}, "kind"),
    ({"monitoring": {"kind": "ServiceMonitor"}}, "kind"),
    ({"tls": {"secretName": "UPPER"}}, "secretName"),
    ({"registry": {"uri": "mlflow:5000"}}, "uri"),
    ({"networkPolicy": {"callers": [{}]}}, "callers"),
    ({"topologySpread": {"whenUnsatisfiable": "Never"}}, "whenUnsatisfiable"),
    # What the templates check.
    ({"tls": {"clientCa": True}}, "tls.clientCa"),
    ({"auth": {"allowAnonymous": False}}, "auth.callers.secretName"),
    ({"tls": {"secretName": "a"}, "http": {"enabled": False}}, "http.enabled"),
    ({"settings": {"without-credential": "metrics"}}, "without-credential"),
    ({"ingress": {"enabled": True}}, "ingress.host"),
    ({"grpcRoute": {"enabled": True}}, "grpcRoute.parentRefs"),
    ({"ingress": {"enabled": True, "host": "a", "port": "metrics"}}, "port"),
    (
        {"ingress": {"enabled": True, "host": "a", "port": "http"}, "http": {"enabled": False}},
        "ingress.port",
    ),
    (
        {"registry": {"webhookSecret": {"name": "a"}}, "http": {"enabled": False}},
        "registry.webhookSecret.name",
    ),
    ({"autoscaling": {"minReplicas": 9}}, "autoscaling.minReplicas"),
    ({"rollout": {"maxSurge": 0, "maxUnavailable": "0%"}}, "rollout: maxSurge and maxUnavailable"),
    ({"rollout": {"maxSurge": -1}}, "maxSurge"),
    ({"split": {"enabled": True}, "gpu": {"count": 2}}, "gpu.count"),
    ({"autoscaling": {"kind": "keda", "minReplicas": 0}}, "minReplicas"),
    (
        {"split": {"enabled": True}, "autoscaling": {"workers": {"minReplicas": 5}}},
        "models[0] (v2): minReplicas of its workers",
    ),
    ({"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}}, "podDisruptionBudget"),
    ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs"),
    ({"backendTlsPolicy": {"enabled": True, "hostname": "a"}}, "backendTlsPolicy"),
    *(
        ({"modelCache": {"persistentVolumeClaim": {"accessModes": ["ReadWriteOnce"]}}} | more,
         "modelCache.persistentVolumeClaim.accessModes")
        for more in ({}, {"replicas": 1, "autoscaling": {"kind": "hpa"}},
                     {"replicas": 1, "split": {"enabled": True}})
    ),
]  # fmt: skip


@pytest.mark.parametrize(("values", "name"), WRONG, ids=lambda value: str(value)[:60])
def test_a_wrong_value_is_an_error_that_names_it(values: dict[str, Any], name: str) -> None:
    with pytest.raises(HelmError) as caught:
        render(values)
    assert name in str(caught.value)


def maps(value: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all maps and lists in ``value``."""
    for key, inner in value.items():
        if isinstance(inner, dict | list):
            yield (*path, key)
        if isinstance(inner, dict):
            yield from maps(inner, (*path, key))


RESOURCES = {"resources", "split", "modelCache", "mlflow"}
"""Where `requests` and `limits` are, which may be missing."""
MAPS = list(maps(yaml.safe_load((CHART / "values.yaml").read_text())))


@pytest.mark.parametrize("path", MAPS, ids=".".join)
def test_null_for_a_map_is_refused_by_name_or_means_none(path: tuple[str, ...]) -> None:
    values: Any = None
    for key in reversed(path):
        values = {key: values}
    problem = problem_of(values)
    assert not problem or path[-1] in problem
    assert "nil pointer" not in problem
    assert problem or path[0] in {"podSecurityContext", "securityContext", *RESOURCES}


def problem_of(values: dict[str, Any]) -> str:
    """What Helm says is wrong with them; empty where it renders them."""
    try:
        render(values)
    except HelmError as error:
        return str(error)
    return ""
