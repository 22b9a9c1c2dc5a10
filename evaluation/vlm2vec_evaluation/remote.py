"""Vectors from a running service, through the public client."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Unpack

import numpy as np

from vlm2vec import Client, Model, Options, VLM2VecError
from vlm2vec.inputs import InputLike
from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.evaluation import Embed, Key
from vlm2vec_evaluation.vector_file import Vector


@dataclass(frozen=True)
class Target:
    """The version of a model that is evaluated."""

    model: str
    version: str
    space: str
    backbone: str


def by_client(client: Client, window: int = 256, **options: Unpack[Options]) -> Embed:
    """Embeds through ``client``, ``window`` inputs at a time; ``options`` name model and version."""

    def embed(
        items: Iterable[tuple[Key, InputLike]],
    ) -> Iterator[tuple[Key, Vector | Exception]]:
        named = ((key.hex(), item) for key, item in items)
        for id, result in client.stream(named, window=window, on_error="yield", **options):
            assert isinstance(id, str)
            assert isinstance(result, np.ndarray | VLM2VecError)
            yield bytes.fromhex(id), result

    return embed


def find_target(models: list[Model], reference: str) -> Target:
    """What NAME, NAME@ALIAS or NAME@VERSION means on a server with ``models``.

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
            return Target(model.name, version.version, version.space, model.backbone)
    known = [item.version for item in model.versions]
    known += sorted(alias for item in model.versions for alias in item.aliases)
    raise EvaluationError(
        f"model {model.name!r} has no version or alias {wanted!r}; there are {', '.join(known)}"
    )
