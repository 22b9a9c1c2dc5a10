"""Picks the preprocessor of a checkpoint folder by its ``config.json``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.errors import CheckpointError
from vlm2vec_service.preprocess.phi3_v import Phi3VPreprocessor
from vlm2vec_service.preprocess.prepared import Prepared, Request
from vlm2vec_service.preprocess.qwen2_vl import Qwen2VLPreprocessor
from vlm2vec_service.settings import Limits

PREPROCESSORS: dict[str, Callable[[Any, Any, Tokenizer, Limits], "Preprocessor"]] = {
    "qwen2_vl": Qwen2VLPreprocessor,
    "phi3_v": Phi3VPreprocessor,
}


class Preprocessor(Protocol):
    """Turns requests into prepared inputs; safe to call from many threads."""

    def prepare(self, request: Request, embedding: EmbeddingConfig) -> Prepared:
        """Raises `InvalidInputError` naming the field at fault."""


def load_preprocessor(base: Path, limits: Limits | None = None) -> Preprocessor:
    """The preprocessor for the checkpoint in ``base``.

    Reads ``config.json``, ``preprocessor_config.json`` and ``tokenizer.json``. Raises
    `CheckpointError` that names the file that is missing or not understood.
    """
    config = read_json(base / "config.json")
    model_type = config.get("model_type")
    if model_type not in PREPROCESSORS:
        raise CheckpointError(
            f"{base}/config.json: model_type {model_type!r} is not one of "
            f"{', '.join(sorted(PREPROCESSORS))}"
        )
    try:
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{base}/tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    image = read_json(base / "preprocessor_config.json")
    try:
        return PREPROCESSORS[model_type](config, image, tokenizer, limits or Limits())
    except KeyError as error:
        raise CheckpointError(
            f"{base}: neither config.json nor preprocessor_config.json has {error}"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises `CheckpointError`."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value
