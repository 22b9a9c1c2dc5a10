"""Scores that the authors of models published for them, to stand beside those that are found.

They are of MMEB's own score files and of the paper of its third version (arXiv:2604.23321); the two
sets of single pages have the scores on the corrected data, or none.
"""

import functools
import json
from collections.abc import Mapping
from importlib import resources

from vlm2vec_evaluation.errors import EvaluationError


@functools.cache
def published() -> Mapping[str, Mapping[str, float]]:
    """Returns the score of each data set, from 0 to 1, by the model and the data set's name."""
    text = (resources.files("vlm2vec_evaluation") / "published.json").read_text()
    found: Mapping[str, Mapping[str, float]] = json.loads(text)
    return found


def of_models(names: str) -> dict[str, Mapping[str, float]]:
    """Finds the scores of models, whose ``names`` commas separate.

    Raises `EvaluationError` that lists the models there are.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in published()]:
        raise EvaluationError(
            f"--beside: no published scores of {', '.join(unknown)}; there are those of "
            f"{', '.join(published())}"
        )
    return {name: published()[name] for name in wanted}
