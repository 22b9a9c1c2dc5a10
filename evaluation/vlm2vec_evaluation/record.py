"""Records evaluations: in an MLflow run, and in a tag of the version that was evaluated."""

import contextlib
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.evaluation import Evaluation
from vlm2vec_evaluation.report import to_json
from vlm2vec_evaluation.suite import MODALITIES, OVERALL, Suite
from vlm2vec_registry.card import table
from vlm2vec_registry.errors import RegistryError
from vlm2vec_registry.snapshot import LOGGED_MODEL

if TYPE_CHECKING:
    from mlflow.entities import Metric

    from vlm2vec_registry.snapshot import PublishedVersion
    from vlm2vec_registry.store import Registry

PREFIX = "vlm2vec.evaluation."
"""With a suite's name behind it, the tag that holds the last evaluation on that suite."""

WHOLE = "evaluation.json"
"""The artifact of an evaluation's run that has all of its scores, those of each query too."""

HIT1 = "vlm2vec.hit1."
"""With a suite's name behind it, the tag for people that holds the overall hit@1 on that suite."""


@dataclass(frozen=True)
class Recorded:
    """A recorded evaluation, as a version's tag holds it. ``hit1`` and ``data`` are by data set.

    What the model cannot take has 0 and no data. The run has all else, in `WHOLE`.
    """

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
    """Logs the scores to a run, and names it in a tag of ``version``, whose logged model has them
    too, and whose description shows them.

    Metrics are called ``DATA_SET/hit1`` and ``overall/hit1``; `WHOLE` has all.
    Raises `EvaluationError` if the vectors were not of the version's space, or the evaluation has
    not all data sets of the suite.
    """
    where = f"{version.model} version {version.name}"
    if space != version.space:
        raise EvaluationError(
            f"{where} has space {version.space} in the registry, the vectors are of space {space}"
        )
    names = [item.name for item in suite.data_sets]
    known = {**dict.fromkeys(evaluation.skipped), **evaluation.data_sets}
    if missing := [name for name in names if name not in known]:
        raise EvaluationError(f"not recorded: {', '.join(missing)} were not evaluated")
    run = _log(registry, version, suite, evaluation)
    made = Recorded(
        suite=suite.name, suite_digest=suite.digest, space=space, run_id=run,
        overall=_overall(evaluation),
        hit1={name: row.scores.hit1 if row else 0.0 for name, row in known.items()},
        data={name: row.data if row else "" for name, row in known.items()},
    )  # fmt: skip
    registry.tag(version.model, version.name, PREFIX + suite.name, json.dumps(asdict(made)))
    registry.tag(version.model, version.name, HIT1 + suite.name, f"{made.overall['hit1']:.4f}")
    _describe(registry, version, suite, evaluation)
    return made


def _overall(evaluation: Evaluation) -> dict[str, float]:
    values = asdict(evaluation.averages[OVERALL])
    del values["all"]
    return {**values, "score": evaluation.headline[OVERALL]}


def _log(
    registry: "Registry", version: "PublishedVersion", suite: Suite, evaluation: Evaluation
) -> str:
    """Makes a finished run in the experiment of the version's own, or in that of all publishing
    where it has none; returns its id. Raises `EvaluationError`."""
    from mlflow.entities import LoggedModelInput

    from vlm2vec_registry.lineage import DataSet, data_sets, recorded_run
    from vlm2vec_registry.mlflow_errors import mlflow_errors

    client, model_id = registry.client, version.tags.get(LOGGED_MODEL)
    report = to_json(evaluation)
    about = {
        "vlm2vec.model": version.model,
        "vlm2vec.version": version.name,
        "vlm2vec.space": version.space,
        "vlm2vec.suite": suite.name,
        "vlm2vec.suite_digest": suite.digest,
    }
    read = [
        DataSet(item.name, row.data, suite.root / item.path, row.queries)
        for item in suite.data_sets
        if (row := evaluation.data_sets.get(item.name))
    ]
    name = f"evaluate {version.model} {version.name} on {suite.name}"
    try:
        experiment = registry.experiment(run_id=version.run_id)
        with recorded_run(client, experiment, name, about) as run, mlflow_errors():
            models = [LoggedModelInput(model_id)] if model_id else None
            client.log_inputs(run, data_sets(read, "evaluation"), models)
            client.log_batch(run, _metrics(report, model_id))
            client.log_dict(run, {**about, **report}, WHOLE)
    except RegistryError as error:
        raise EvaluationError(
            f"not recorded: {error}; run it again, the vectors are kept"
        ) from error
    return run


def _metrics(report: Mapping[str, Any], model_id: str | None) -> "list[Metric]":
    """The scores in ``report`` as metrics of a run and of the logged model ``model_id``, those of a
    data set with what identifies it."""
    from mlflow.entities import Metric

    now = int(1000 * time.time())
    return [
        Metric(
            f"{group}/{key}", value, now, 0, model_id,
            dataset_name=group if "data" in values else None, dataset_digest=values.get("data"),
        )
        for part in ("averages", "data_sets")
        for group, values in report[part].items()
        for key, value in values.items()
        if isinstance(value, float)
    ]  # fmt: skip


def _describe(
    registry: "Registry", version: "PublishedVersion", suite: Suite, evaluation: Evaluation
) -> None:
    """Writes the scores to what MLflow's page says of ``version``."""
    rows = [
        (name, row.meta_task, f"{row.scores.chance:.3f}", f"{row.scores.hit1:.3f}")
        for name, row in evaluation.data_sets.items()
    ]
    rows += [
        (group, "", f"{scores.chance:.3f}", f"{scores.hit1:.3f}")
        for group, scores in evaluation.averages.items()
        if group in (*MODALITIES, OVERALL)
    ]
    text = table([("data set", "meta-task", "chance", "hit@1"), *rows])
    registry.describe(version, f"evaluation on {suite.name}", f"**{suite.name}**\n\n{text}")


def scores(version: "PublishedVersion") -> dict[str, float]:
    """Reads the overall hit@1 of ``version`` by suite, without tags that `record` did not make."""
    found = {}
    for key, text in version.tags.items():
        if key.startswith(PREFIX):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                found[key.removeprefix(PREFIX)] = float(json.loads(text)["overall"]["hit1"])
    return dict(sorted(found.items()))


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


def read_whole(registry: "Registry", recorded: Recorded) -> dict[str, Any]:
    """Reads all scores of a recorded evaluation from its run, as `report.to_json` made them.

    Raises `EvaluationError` if the run does not have them any more.
    """
    from vlm2vec_registry.mlflow_errors import mlflow_errors

    try:
        with mlflow_errors(), tempfile.TemporaryDirectory() as folder:
            path = registry.client.download_artifacts(recorded.run_id, WHOLE, folder)
            found: dict[str, Any] = json.loads(Path(path).read_text())
            return found
    except (RegistryError, OSError, ValueError) as error:
        raise EvaluationError(
            f"run {recorded.run_id} has no readable {WHOLE}: {error}; evaluate again"
        ) from error
