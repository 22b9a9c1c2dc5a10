"""How pods are replaced, with GPUs that are free for nobody, and how long that may take."""

from typing import Any

import pytest

from tests.chart.rendering import NAME, Document, one, render

SPLIT: Document = {"split": {"enabled": True}, "models": [{"name": "v2", "folder": "v2"}]}
WORKER = f"{NAME}-worker-v2"
ONE_NODE: Document = {
    "modelCache": {"persistentVolumeClaim": {"accessModes": ["ReadWriteOnce"]}},
    "replicas": 1, "device": "cpu",
}  # fmt: skip


def strategy(values: Document, name: str = NAME) -> tuple[Any, Any]:
    """Pods more and pods less while a Deployment's are replaced."""
    found = one(render(values), "Deployment", name)["spec"]["strategy"]
    assert found["type"] == "RollingUpdate"
    return found["rollingUpdate"]["maxSurge"], found["rollingUpdate"]["maxUnavailable"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # A GPU in use is free for nobody: one pod goes first, whoever scales them.
        ({}, (0, 1)),
        ({"autoscaling": {"kind": "hpa"}}, (0, 1)),
        ({"autoscaling": {"kind": "keda"}}, (0, 1)),
        # The only one goes when another answers.
        ({"replicas": 1}, (1, 0)),
        ({"autoscaling": {"kind": "keda", "minReplicas": 1}}, (1, 0)),
        ({"device": "cpu"}, (1, 0)),
        # A second pod could not mount the volume elsewhere.
        (ONE_NODE, (0, 1)),
        ({"rollout": {"maxSurge": 2}}, (2, 0)),
        ({"rollout": {"maxSurge": "50%", "maxUnavailable": "10%"}}, ("50%", "10%")),
        ({"rollout": {"maxSurge": 0}, "replicas": 1}, (0, 1)),
        ({"rollout": {"maxUnavailable": 0}}, (1, 0)),
        ({"rollout": {"maxUnavailable": 2}}, (0, 2)),
    ],
)
def test_pods_with_a_device_are_replaced_as_there_are_devices(
    values: Document, expected: tuple[Any, Any]
) -> None:
    assert strategy(values) == expected
    if "ReadWriteOnce" not in str(values):
        own = {key: values[key] for key in ("rollout", "replicas", "device") if key in values}
        workers = dict(SPLIT) | own
        if "autoscaling" not in values:
            assert strategy(workers, WORKER) == expected
        assert strategy(workers) == ("25%", 0)


def test_a_model_with_one_worker_is_not_cut_off() -> None:
    models = [
        {"name": "one", "folder": "a", "worker": {"replicas": 1}},
        {"name": "many", "folder": "a", "worker": {"replicas": 3}},
    ]
    values = SPLIT | {"models": models}
    assert strategy(values, f"{NAME}-worker-one") == (1, 0)
    assert strategy(values, f"{NAME}-worker-many") == (0, 1)


def test_a_rollout_waits_for_downloads_and_then_for_the_start() -> None:
    def deadline(values: Document) -> int:
        documents = render(values)
        (seconds,) = {
            d["spec"]["progressDeadlineSeconds"] for d in documents if d["kind"] == "Deployment"
        }
        return int(seconds)

    # 16 GB at 10 MB/s are 1600 s.
    assert deadline({}) > 1600 + 900
    slow = {"modelCache": {"download": {"seconds": 20_000}}}
    assert deadline(slow) > 20_000 + 900
    assert deadline(slow | {"split": {"enabled": True}}) > 20_000 + 900
    there = {"modelCache": {"download": {"enabled": False, "seconds": 20_000}}}
    assert 900 < deadline(there) < 2000
    assert deadline(there | {"startupSeconds": 3000}) > 3000


def test_the_start_has_its_seconds_once_models_are_there() -> None:
    """An init container's time is not the startup probe's."""
    for values, name in (
        ({"startupSeconds": 1200}, NAME),
        (SPLIT | {"startupSeconds": 1200}, WORKER),
    ):
        (container,) = one(render(values), "Deployment", name)["spec"]["template"]["spec"][
            "containers"
        ]
        probe = container["startupProbe"]
        assert 1200 <= probe["periodSeconds"] * probe["failureThreshold"] < 1210
