"""The table of model families, with all that the rest of the code has to know of each.

A family is one folder here and one row in `FAMILIES`; nothing else names it. Importing the table
imports neither torch nor a family's code, which follows when a row is asked for it.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from vlm2vec_registry.backbone import backbone_of
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.errors import AdapterError, CheckpointError, listed
from vlm2vec_service.preprocess.family import CheckpointFiles, FamilyPreprocessor
from vlm2vec_service.preprocess.prepared import Preprocessor
from vlm2vec_service.settings import Limits

if TYPE_CHECKING:
    from vlm2vec_service.engine.backbone import Backbone


NOT_BY_ALL = (
    "positions", "video", "image.first", "image.small", "image.long",
    "audio_max_seconds", "audio_short", "prompt.audio_brackets",
)  # fmt: skip
"""Settings of ``embedding.json`` that only some families heed; each does what the default says."""


@dataclass(frozen=True)
class Family:
    """One row of the table: a model family and where its code is.

    The key of the row is the ``model_type`` in the ``config.json`` of the family's checkpoints,
    which is also the `Backbone.name` of its class. Those of parts that were saved alone are in
    `vlm2vec_registry.backbone`.
    """

    preprocessor: str
    """The subclass of `FamilyPreprocessor` as ``MODULE:CLASS``. Its module never imports torch."""
    backbone: str
    """The subclass of `Backbone` as ``MODULE:CLASS``. Its module never imports grpc."""
    image_placeholder: str
    """The text that stands for the first image in a prompt."""
    image_settings: frozenset[str]
    """The keys of ``image`` in ``embedding.json`` that the preprocessor reads."""
    targets: tuple[str, ...]
    """The names of the linear layers that a new adapter is trained on by default."""
    reads: frozenset[str] = frozenset()
    """The settings of ``embedding.json`` among `NOT_BY_ALL` that the family heeds."""

    def preprocessor_class(self) -> type[FamilyPreprocessor]:
        """Imports the preprocessor's class."""
        found: type[FamilyPreprocessor] = _imported(self.preprocessor)
        return found

    def backbone_class(self) -> "type[Backbone]":
        """Imports the backbone's class, and with it torch and transformers."""
        found: type[Backbone] = _imported(self.backbone)
        return found


QWEN_READS = frozenset(key for key in NOT_BY_ALL if "audio" not in key)
QWEN_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

FAMILIES = {
    "qwen2_vl": Family(
        preprocessor="vlm2vec_service.backbones.qwen2_vl.preprocess:Qwen2VLPreprocessor",
        backbone="vlm2vec_service.backbones.qwen2_vl.model:Qwen2VL",
        image_placeholder="<|image_pad|>",
        image_settings=frozenset({"min_pixels", "max_pixels"}),
        targets=("q_proj", "k_proj", "v_proj", "o_proj", "down_proj"),
        reads=QWEN_READS,
    ),
    "qwen2_5_vl": Family(
        preprocessor="vlm2vec_service.backbones.qwen2_5_vl.preprocess:Qwen2_5VLPreprocessor",
        backbone="vlm2vec_service.backbones.qwen2_5_vl.model:Qwen2_5VL",
        image_placeholder="<|image_pad|>",
        image_settings=frozenset({"min_pixels", "max_pixels"}),
        targets=QWEN_TARGETS,
        reads=QWEN_READS,
    ),
    "qwen3_vl": Family(
        preprocessor="vlm2vec_service.backbones.qwen3_vl.preprocess:Qwen3VLPreprocessor",
        backbone="vlm2vec_service.backbones.qwen3_vl.model:Qwen3VL",
        image_placeholder="<|image_pad|>",
        image_settings=frozenset({"min_pixels", "max_pixels"}),
        targets=QWEN_TARGETS,
        reads=QWEN_READS,
    ),
    "qwen2_5_omni": Family(
        preprocessor="vlm2vec_service.backbones.qwen2_5_omni.preprocess:Qwen2_5OmniPreprocessor",
        backbone="vlm2vec_service.backbones.qwen2_5_omni.model:Qwen2_5Omni",
        image_placeholder="<|IMAGE|>",
        image_settings=frozenset({"min_pixels", "max_pixels"}),
        targets=(*QWEN_TARGETS, "out_proj"),
        reads=frozenset(NOT_BY_ALL),
    ),
    "phi3_v": Family(
        preprocessor="vlm2vec_service.backbones.phi3_v.preprocess:Phi3VPreprocessor",
        backbone="vlm2vec_service.backbones.phi3_v.model:Phi3V",
        image_placeholder="<|image_1|>",
        image_settings=frozenset({"num_crops"}),
        targets=(
            "qkv_proj", "o_proj", "gate_up_proj", "down_proj",
            "q_proj", "k_proj", "v_proj", "out_proj",
        ),
    ),
}  # fmt: skip
"""The families that are served, by ``model_type``. Their ``targets`` are those of VLM2Vec's
training (``src/arguments.py``) that the family has."""


def check_embedding(backbone: str, embedding: EmbeddingConfig, where: object) -> None:
    """Raises `AdapterError` where ``embedding``, which stands ``where``, is for another backbone
    than ``backbone``, or says what that does not heed."""
    if embedding.backbone not in (None, backbone):
        raise AdapterError(f"{where}: made for {embedding.backbone}, the base is {backbone}")
    family = FAMILIES[backbone]
    if unknown := set(embedding.image) - family.image_settings:
        raise AdapterError(
            f"{where}: image.{listed(unknown)} is no setting of {backbone}; "
            f"there are {listed(family.image_settings)}"
        )
    said, usual = embedding.to_dict(), EmbeddingConfig().to_dict()
    for key in NOT_BY_ALL:
        whole, _, part = key.partition(".")
        given = said.get(whole) != usual.get(whole) and (not part or part in said[whole])
        if given and key not in family.reads:
            raise AdapterError(f"{where}: {key} can be nothing but the default with {backbone}")


def read_embedding(base: Path) -> EmbeddingConfig:
    """Reads what the checkpoint in ``base`` says of itself in ``embedding.json``; the defaults if
    it has none. Raises `CheckpointError`."""
    backbone = backbone_name(base)
    try:
        embedding = EmbeddingConfig.read(base)
        check_embedding(backbone, embedding, base)
    except (ValueError, AdapterError) as error:
        raise CheckpointError(str(error)) from error
    return embedding


def family_of(base: Path) -> Family:
    """Finds the family of the checkpoint in ``base``. Raises `CheckpointError` as `backbone_name`
    does."""
    return FAMILIES[backbone_name(base)]


def backbone_name(base: Path) -> str:
    """Names the backbone of the checkpoint in ``base`` by its ``config.json``.

    Raises `CheckpointError` if the file is missing or its ``model_type`` has no row.
    """
    config = {"model_type": None, **read_json(base / "config.json")}
    name = backbone_of(config)
    if name not in FAMILIES:
        raise CheckpointError(
            f"{base}/config.json: model_type {config['model_type']!r} is not one of "
            f"{', '.join(sorted(FAMILIES))}"
        )
    return name


def load_preprocessor(base: Path, limits: Limits | None = None) -> Preprocessor:
    """Makes the preprocessor for the checkpoint in ``base``.

    It reads ``config.json``, ``preprocessor_config.json`` and ``tokenizer.json``; ``limits`` None
    takes the default ones. Raises `CheckpointError` that names the file that is missing or not
    understood.
    """
    make = family_of(base).preprocessor_class()
    try:
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{base}/tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config, image = (read_json(base / name) for name in ("config.json", "preprocessor_config.json"))
    with building(base):
        made = make(CheckpointFiles(config, image, tokenizer, base), limits or Limits())
    made.spell(read_embedding(base).prompt)  # what cannot be done with it is said now
    return made


@contextlib.contextmanager
def building(base: Path) -> Iterator[None]:
    """Turns every error of what is built from the two configuration files in ``base`` into a
    `CheckpointError` that names them, and the key that neither has."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(
            f"{base}: neither config.json nor preprocessor_config.json has {error}"
        ) from error
    except Exception as error:  # transformers raises any, also classes of its own
        problem = str(error) if isinstance(error, CheckpointError) else repr(error)
        raise CheckpointError(
            f"{base}: config.json or preprocessor_config.json: {problem}"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads the JSON object in ``path``. Raises `CheckpointError` if there is none."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
