"""Artifacts on S3, behind the MLflow server and read directly; moto stands in for Amazon's."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from tests.conftest import adapter_folder
from tests.e2e.mlflow_server import running_mlflow
from tests.e2e.server import free_ports, wait_until
from vlm2vec_registry import artifact
from vlm2vec_registry.cache import Cache
from vlm2vec_registry.errors import OutageError
from vlm2vec_registry.store import EXPERIMENT, Registry

BUCKET = "adapters"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An S3 server with a bucket, and the environment that leads to it."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    for key, value in {
        "MLFLOW_S3_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    with (tmp_path / "moto.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log, stderr=log,
        )  # fmt: skip
    client = boto3.client("s3", endpoint_url=url)

    def made() -> bool:
        assert process.poll() is None, (tmp_path / "moto.log").read_text()
        try:
            client.create_bucket(Bucket=BUCKET)
        except Exception:  # noqa: BLE001 (it has not started yet, in one way or another)
            return False
        return True

    try:
        wait_until(made, 60)
        yield process
    finally:
        process.kill()
        process.wait()


def publish_and_fetch(registry: Registry, base: Path, folder: Path) -> str:
    """Where the files of a version lie that was published and fetched."""
    version = registry.publish("qwen", adapter_folder("qwen2_vl", "dora"), base=base)
    cache = Cache(folder, 1 << 30)
    found = cache.get(version.digests, lambda place: registry.download(version, place, 1 << 30))
    weights = adapter_folder("qwen2_vl", "dora") / artifact.WEIGHTS
    assert (found / artifact.WEIGHTS).read_bytes() == weights.read_bytes()
    return version.uri


def test_read_directly(s3: subprocess.Popen[bytes], checkpoints: Path, tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db")
    registry.client.create_experiment(EXPERIMENT, f"s3://{BUCKET}/direct")
    uri = publish_and_fetch(registry, checkpoints / "qwen2_vl", tmp_path / "cache")
    assert uri.startswith(f"s3://{BUCKET}/direct/")
    s3.kill()
    s3.wait()
    version = registry.version("qwen", "1")
    (tmp_path / "away").mkdir()
    with pytest.raises(OutageError):
        registry.download(version, tmp_path / "away", 1 << 30)


def test_behind_mlflow(s3: subprocess.Popen[bytes], checkpoints: Path, tmp_path: Path) -> None:
    assert s3.poll() is None
    with running_mlflow(tmp_path / "mlflow", destination=f"s3://{BUCKET}/proxied") as mlflow:
        registry = Registry(mlflow.url)
        uri = publish_and_fetch(registry, checkpoints / "qwen2_vl", tmp_path / "cache")
    assert uri.startswith("mlflow-artifacts:")
