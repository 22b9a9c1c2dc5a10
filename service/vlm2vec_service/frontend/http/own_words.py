"""The fields of a body in which an input and its pieces stood, which errors name."""

import dataclasses
import re
from collections.abc import Sequence

from vlm2vec_service.errors import InvalidInputError

INPUT = re.compile(r"(?:(?:inputs|candidates)\[(\d+)\]|query)(?:\.(.*))?", re.DOTALL)
"""A field of gRPC's calls: which input it is of, and what is named within that."""
PIECE = re.compile(
    r"(parts|images|video|audio|token_ids|text|instruction|prompt)(?:\[(\d+)\])?(.*)"
)
"""A field within an input, by its name, the index if it has one, and the rest."""


@dataclasses.dataclass
class Wording:
    """How the caller wrote one input: the ``field`` in which it stands, and those of its pieces:
    the ``parts`` with their kind (``text``, ``image``, ``video``, ``audio``), ``instruction`` and
    ``prompt``."""

    field: str
    instruction: str = ""
    prompt: str = ""
    parts: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def name(self, piece: str) -> tuple[str, str]:
        """The caller's field for ``piece`` of the input as gRPC names it, ``parts[1].image``; and
        what is to be said before the problem, where the field holds more than the piece."""
        match = PIECE.fullmatch(piece)
        kind, index, rest = match.groups() if match else ("", None, "")
        number = int(index) if index else 0
        if kind == "parts" and index and number < len(self.parts):
            frame = re.search(r"frames\.images\[(\d+)\]", rest)
            return self.parts[number][1], f"frame {frame[1]}: " if frame else ""
        if kind == "images":
            return (self._of_kind("image", number), "") if index else (self.field, "images: ")
        if kind == "video":
            return self._of_kind("video", 0), f"frame {index}: " if index else ""
        if kind == "audio":
            return self._of_kind("audio", number), ""
        if kind == "token_ids":
            return self.field + piece.removeprefix(kind), ""
        if kind == "text" and sum(part == "text" for part, _ in self.parts) == 1:
            return self._of_kind("text", 0), ""
        return {"instruction": self.instruction, "prompt": self.prompt}.get(kind) or self.field, ""

    def _of_kind(self, kind: str, number: int) -> str:
        """The field of the part with this ``number`` among those of its kind."""
        fields = [field for part, field in self.parts if part == kind]
        return fields[number] if number < len(fields) else self.field


def in_own_words(
    error: InvalidInputError, wordings: Sequence[Wording], first: int
) -> InvalidInputError:
    """The error with its field as the caller wrote it.

    ``wordings`` are those of the call's inputs in their order, of which ``first`` is where
    ``inputs[0]`` or ``candidates[0]`` stands, and 0 where ``query`` does.
    """
    match = INPUT.fullmatch(error.field)
    if match is None:
        return InvalidInputError(error.field, error.problem)
    index, piece = match.groups()
    field, prefix = wordings[first + int(index) if index else 0].name(piece or "")
    return InvalidInputError(field, prefix + error.problem)
