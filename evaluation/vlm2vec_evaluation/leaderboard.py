"""Writes a folder of reports: the files that MMEB's leaderboard takes, in the form of upstream's
evaluation, and a page for people."""

import datetime
import json
from pathlib import Path
from typing import Any

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.evaluation import Evaluation, Ranked
from vlm2vec_evaluation.metrics import DataSetScores
from vlm2vec_evaluation.suite import META_TASKS
from vlm2vec_registry.files import write_whole

SCORES = "score.json"
PAGE = "report.html"


def write_data_set(folder: Path, ranked: Ranked) -> None:
    """Writes ``NAME_score.json`` and ``NAME_pred.jsonl``: of each query the best candidates, their
    scores, and those that are right with their grades. Raises `EvaluationError`."""
    reading, name = ranked.reading, ranked.scores.name
    lines = []
    for query, row, ranking in zip(reading.asked, ranked.rows, ranked.rankings, strict=True):
        lines.append({
            "query": query,
            "prediction": [reading.labels[place] for place in ranking.top],
            "prediction_scores": [round(float(score), 6) for score in ranking.scores],
            "label": [reading.labels[place] for place in row.right],
            "rel_scores": list(row.grades),
        })  # fmt: skip
    _write(folder / f"{name}_score.json", json.dumps(_scores(ranked.scores), indent=2) + "\n")
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    _write(folder / f"{name}_pred.jsonl", text)


def write_all(folder: Path, evaluation: Evaluation, model: str, space: str, page: str) -> None:
    """Writes `SCORES`, in which all data sets stand by modality, and ``page`` as `PAGE`.

    Raises `EvaluationError`.
    """
    metrics: dict[str, dict[str, Any]] = {}
    for name, row in evaluation.data_sets.items():
        metrics.setdefault(META_TASKS[row.meta_task], {})[name] = _scores(row)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    metadata = {"model_name": model, "space": space, "report_generated_date": today}
    whole = {"metadata": metadata, "metrics": metrics}
    _write(folder / SCORES, json.dumps(whole, indent=2) + "\n")
    _write(folder / PAGE, page)


def _scores(row: DataSetScores) -> dict[str, float]:
    return {**row.scores.all, "num_pred": row.queries, "num_data": row.queries}


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror}") from error
