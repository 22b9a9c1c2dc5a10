"""What a model and an alias may be called in a registry."""

import re

from vlm2vec_registry.errors import RegistryInputError
from vlm2vec_registry.strict import shown

MAX_BYTES = 256
"""Of a name, as in a call to a server."""
RESERVED = "/:@="
"""``--model`` is NAME=FOLDER, ``--adapter`` is NAME/VERSION=FOLDER, HTTP has NAME@ALIAS, and MLflow
has ``models:/NAME/VERSION`` and refuses colons."""

ALIAS = re.compile(r"(?!\d+$|v\d+$|latest$)[\w-]{1,255}", re.IGNORECASE)
"""MLflow reserves ``latest`` and ``v7`` for versions, and here ``7`` names one as well."""


def check_model_name(name: str) -> None:
    """Raises `RegistryInputError` for a name by which no caller could call a model."""
    good = name.isprintable() and name.strip() == name and 1 <= len(name.encode()) <= MAX_BYTES
    if not good or name in (".", "..") or any(mark in name for mark in RESERVED):
        raise RegistryInputError(
            f"model {shown(name)}: no name for a model; 1 to {MAX_BYTES} bytes of printable text "
            f"without {' '.join(RESERVED)} and without spaces around it"
        )


def check_alias(alias: str) -> None:
    """Raises `RegistryInputError` for an alias that MLflow refuses or that names a version."""
    if not ALIAS.fullmatch(alias):
        raise RegistryInputError(
            f"alias {shown(alias)}: no name for an alias; letters, digits, _ and -, and neither a "
            "number nor v and a number nor latest"
        )
