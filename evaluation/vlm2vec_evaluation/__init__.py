"""Evaluation of embedding models by MMEB's protocol, and the gate that decides a promotion.

``suite`` and ``data`` read what is asked, ``remote`` and ``local`` embed it, ``evaluation`` scores
it, ``record`` writes the scores to a version in the registry and ``gate`` reads them there.
"""

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.evaluation import Evaluation, evaluate
from vlm2vec_evaluation.metrics import Scores
from vlm2vec_evaluation.task import Record, Task

__all__ = ["Evaluation", "EvaluationError", "Record", "Scores", "Task", "evaluate"]
