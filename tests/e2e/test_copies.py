"""A version that MLflow copied from a model to another is served from a real MLflow server, whose
password shows up nowhere."""

from pathlib import Path

from tests.conftest import adapter_folder
from tests.e2e.cases import Golden, case_inputs, cosine
from tests.e2e.grpc_calls import embed
from tests.e2e.mlflow_server import running_mlflow
from tests.e2e.server import running_server, wait_until
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_registry import traffic
from vlm2vec_registry.store import Registry

MODEL = "it's prod"
AWAY = "the registry cannot be asked"


def test_a_copy_is_served_like_any_other(checkpoints: Path, tmp_path: Path, golden: Golden) -> None:
    base = checkpoints / "qwen2_vl"
    with running_mlflow(tmp_path / "mlflow") as mlflow:
        uri = mlflow.url.replace("//", "//user:s3cret@")
        registry = Registry(uri)
        first = registry.publish(
            "dev", adapter_folder("qwen2_vl", "lora"), base=base, metrics={"hit1": 0.5}
        )
        registry.client.copy_model_version("models:/dev/1", MODEL)
        copy = registry.version(MODEL, "1")
        assert (copy.uri, copy.space) == ("models:/dev/1", first.space)
        assert registry.metrics(copy) == {"hit1": 0.5}
        traffic.promote(registry, MODEL, "1")
        flags = (
            "--model", f"{MODEL}={base}", "--registry", uri, "--dtype", "float32",
            "--poll-seconds", "0.5", "--cache-dir", str(tmp_path / "cache"),
        )  # fmt: skip
        with running_server(tmp_path, *flags) as server:
            named = pb.CallOptions(model=pb.ModelRef(name=MODEL, alias="champion"))
            (vector,) = embed(server, case_inputs("qwen")["text"], given=named)
            assert cosine(vector, golden["qwen2_vl/lora/text"]) > 0.9999
            said, looks = (
                server.log.read_text().count(AWAY), server.metric("registry_errors_total")
            )  # fmt: skip
            mlflow.kill()
            wait_until(lambda: server.metric("registry_errors_total") >= looks + 3, 60)
            assert server.metric("registry_away_seconds") > 0
            log, metrics = server.log.read_text(), server.metrics_text()
            assert log.count(AWAY) <= said + 1
            assert "Retrying" not in log  # MLflow's own client would say each of its tries
            assert "http://***@127.0.0.1" in log
            assert "s3cret" not in log + metrics
            embed(server, case_inputs("qwen")["text"], given=named)
