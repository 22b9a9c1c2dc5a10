"""Records a training run in MLflow: its parameters, its curves, and who ran which code on what."""

import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from vlm2vec_registry.lineage import DataSet, data_sets, origin
from vlm2vec_registry.mlflow_errors import mlflow_errors


class Tracker:
    """Writes to the MLflow run ``run_id``, or to a new one that is called ``name``.

    ``uri`` is a server, a database or a folder. Without one nothing is recorded. Every method
    raises `OutageError` where MLflow cannot be asked.
    """

    def __init__(self, uri: str, run_id: str = "", name: str = "train") -> None:
        self.run_id = run_id
        self.client: Any = None
        if not uri:
            return
        from vlm2vec_registry.store import Registry  # takes seconds: MLflow

        registry = Registry(uri)
        self.client = registry.client
        if not run_id:
            number = registry.experiment(name=EXPERIMENT)
            with mlflow_errors():
                made = self.client.create_run(number, run_name=name, tags=dict(origin()))
                self.run_id = str(made.info.run_id)

    def describe(
        self, parameters: Mapping[str, Any], tags: Mapping[str, str], data: list[DataSet]
    ) -> None:
        """Records the parameters and tags of the run, and the data it reads, once."""
        if self.client is None:
            return
        with mlflow_errors():
            for key, value in parameters.items():
                self.client.log_param(self.run_id, key, value)
            for key, value in tags.items():
                self.client.set_tag(self.run_id, key, value)
            self.client.log_inputs(self.run_id, data_sets(data, "training"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point at ``step`` to the curve of each of ``values``."""
        if self.client is None:
            return
        with mlflow_errors():
            for key, value in values.items():
                self.client.log_metric(self.run_id, key, value, step=step)

    def finish(self) -> None:
        """Marks the run as finished."""
        if self.client is not None:
            with mlflow_errors():
                self.client.set_terminated(self.run_id)


EXPERIMENT = "vlm2vec-train"


def code_identity() -> dict[str, str]:
    """Returns tags that name this package's source, by a digest, and what computes with it."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    versions = {
        f"version.{name}": metadata.version(name)
        for name in ("vlm2vec-serve", "torch", "transformers", "peft")
    }
    return {"code.training": digest.hexdigest()[:16], **versions}
