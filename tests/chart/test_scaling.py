"""What scales pods, and the threads and evictions that go with how many there are."""

import re
from typing import Any

import pytest
import yaml
from helm_python import Chart
from helm_python.config import Config

from tests.chart.api_server import running_api_server
from tests.chart.rendering import CHART, NAME, NAMESPACE, VALUES, Document, config, one, render

V1, V2 = f"{NAME}-worker-v1", f"{NAME}-worker-v2"


def test_pods_that_are_scaled_begin_with_the_least() -> None:
    for values, least in (("gpu", 3), ("keda", 2), ("split", 2)):
        assert one(render(values), "Deployment")["spec"]["replicas"] == least
    assert one(render("default"), "Deployment")["spec"]["replicas"] == 2
    assert one(render("zero"), "Deployment", V2)["spec"]["replicas"] == 0
    assert one(render("zero"), "Deployment", V1)["spec"]["replicas"] == 1


@pytest.mark.parametrize(
    ("values", "name", "there", "expected"),
    [
        ({"autoscaling": {"kind": "hpa"}}, NAME, 7, 7),
        ({"autoscaling": {"kind": "keda"}}, NAME, 5, 5),
        (VALUES["zero"], V2, 3, 3),
        (VALUES["zero"], V1, 0, 0),
        # Nobody else says it: the values do.
        ({"replicas": 4}, NAME, 7, 4),
    ],
)
def test_an_autoscaler_that_is_turned_on_finds_the_pods_that_there_are(
    values: Document, name: str, there: int, expected: int
) -> None:
    """Helm takes a number that is no longer rendered away, which then is 1."""
    with (
        running_api_server(NAMESPACE, name, there) as address,
        Config(kube_apiserver=address, storage_driver="memory") as cluster,
        Chart.load(CHART) as chart,
    ):
        files = cluster.render(chart, values, name="demo", namespace=NAMESPACE, is_upgrade=True)
    documents = [
        document
        for file, text in files.items() if file.endswith(".yaml")
        for document in yaml.load_all(text, yaml.CSafeLoader) if document
    ]  # fmt: skip
    assert one(documents, "Deployment", name)["spec"]["replicas"] == expected


def test_keda_scales_the_workers_of_each_model_by_what_waits_for_it() -> None:
    documents = render("zero")
    for name, model, least, most in ((V2, "v2", 0, 6), (V1, "v1", 1, 2)):
        spec = one(documents, "ScaledObject", name)["spec"]
        assert spec["scaleTargetRef"] == {"name": name}
        assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (least, most)
        waiting = spec["triggers"][0]["metadata"]
        assert waiting["query"].startswith("sum(vlm2vec_queue_tokens{")
        assert f'model="{model}"' in waiting["query"]
        assert spec["fallback"]["replicas"] >= 1
    target = one(documents, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target["name"] == NAME


def test_from_zero_somebody_is_there_to_ask_and_to_be_asked() -> None:
    """Front ends are ready without workers, and count who waits and who was refused."""
    documents = render("zero")
    (server,) = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert server["readinessProbe"]["grpc"]["service"] == "liveness"
    spec = one(documents, "ScaledObject", V2)["spec"]
    assert spec["cooldownPeriod"] == 600
    waiting, asked = (trigger["metadata"] for trigger in spec["triggers"])
    for metric in ("vlm2vec_inputs_total", "vlm2vec_starting_refused_total"):
        assert metric in asked["query"]
    assert float(asked["threshold"]) >= 1e9  # it asks for one, never for two
    assert {waiting["ignoreNullValues"], asked["ignoreNullValues"]} == {"false"}
    assert len(one(documents, "ScaledObject", V1)["spec"]["triggers"]) == 1


def test_the_pods_that_are_asked_are_this_release_s() -> None:
    (trigger,) = one(render("keda"), "ScaledObject")["spec"]["triggers"]
    pattern = re.findall(r'pod=~"(.*?)"', trigger["metadata"]["query"])[0]
    assert re.fullmatch(pattern, f"{NAME}-5d4f8c7b9-x2x4z")
    for other in (f"{NAME}-worker-v2-5d4f8c7b9-x2x4z", f"{NAME}-two-5d4f8c7b9-x2x4z", "a"):
        assert not re.fullmatch(pattern, other)


@pytest.mark.parametrize(
    ("resources", "models", "threads"),
    [
        ({"requests": {"cpu": "4"}}, 1, 3),  # one is the front end's
        ({"requests": {"cpu": "9"}}, 2, 4),
        ({"requests": {"cpu": "500m"}}, 1, 1),
        ({"requests": {"cpu": "7500m"}}, 1, 6),
        # A limit the server sees itself.
        ({"requests": {"cpu": "4"}, "limits": {"cpu": "8"}}, 1, None),
    ],
)
def test_a_worker_on_a_cpu_has_the_threads_that_its_pod_asked_for(
    resources: Document, models: int, threads: int | None
) -> None:
    values: dict[str, Any] = {
        "device": "cpu", "resources": resources,
        "models": [{"name": f"m{i}", "folder": "a"} for i in range(models)],
    }  # fmt: skip
    assert config(render(values)).get("threads") == threads
    assert config(render(values | {"settings": {"threads": 5}}))["threads"] == 5
    assert "threads" not in config(render(values | {"device": "cuda"}))
    documents = render(values | {"split": {"enabled": True}})
    assert "threads" not in config(documents)
    worker = one(documents, "Deployment", f"{NAME}-worker-m0")["spec"]["template"]["spec"]
    given = [a for a in worker["containers"][0]["args"] if a.startswith("--threads")]
    cores = {"4": 4, "9": 9, "500m": 1, "7500m": 7}[resources["requests"]["cpu"]]
    assert given == ([f"--threads={cores}"] if threads else [])


def test_evictions_leave_what_the_load_needs() -> None:
    def budget(values: Document | str) -> Document:
        spec = one(render(values), "PodDisruptionBudget", f"{NAME}-server")["spec"]
        return {key: spec[key] for key in ("maxUnavailable", "minAvailable") if key in spec}

    assert budget("default") == {"maxUnavailable": 1}
    assert budget("scarce") == {"minAvailable": 3}
    assert budget({"podDisruptionBudget": {"maxUnavailable": "25%"}}) == {"maxUnavailable": "25%"}
