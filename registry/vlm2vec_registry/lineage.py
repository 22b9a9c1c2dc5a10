"""Where a run comes from, in MLflow's own words: who made it, with which program, from which commit
and on which data. MLflow's pages show each of them in its place.

Importing MLflow takes seconds, so nothing here does before it is called.
"""

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm2vec_registry.errors import RegistryError
from vlm2vec_registry.mlflow_errors import mlflow_errors
from vlm2vec_registry.uri import without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

USER = "mlflow.user"
"""MLflow's tag for who made a run, as the client says: no server of MLflow's own proves it."""
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tags of an experiment: MLflow shows its models and runs, and not the traces of agents."""


@dataclass(frozen=True)
class DataSet:
    """Rows that a run read. ``digest``, of at most 36 characters, changes with any of them."""

    name: str
    digest: str
    place: Path
    rows: int


@functools.cache
def origin() -> Mapping[str, str]:
    """Tags that say who runs this process, which program it is, and the commit of the folder that
    it was started in, where that is in a git repository."""
    from mlflow.tracking.context.registry import resolve_tags

    version = metadata.version("vlm2vec-serve")
    return {**resolve_tags(), **_commit(Path.cwd()), "version.vlm2vec-serve": version}


def _commit(folder: Path) -> dict[str, str]:
    """MLflow's tags for the git commit of ``folder``; none where there is none."""
    try:
        from git import Repo

        with Repo(folder, search_parent_directories=True) as repository:
            tags = {
                "mlflow.source.git.commit": repository.head.commit.hexsha,
                "mlflow.source.git.dirty": str(repository.is_dirty()).lower(),
            }
            if repository.remotes:
                tags["mlflow.source.git.repoURL"] = without_secrets(repository.remotes[0].url)
            return tags
    except Exception:  # noqa: BLE001 (no git, no repository, no commit, or somebody else's)
        return {}


def data_sets(found: list[DataSet], context: str) -> "list[DatasetInput]":
    """What MLflow takes for the data of a run; ``context`` is "training" or "evaluation"."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(
                one.name, one.digest, "local", json.dumps({"uri": str(one.place.absolute())}),
                profile=json.dumps({"num_rows": one.rows}),
            ),
            [InputTag("mlflow.data.context", context)],
        )
        for one in found
    ]  # fmt: skip


@contextlib.contextmanager
def recorded_run(
    client: "MlflowClient",
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    parameters: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Gives the id of a new run, which has failed where the block does. Raises `OutageError`."""
    from mlflow.entities import Param

    with mlflow_errors():
        made: Any = client.create_run(experiment, run_name=name, tags={**origin(), **tags})
    run = str(made.info.run_id)
    try:
        if parameters:
            with mlflow_errors():
                client.log_batch(run, params=[Param(*item) for item in parameters.items()])
        yield run
    except BaseException:
        with contextlib.suppress(RegistryError), mlflow_errors():
            client.set_terminated(run, "FAILED")
        raise
    with mlflow_errors():
        client.set_terminated(run)
