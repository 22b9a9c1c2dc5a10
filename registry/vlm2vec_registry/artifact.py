"""The files of a version, and what identifies them.

An artifact is a PEFT folder: safetensors and settings, nothing that can run code. That of a base,
which servers have already, is its settings alone.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlm2vec_registry import embedding_config
from vlm2vec_registry.errors import ArtifactError
from vlm2vec_registry.space import ADAPTER_FILES

CONFIG, WEIGHTS = ADAPTER_FILES
FILES = (CONFIG, WEIGHTS, embedding_config.FILE_NAME)
"""What an adapter's version holds; each is needed, and nothing else is ever fetched."""
BASE_FILES = (embedding_config.FILE_NAME,)
"""What a version holds that is the base itself."""
NOT_CODE = (".json", ".md", ".safetensors", ".txt", ".yaml", ".yml")
"""What a folder may hold to be published; only `FILES` and the README go along."""
NAMES = ("MLmodel", "LICENSE", ".gitattributes", "tokenizer.model")
TRAINERS = re.compile(
    r"(optimizer|scheduler|scaler)\.pt|rng_state(_\d+)?\.pth|training_args\.bin|chat_template\.jinja"
)
"""What a Trainer leaves in a checkpoint folder besides; nothing reads it, and it stays behind."""


def check_folder(folder: Path) -> None:
    """Refuses what may hold code: pickles and anything of an unknown kind, but for what a Trainer
    leaves in a folder.

    Raises `ArtifactError` that names the files.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ArtifactError(
                f"{folder}: no {name}; a PEFT folder with safetensors is needed, which "
                f"vlm2vec adapters import makes"
            )
    strange = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and path.suffix not in NOT_CODE and path.name not in NAMES
        if not TRAINERS.fullmatch(path.name)
    )
    if strange:
        raise ArtifactError(
            f"{folder}: {', '.join(strange)} may hold code; publish a folder with safetensors only"
        )


def digests(folder: Path, names: Sequence[str] = FILES) -> dict[str, str]:
    """SHA-256 of each file in ``folder`` of these ``names``, in hexadecimal. Raises
    `ArtifactError`."""
    try:
        return {name: _digest(folder / name) for name in names}
    except OSError as error:
        raise ArtifactError(f"{folder}: {error}") from error


def verify(folder: Path, expected: Mapping[str, str]) -> None:
    """Raises `ArtifactError` naming the files whose digests are not the ``expected``."""
    found = digests(folder)
    if wrong := [name for name in FILES if found[name] != expected.get(name)]:
        raise ArtifactError(
            f"{', '.join(wrong)}: not the bytes that were published (SHA-256 differs)"
        )


def key_of(expected: Mapping[str, str]) -> str:
    """64 hexadecimal digits that name the contents; equal artifacts have equal keys."""
    return hashlib.sha256(json.dumps(dict(expected), sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
