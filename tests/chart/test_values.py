"""The values: documented, checked by name, and as the options of the command are."""

import json
import subprocess
import sys
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
        for key, inner in value.items():
            compare(inner, properties[key], f"{path}.{key}")

    compare(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


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
    ({"models": [{"name": "a"}]}, "folder"),
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
    ({"split": {"enabled": True}, "autoscaling": {"kind": "keda"}}, "autoscaling.kind"),
]


@pytest.mark.parametrize(("values", "name"), WRONG, ids=lambda value: str(value)[:60])
def test_a_wrong_value_is_an_error_that_names_it(values: dict[str, Any], name: str) -> None:
    with pytest.raises(HelmError) as caught:
        render(values)
    assert name in str(caught.value)
