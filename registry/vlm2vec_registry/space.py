"""The vector space: a digest of exactly what changes a vector.

Vectors of two spaces do not compare. Two checkouts of the same files are one space.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from vlm2vec_registry.embedding_config import EmbeddingConfig

BASE_FILES = ("config.json", "preprocessor_config.json", "tokenizer.json")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
HEX_DIGITS = 32


def base_digest(base: Path) -> bytes:
    """SHA-256 of a checkpoint: its settings, tokenizer and every byte of its weights.

    Reads the whole checkpoint, about a second for each gigabyte or two. Raises `OSError`.
    """
    digest = hashlib.sha256()
    for path in (*(base / name for name in BASE_FILES), *sorted(base.glob("*.safetensors"))):
        digest.update(_sha256(path))
    return digest.digest()


def space_of(base: bytes, adapter: Path | None, weights: str = "") -> str:
    """32 hexadecimal digits for a checkpoint's digest and an adapter folder, or none.

    ``weights`` is the SHA-256 of the adapter's, in hexadecimal, where it is known already.

    Of ``adapter_config.json`` everything counts but where the base once lay; of ``embedding.json``
    the settings, not their spelling, nor what only names the base. Raises `OSError`, `ValueError`.
    """
    digest = hashlib.sha256(base)
    if adapter is not None:
        config = json.loads((adapter / ADAPTER_FILES[0]).read_text())
        for key in ("base_model_name_or_path", "revision", "peft_version", "auto_mapping"):
            config.pop(key, None)
        digest.update(json.dumps(config, sort_keys=True).encode())
        known = bytes.fromhex(weights) or _sha256(adapter / ADAPTER_FILES[1])
        digest.update(hashlib.sha256(known).digest())
        embedding = EmbeddingConfig.read(adapter)
        settings = replace(embedding, backbone=None, base_model=None, base_revision=None)
        digest.update(settings.to_json().encode())
    return digest.hexdigest()[:HEX_DIGITS]


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
