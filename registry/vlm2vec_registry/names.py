"""What a model may be called in a registry."""

from vlm2vec_registry.errors import RegistryInputError
from vlm2vec_registry.strict import shown

MAX_BYTES = 256
"""Of a name, as in a call to a server."""
RESERVED = "/:@="
"""``--model`` is NAME=FOLDER, ``--adapter`` is NAME/VERSION=FOLDER, HTTP has NAME@ALIAS, and MLflow
has ``models:/NAME/VERSION`` and refuses colons."""


def check_model_name(name: str) -> None:
    """Raises `RegistryInputError` for a name by which no caller could call a model."""
    good = name.isprintable() and name.strip() == name and 1 <= len(name.encode()) <= MAX_BYTES
    if not good or name in (".", "..") or any(mark in name for mark in RESERVED):
        raise RegistryInputError(
            f"model {shown(name)}: no name for a model; 1 to {MAX_BYTES} bytes of printable text "
            f"without {' '.join(RESERVED)} and without spaces around it"
        )
