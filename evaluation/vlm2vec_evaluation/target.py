"""Finds the version of a served model that is to be evaluated."""

from dataclasses import dataclass

from vlm2vec import Model
from vlm2vec_evaluation.errors import EvaluationError


@dataclass(frozen=True)
class EvaluationTarget:
    """The version of a model that is evaluated, and the space of its vectors."""

    model: str
    version: str
    space: str
    backbone: str


def find_target(models: list[Model], reference: str) -> EvaluationTarget:
    """Finds what NAME, NAME@ALIAS or NAME@VERSION means on a server with ``models``.

    Without a name it is the only model, without a suffix the champion. Raises `EvaluationError`
    that lists what there is.
    """
    name, _, wanted = reference.partition("@")
    found = [model for model in models if name in ("", model.name)]
    if len(found) != 1:
        names = ", ".join(model.name for model in models)
        problem = "is needed" if not name else f"{name!r} is not served"
        raise EvaluationError(f"a model {problem}; there are {names}: give --model NAME")
    model, wanted = found[0], wanted or "champion"
    for version in model.versions:
        if wanted == version.version or wanted in version.aliases:
            return EvaluationTarget(model.name, version.version, version.space, model.backbone)
    known = [item.version for item in model.versions]
    known += sorted(alias for item in model.versions for alias in item.aliases)
    raise EvaluationError(
        f"model {model.name!r} has no version or alias {wanted!r}; there are {', '.join(known)}"
    )
