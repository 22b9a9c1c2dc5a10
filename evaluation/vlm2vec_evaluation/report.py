"""Writes scores as a table for people and as JSON for programs."""

from dataclasses import asdict
from typing import Any

from vlm2vec_evaluation.evaluation import Evaluation
from vlm2vec_evaluation.metrics import Scores

COLUMNS = {"hit1": "hit@1", "hit5": "hit@5", "hit10": "hit@10", "mrr": "MRR", "ndcg5": "nDCG@5",
           "chance": "chance"}  # fmt: skip


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Returns ``{"averages": {group: scores}, "data_sets": {name: scores and their data}}``."""
    rows = {}
    for name, row in evaluation.data_sets.items():
        about = {"meta_task": row.meta_task, "split": row.split, "queries": row.queries}
        rows[name] = {**about, "data": row.data, **asdict(row.scores)}
    averages = {group: asdict(scores) for group, scores in evaluation.averages.items()}
    return {"averages": averages, "data_sets": rows}


def table(evaluation: Evaluation) -> str:
    """Writes a line for each data set, and below them the averages."""
    width = max(map(len, [*evaluation.data_sets, "classification"]))
    labels = "".join(f"{label:>8}" for label in COLUMNS.values())
    lines = [f"{'data set':{width}}  {'meta-task':14}  {'split':5}  {'queries':>7}{labels}"]
    for name, row in evaluation.data_sets.items():
        about = f"{name:{width}}  {row.meta_task:14}  {row.split:5}  {row.queries:7}"
        lines.append(about + _numbers(row.scores))
    lines.append("")
    for group, scores in evaluation.averages.items():
        lines.append(f"{group:{width}}  {'':14}  {'':5}  {'':7}" + _numbers(scores))
    return "\n".join(lines)


def _numbers(scores: Scores) -> str:
    values = asdict(scores)
    return "".join(f"{values[key]:8.4f}" for key in COLUMNS)
