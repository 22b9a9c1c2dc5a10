"""Evaluation of embedding models by MMEB's protocol, and the gate that decides a promotion.

``vlm2vec evaluate`` runs `run`: ``suite`` and ``data`` read the tasks, with prompts by ``prompts``;
``source`` has a service embed their inputs and ``local`` the engine in this process, and
``vector_file`` keeps the vectors; ``evaluation`` and ``metrics`` score them, and ``report`` prints
the scores. ``record`` writes them to a version in the registry, where ``gate`` reads them. ``mteb``
is for MTEB's own tasks.
"""

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.evaluation import Evaluation, evaluate
from vlm2vec_evaluation.metrics import Scores
from vlm2vec_evaluation.task import Record, Task

__all__ = ["Evaluation", "EvaluationError", "Record", "Scores", "Task", "evaluate"]
