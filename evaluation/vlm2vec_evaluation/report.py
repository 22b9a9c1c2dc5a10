"""Writes scores as a table for people and as JSON for programs."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vlm2vec_evaluation.evaluation import Evaluation
from vlm2vec_evaluation.metrics import Scores, groups

COLUMNS = {"hit1": "hit@1", "hit5": "hit@5", "hit10": "hit@10", "mrr": "MRR", "ndcg5": "nDCG@5",
           "chance": "chance"}  # fmt: skip


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Returns ``{"averages": {group: scores}, "data_sets": {name: scores and their data}}``.

    ``score`` is by each data set's own ``metric``, ``each`` that of every query, ``all`` has every
    metric by MMEB's name for it, and ``skipped`` says why other data sets have no scores.
    """
    rows = {}
    for name, row in evaluation.data_sets.items():
        about = {"meta_task": row.meta_task, "split": row.split, "queries": row.queries}
        own = {"metric": row.metric, "score": row.score, "each": row.each.round(4).tolist()}
        rows[name] = {**about, "data": row.data, **own, **asdict(row.scores)}
    headline = evaluation.headline
    averages = {
        group: {"score": headline[group], **asdict(scores)}
        for group, scores in evaluation.averages.items()
    }
    return {"averages": averages, "data_sets": rows, "skipped": evaluation.skipped}


def table(evaluation: Evaluation, beside: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """Writes a line for each data set, and below them the averages and what was skipped.

    Where data sets are scored by several metrics, a column ``score`` has each one's own. ``beside``
    has the scores of other models, by data set, which stand at the end of a line.
    """
    beside = beside or {}
    own = len({row.metric for row in evaluation.data_sets.values()}) > 1
    width = max(map(len, [*evaluation.data_sets, "classification"]))
    kind = max(len(row.meta_task) for row in evaluation.data_sets.values())
    labels = "".join(f"{label:>8}" for label in ["score"] * own + list(COLUMNS.values()))
    others = "".join(f"  {name}" for name in beside)
    lines = [
        f"{'data set':{width}}  {'meta-task':{kind}}  {'split':5}  {'queries':>7}{labels}{others}"
    ]
    for name, row in evaluation.data_sets.items():
        about = f"{name:{width}}  {row.meta_task:{kind}}  {row.split:5}  {row.queries:7}"
        theirs = {model: scores.get(name) for model, scores in beside.items()}
        lines.append(about + _numbers(row.score if own else None, row.scores) + _beside(theirs))
    lines.append("")
    headline = evaluation.headline
    for group, scores in evaluation.averages.items():
        score = headline[group] if own else None
        theirs = {model: of_group(evaluation, group, known) for model, known in beside.items()}
        about = f"{group:{width}}  {'':{kind}}  {'':5}  {'':7}"
        lines.append(about + _numbers(score, scores) + _beside(theirs))
    for name, reason in evaluation.skipped.items():
        counted = ", counts 0" if name in evaluation.zeros else ""
        lines.append(f"skipped{counted}: {name}: {reason}")
    return "\n".join(lines)


def of_group(evaluation: Evaluation, group: str, known: Mapping[str, float]) -> float | None:
    """Averages the ``known`` scores of another model over the data sets of a group; None where it
    lacks one of them. A data set that counts 0 here counts what it has there."""
    names = [row.name for row in groups(evaluation.data_sets | evaluation.zeros)[group]]
    lacking = [name for name in names if name not in known and name not in evaluation.zeros]
    return None if lacking else sum(known.get(name, 0.0) for name in names) / len(names)


def _beside(theirs: Mapping[str, float | None]) -> str:
    return "".join(
        "  " + f"{'-' if score is None else f'{score:.4f}':>{len(model)}}"
        for model, score in theirs.items()
    )


def _numbers(score: float | None, scores: Scores) -> str:
    values = [getattr(scores, key) for key in COLUMNS]
    return "".join(f"{value:8.4f}" for value in [*([] if score is None else [score]), *values])
