"""Where models and caches lie: written by whom, mounted where, kept and asked for."""

from typing import Any

import pytest

from tests.chart.rendering import NAME, Document, one, render


def server(values: Document | str) -> Document:
    return dict(one(render(values), "Deployment")["spec"]["template"]["spec"])


def test_a_folder_of_the_node_is_not_made_by_root() -> None:
    """It would be empty, and not writable for the pod; test_download.py has what the pod says."""
    (volume,) = [v for v in server("registry")["volumes"] if v["name"] == "models"]
    assert volume["hostPath"] == {"path": "/var/lib/vlm2vec/models", "type": "Directory"}


def test_models_outlive_the_release() -> None:
    kept = one(render("default"), "PersistentVolumeClaim", f"{NAME}-models")["metadata"]
    assert kept["annotations"] == {"helm.sh/resource-policy": "keep"}
    registry = one(render("mlflow"), "PersistentVolumeClaim", f"{NAME}-mlflow")["metadata"]
    assert registry["annotations"] == {"helm.sh/resource-policy": "keep"}
    values = {"modelCache": {"persistentVolumeClaim": {"keep": False}}}
    claim = one(render(values), "PersistentVolumeClaim", f"{NAME}-models")
    assert "annotations" not in claim["metadata"]


@pytest.mark.parametrize(
    ("values", "mebibytes"),
    [
        ({}, 2048),
        ({"modelCache": {"type": "emptyDir", "sizeLimit": "50Gi"}}, 2048 + 51200),
        ({"modelCache": {"type": "emptyDir", "sizeLimit": "1500M"}}, 2048 + 1430),
        (
            {"models": [{"name": "a", "folder": "a"}], "registry": {"uri": "https://a"}},
            2048 + 16384,
        ),
        (
            {
                "models": [{"name": "a", "folder": "a"}],
                "registry": {"uri": "https://a", "cache": {"type": "modelCache"}},
            },
            2048,
        ),
    ],
)
def test_the_disk_that_a_pod_fills_is_asked_of_its_node(values: Document, mebibytes: int) -> None:
    for form in ({}, {"split": {"enabled": True}}):
        (container,) = server(values | form)["containers"]
        assert container["resources"]["requests"]["ephemeral-storage"] == f"{mebibytes}Mi"
        limits = [v["emptyDir"]["sizeLimit"] for v in server(values)["volumes"] if "emptyDir" in v]
        assert limits[0] == "2Gi"


def test_credentials_of_mlflow_come_as_a_file_that_is_read_again_or_as_variables() -> None:
    (container,) = server("zero")["containers"]
    assert "MLFLOW_TRACKING_PASSWORD" not in str(container)
    (mount,) = [m for m in container["volumeMounts"] if m["name"] == "mlflow-credentials"]
    assert (mount["mountPath"], "subPath" in mount) == (
        "/tmp/.mlflow",
        False,
    )  # which never changes
    home: dict[str, Any] = {item["name"]: item.get("value") for item in container["env"]}
    assert home["HOME"] == "/tmp"
    (volume,) = [v for v in server("zero")["volumes"] if v["name"] == "mlflow-credentials"]
    assert volume["secret"]["items"] == [{"key": "credentials", "path": "credentials"}]
    (container,) = server("keda")["containers"]
    names = [item["name"] for item in container["env"]]
    assert {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"} <= set(names)
