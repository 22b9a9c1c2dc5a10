"""Records evaluations: in an MLflow run, and in a tag of the version that was evaluated."""

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.evaluation import Evaluation
from vlm2vec_evaluation.report import to_json
from vlm2vec_evaluation.suite import OVERALL, Suite
from vlm2vec_registry.errors import RegistryError

if TYPE_CHECKING:
    from vlm2vec_registry.snapshot import PublishedVersion
    from vlm2vec_registry.store import Registry

PREFIX = "vlm2vec.evaluation."
"""With a suite's name behind it, the tag that holds the last evaluation on that suite."""


@dataclass(frozen=True)
class Recorded:
    """A recorded evaluation, as a version's tag holds it. ``hit1`` and ``data`` are by data set."""

    suite: str
    suite_digest: str
    space: str
    run_id: str
    overall: dict[str, float]
    hit1: dict[str, float]
    data: dict[str, str]


def record(
    registry: "Registry", version: "PublishedVersion", suite: Suite, evaluation: Evaluation,
    space: str,
) -> Recorded:  # fmt: skip
    """Logs the scores to a run, and names it in a tag of ``version``.

    Metrics are called ``DATA_SET/hit1`` and ``overall/hit1``; ``evaluation.json`` is the whole.
    Raises `EvaluationError` if the vectors were not of the version's space, or the evaluation has
    not all data sets of the suite.
    """
    where = f"{version.model} version {version.name}"
    if space != version.space:
        raise EvaluationError(
            f"{where} has space {version.space} in the registry, the vectors are of space {space}"
        )
    names = [item.name for item in suite.data_sets]
    if missing := [name for name in names if name not in evaluation.data_sets]:
        raise EvaluationError(f"not recorded: {', '.join(missing)} were not evaluated")
    run = _log(registry, version, suite, evaluation)
    made = Recorded(
        suite=suite.name, suite_digest=suite.digest, space=space, run_id=run,
        overall=asdict(evaluation.averages[OVERALL]),
        hit1={name: row.scores.hit1 for name, row in evaluation.data_sets.items()},
        data={name: row.data for name, row in evaluation.data_sets.items()},
    )  # fmt: skip
    registry.tag(version.model, version.name, PREFIX + suite.name, json.dumps(asdict(made)))
    return made


def _log(
    registry: "Registry", version: "PublishedVersion", suite: Suite, evaluation: Evaluation
) -> str:
    """Makes a finished run in the experiment of the version's own, or in that of all publishing
    where it has none; returns its id. Raises `EvaluationError`."""
    from mlflow.entities import Metric, RunTag

    from vlm2vec_registry.mlflow_errors import mlflow_errors

    client = registry.client
    now = int(1000 * time.time())
    report = to_json(evaluation)
    tags = {
        "vlm2vec.model": version.model,
        "vlm2vec.version": version.name,
        "vlm2vec.space": version.space,
        "vlm2vec.suite": suite.name,
        "vlm2vec.suite_digest": suite.digest,
    }
    metrics = [
        Metric(f"{group}/{key}", value, now, 0)
        for part in ("averages", "data_sets")
        for group, values in report[part].items()
        for key, value in values.items()
        if isinstance(value, float)
    ]
    try:
        with mlflow_errors():
            run: str = client.create_run(
                registry.experiment(run_id=version.run_id),
                run_name=f"evaluate {version.model} {version.name} on {suite.name}",
            ).info.run_id
            client.log_batch(run, metrics, tags=[RunTag(key, value) for key, value in tags.items()])
            client.log_dict(run, {**tags, **report}, "evaluation.json")
            client.set_terminated(run)
    except RegistryError as error:
        raise EvaluationError(
            f"not recorded: {error}; run it again, the vectors are kept"
        ) from error
    return run


def read(version: "PublishedVersion", suite: Suite) -> Recorded | None:
    """Reads the last evaluation of ``version`` on a suite of this name; None if there is none.

    Raises `EvaluationError` for a tag that was not made by `record`.
    """
    text = version.tags.get(PREFIX + suite.name)
    if text is None:
        return None
    try:
        values: dict[str, Any] = json.loads(text)
        return Recorded(**values)
    except (ValueError, TypeError) as error:
        raise EvaluationError(
            f"{version.model} version {version.name}: tag {PREFIX}{suite.name} was not made by an "
            f"evaluation: {error}; evaluate it again"
        ) from error
