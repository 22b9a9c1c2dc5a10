"""Sources of vectors: how an input is identified, and how a running service embeds it."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias, Unpack

import numpy as np

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.vector_file import Vector

if TYPE_CHECKING:  # the client imports gRPC, which takes a while
    from vlm2vec import Client, Options
    from vlm2vec.inputs import InputLike

Key: TypeAlias = bytes
"""The SHA-256 of an input: of its words, and of its images as they travel."""
Embed: TypeAlias = Callable[
    [Iterable[tuple[Key, "InputLike"]]], Iterator[tuple[Key, Vector | Exception]]
]
"""Gives each input its vector, float32 ``(dim,)``, or the error for which it has none.

The inputs may come in any order.
"""


def key_of(item: "InputLike") -> Key:
    """Returns 32 bytes that are equal for inputs of equal messages. Reads image files.

    Raises `EvaluationError` for a file that cannot be read.
    """
    from vlm2vec import VLM2VecError
    from vlm2vec.inputs import to_proto

    try:
        message = to_proto(item, None)
    except VLM2VecError as error:
        raise EvaluationError(str(error)) from error
    return hashlib.sha256(message.SerializeToString(deterministic=True)).digest()


def by_client(client: "Client", window: int = 256, **options: "Unpack[Options]") -> Embed:
    """Makes a source of ``client``, which embeds ``window`` inputs at a time.

    ``options`` are those of a call: they name the model and the version.
    """

    from vlm2vec import VLM2VecError

    def embed(
        items: "Iterable[tuple[Key, InputLike]]",
    ) -> Iterator[tuple[Key, Vector | Exception]]:
        named = ((key.hex(), item) for key, item in items)
        for id, result in client.stream(named, window=window, on_error="yield", **options):
            assert isinstance(id, str)
            assert isinstance(result, np.ndarray | VLM2VecError)
            yield bytes.fromhex(id), result

    return embed
