"""An MLflow run for a training run: parameters, curves, and what was trained on what."""

import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any


class Tracker:
    """The run ``run_id`` at the MLflow server, database or folder ``uri``, or a new one.

    Without ``uri`` nothing is recorded.
    """

    def __init__(self, uri: str, run_id: str = "", name: str = "train") -> None:
        self.run_id = run_id
        self.client: Any = None
        if not uri:
            return
        from vlm2vec_registry.store import Registry  # takes seconds: MLflow

        self.client = Registry(uri).client
        if not run_id:
            experiment = self.client.get_experiment_by_name(EXPERIMENT)
            artifacts = None if "://" in uri else (Path(uri).resolve() / "artifacts").as_uri()
            number = (
                experiment.experiment_id
                if experiment
                else self.client.create_experiment(EXPERIMENT, artifacts)
            )
            self.run_id = str(self.client.create_run(number, run_name=name).info.run_id)

    def describe(self, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Records what was asked for, once."""
        if self.client is None:
            return
        for key, value in parameters.items():
            self.client.log_param(self.run_id, key, value)
        for key, value in tags.items():
            self.client.set_tag(self.run_id, key, value)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Records points of curves."""
        if self.client is not None:
            for key, value in values.items():
                self.client.log_metric(self.run_id, key, value, step=step)

    def finish(self) -> None:
        """Closes the run."""
        if self.client is not None:
            self.client.set_terminated(self.run_id)


EXPERIMENT = "vlm2vec-train"


def code_identity() -> dict[str, str]:
    """Versions of this code and of what computes with it, and a digest of this package's source."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    versions = {
        f"version.{name}": metadata.version(name)
        for name in ("vlm2vec-serve", "torch", "transformers", "peft")
    }
    return {"code.training": digest.hexdigest()[:16], **versions}
