"""The file that says that a corpus is in a space: written by ``vlm2vec-client reembed``."""

import json
from pathlib import Path
from typing import Any, TypedDict, cast

FORMAT = "vlm2vec-space-ready/1"


class Ready(TypedDict):
    """What the file says."""

    space: str
    """The space of all vectors."""
    from_space: str
    """The space that the corpus was in before."""
    model: str
    """The model's name on the server."""
    version: str
    """The version that made the vectors; others may be of the same space."""
    dimension: int
    """Components of a vector."""
    rows: int
    """Rows of the corpus."""
    failed: int
    """How many of them have no vector."""
    complete: bool
    """Always true: an unfinished run has no such file."""
    input_sha256: str
    """Of the corpus file."""


def read_ready(path: Path) -> Ready:
    """Reads and checks the file; keys beside those of `Ready` are allowed.

    Raises OSError if there is none, and ValueError naming the key at fault. Whether rows may have
    failed is for the caller to say.
    """
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON: {error}") from error
    found: dict[str, Any] = values if isinstance(values, dict) else {}
    if found.get("format") != FORMAT:
        raise ValueError(
            f"{path}: format: expected {FORMAT!r}, got {found.get('format')!r}; give the ready "
            "file that reembed wrote"
        )
    for key, kind in Ready.__annotations__.items():
        value = found.get(key)
        # A bool is an int to isinstance.
        if type(value) is not kind or value == "":
            raise ValueError(f"{path}: {key}: expected {_NAMES[kind]}, got {value!r}")
    if not found["complete"]:
        raise ValueError(f"{path}: complete: the run did not end; start it again the same way")
    if not 0 <= found["failed"] <= found["rows"]:
        raise ValueError(f"{path}: failed: {found['failed']} of {found['rows']} rows cannot be")
    return cast(Ready, found)


_NAMES = {str: "a string that is not empty", int: "a whole number", bool: "true"}
