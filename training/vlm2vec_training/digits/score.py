"""hit@1 of a base and an adapter on the tasks, by the engine in this process."""

from pathlib import Path

from vlm2vec_evaluation.evaluation import Evaluation, evaluate
from vlm2vec_evaluation.local import load
from vlm2vec_service.settings import EngineSettings, Limits, VideoSettings
from vlm2vec_training.digits.tasks import tasks


def score(base: Path, adapter: Path | None, **sizes: int) -> Evaluation:
    """The scores of all tasks; ``sizes`` are those of `tasks`."""
    model = load(base, adapter, EngineSettings(), Limits(), VideoSettings())
    return evaluate(model.embed, tasks(**sizes))
