"""The vector space: a digest of exactly what changes a vector.

Vectors of two spaces do not compare. The rule has versions, so that it can be mended without a
published version losing its space: `space_of` is the newest, which new versions get, and
`spaces_of` gives that and all before, each of which is as good as the newest.

Rule 2 counts the base (see `base_digest`); of ``adapter_config.json`` how the adapter scales
(alpha, alpha_pattern, rsLoRA, DoRA) and every setting that is not known to leave the vector alone;
each tensor's name, type, shape and bytes; of ``embedding.json`` the settings that are not the
default, less what only names the base and ``dimensions``. Which layers there are, and their ranks,
is what the tensors say. PEFT may so save an adapter again, in whatever order, and it stays the same
space. Of a base without an adapter the settings in its own ``embedding.json`` count.

Rule 1 counted the bytes of the weights' file, and every setting but those that name the base.
"""

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.strict import FormatError, parse_object, read_object

BASE_FILES = ("config.json", "preprocessor_config.json", "tokenizer.json")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
HEX_DIGITS = 32

WITHOUT_EFFECT = frozenset({
    # On inference through linear layers; whatever they say, the vector is the same.
    "auto_mapping", "base_model_name_or_path", "eva_config", "fan_in_fan_out", "inference_mode",
    "lora_dropout", "megatron_core", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "task_type",
})  # fmt: skip
"""Settings of ``adapter_config.json`` that change nothing."""
IN_TENSORS = frozenset({
    "exclude_modules", "layers_pattern", "layers_to_transform", "r", "rank_pattern",
    "target_modules", "target_parameters",
})  # fmt: skip
"""Settings that decide which layers have tensors, and of what rank: the tensors say so, too."""
INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the base weights alone; PiSSA, OLoRA, CorDA, LoftQ and
LoRA-GA change them."""
NEUTRAL: tuple[Any, ...] = (None, False, "none", {}, [], "")
"""Values that a setting has where it is not used."""
DEFAULT_ALPHA = 8
"""PEFT's, for a file that does not say."""
MAX_HEADER = 100_000_000
"""Bytes of a safetensors header, as the format has it."""
NOTHING = EmbeddingConfig()
"""What a file says that is not there."""


def base_digest(base: Path) -> bytes:
    """SHA-256 of a checkpoint: its settings, tokenizer and every byte of its weights.

    Reads the whole checkpoint, about a second for each gigabyte or two. Raises `OSError`.
    """
    digest = hashlib.sha256()
    for path in (*(base / name for name in BASE_FILES), *sorted(base.glob("*.safetensors"))):
        digest.update(_sha256(path))
    return digest.digest()


def space_of(base: bytes, adapter: Path | None, own: EmbeddingConfig = NOTHING) -> str:
    """The space, 32 hexadecimal digits, of a checkpoint's digest and an adapter folder, or none:
    then ``own`` is what the checkpoint says of itself.

    Raises `OSError`, and `FormatError` naming the file that makes no sense.
    """
    if adapter is not None:
        return _rule_2(base, adapter, *_settings(adapter))
    digest = hashlib.sha256(base)
    if said := _said(own):  # without a word it is the space of before there were any
        digest = hashlib.sha256(b"vlm2vec base 2\0" + base)
        digest.update(json.dumps(said, sort_keys=True).encode())
    return digest.hexdigest()[:HEX_DIGITS]


def spaces_of(base: bytes, adapter: Path | None, own: EmbeddingConfig = NOTHING) -> tuple[str, ...]:
    """The spaces by every version of the rule, the newest first; without an adapter they are one.

    Raises as `space_of`.
    """
    newest = space_of(base, adapter, own)
    return (newest,) if adapter is None else (newest, _rule_1(base, adapter, *_settings(adapter)))


def _settings(adapter: Path) -> tuple[dict[str, Any], EmbeddingConfig]:
    return read_object(adapter / ADAPTER_FILES[0]), EmbeddingConfig.read(adapter)


def effective(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of ``adapter_config.json`` that may change a vector, of an adapter whose tensors
    are known. The order of ``alpha_pattern`` counts: the first pattern that fits decides."""
    kept = {
        key: value
        for key, value in config.items()
        if key not in WITHOUT_EFFECT | IN_TENSORS and value not in NEUTRAL
    }
    if _plain(kept.get("init_lora_weights")) in INITIALISATIONS:
        kept.pop("init_lora_weights", None)
    kept["lora_alpha"] = _number(config.get("lora_alpha", DEFAULT_ALPHA))
    if isinstance(patterns := kept.get("alpha_pattern"), dict):
        kept["alpha_pattern"] = [[name, _number(alpha)] for name, alpha in patterns.items()]
    return kept


def _rule_2(base: bytes, adapter: Path, config: dict[str, Any], embedding: EmbeddingConfig) -> str:
    digest = hashlib.sha256(b"vlm2vec space 2\0" + base)
    for values in (effective(config), _said(embedding)):
        digest.update(hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest())
    digest.update(tensors_digest(adapter / ADAPTER_FILES[1]))
    return digest.hexdigest()[:HEX_DIGITS]


def _rule_1(base: bytes, adapter: Path, config: dict[str, Any], embedding: EmbeddingConfig) -> str:
    digest = hashlib.sha256(base)
    named = ("base_model_name_or_path", "revision", "peft_version", "auto_mapping")
    config = {key: value for key, value in config.items() if key not in named}
    digest.update(json.dumps(config, sort_keys=True).encode())
    digest.update(hashlib.sha256(_sha256(adapter / ADAPTER_FILES[1])).digest())
    digest.update(_unnamed(embedding).to_json().encode())
    return digest.hexdigest()[:HEX_DIGITS]


def _said(embedding: EmbeddingConfig) -> dict[str, Any]:
    """The settings that may change a vector and are not the default."""
    default = NOTHING.to_dict()
    settings = replace(_unnamed(embedding), dimensions=()).to_dict()
    return {key: value for key, value in settings.items() if value != default.get(key)}


def _unnamed(embedding: EmbeddingConfig) -> EmbeddingConfig:
    return replace(embedding, backbone=None, base_model=None, base_revision=None)


def tensors_digest(path: Path) -> bytes:
    """SHA-256 of every tensor in a safetensors file: by name, with its type, shape and bytes,
    whatever their order and the file's metadata. PEFT writes the name of a magnitude with or
    without ``.weight``, by its version: they are one. Raises `OSError`, `FormatError`."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        head = file.read(8)
        size = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= size <= MAX_HEADER:
            raise FormatError(f"{path}: no safetensors file")
        header = parse_object(file.read(size), str(path))
        header.pop("__metadata__", None)
        for name in sorted(header):
            kind, shape, start, stop = _tensor(header[name], f"{path}: {name[:80]!a}")
            known = name.removesuffix(".weight") if "lora_magnitude_vector" in name else name
            digest.update(f"{known}\0{kind}\0{shape}\0{stop - start}\0".encode(errors="replace"))
            file.seek(8 + size + start)
            left = stop - start
            while left:
                block = file.read(min(left, 1 << 20))
                if not block:
                    raise FormatError(f"{path}: cut off")
                digest.update(block)
                left -= len(block)
    return digest.digest()


def _tensor(entry: Any, where: str) -> tuple[str, list[int], int, int]:
    """Type, shape and place of a tensor, as the header has them."""
    try:
        kind, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, start, stop))
    except (TypeError, KeyError, ValueError) as error:
        raise FormatError(f"{where}: no tensor of a safetensors file") from error
    if not whole or not isinstance(kind, str) or stop < start:
        raise FormatError(f"{where}: no tensor of a safetensors file")
    return kind, shape, start, stop


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | bool | None) else "other"


def _number(value: Any) -> Any:
    """16 and 16.0 are one alpha."""
    return float(value) if isinstance(value, int) and abs(value) < 1 << 53 else value


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
