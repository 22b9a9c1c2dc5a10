"""``embedding.json``: how an adapter wants to be prompted, pooled and shown pictures.

It stands beside ``adapter_config.json`` in an adapter folder and says everything that changes a
vector and that PEFT's own file does not. A folder without one gets its backbone's defaults.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlm2vec_registry.media_rules import ImageRules, VideoRules
from vlm2vec_registry.prompt_template import PromptTemplate
from vlm2vec_registry.strict import Fields, is_count, read_object

FILE_NAME = "embedding.json"
POOLINGS = ("last", "mean", "mean_without_system")
"""What a vector is made of: the last token, all, or all but those of the system prompt."""
ATTENTIONS = ("causal", "bidirectional")
"""Which tokens the decoder's look at: those before them, or all of the input."""
CUTS = ("text", "text_alone", "all")
"""What ``max_text_tokens`` counts: the text of an input, that of an input without media, or all
tokens, those of media included."""
AUDIO_SHORTS = ("refuse", "drop")
"""What becomes of an audio that is too short for the model."""
POSITIONS = ("family", "plain")
"""Where tokens stand: by the family's rule, or one after the other."""


@dataclass(frozen=True)
class EmbeddingConfig:
    """The contents of ``embedding.json``.

    ``image`` overrides keys of the base model's ``preprocessor_config.json`` (``max_pixels``,
    ``num_crops``); which of them a backbone reads is for the service to say, which refuses any
    other when it loads the adapter. Its other keys are ``image_rules``. ``pooling``, ``attention``
    and ``positions`` are of `POOLINGS`, `ATTENTIONS` and `POSITIONS`. ``max_text_tokens`` is where
    the text of an input is cut, counted as ``cut``, one of `CUTS`, says; None is nowhere.
    ``dimensions`` lists the prefixes that the vector was trained to be cut to; empty means that it
    does not say. ``audio_max_seconds`` is how much of an audio is taken, from its head; None leaves
    it to the family. ``audio_short`` is of `AUDIO_SHORTS`.
    """

    backbone: str | None = None
    base_model: str | None = None
    base_revision: str | None = None
    pooling: str = POOLINGS[0]
    attention: str = ATTENTIONS[0]
    positions: str = POSITIONS[0]
    normalize: bool = True
    prompt: PromptTemplate = field(default_factory=PromptTemplate)
    image: dict[str, int] = field(default_factory=dict)
    image_rules: ImageRules = field(default_factory=ImageRules)
    video: VideoRules = field(default_factory=VideoRules)
    max_text_tokens: int | None = None
    cut: str = CUTS[0]
    dimensions: tuple[int, ...] = ()
    audio_max_seconds: float | None = None
    audio_short: str = AUDIO_SHORTS[0]

    @classmethod
    def read(cls, folder: Path) -> "EmbeddingConfig":
        """Reads ``folder/embedding.json``; gives the defaults where there is none.

        Raises `FormatError` that names the file and the key: unknown keys are never ignored, since
        each of them would change the vector.
        """
        path = folder / FILE_NAME
        return cls.from_dict(read_object(path), str(path)) if path.exists() else cls()

    @classmethod
    def from_dict(cls, values: Any, where: str = "") -> "EmbeddingConfig":
        """Builds a config from parsed JSON that stands ``where``. Raises `FormatError` naming the
        key at fault."""
        given = Fields(values, where)
        image, image_rules = ImageRules.read(given.object("image"))
        config = cls(
            backbone=given.text("backbone", None),
            base_model=given.text("base_model", None),
            base_revision=given.text("base_revision", None),
            pooling=given.choice("pooling", POOLINGS[0], POOLINGS),
            attention=given.choice("attention", ATTENTIONS[0], ATTENTIONS),
            positions=given.choice("positions", POSITIONS[0], POSITIONS),
            normalize=given.flag("normalize", True),
            prompt=PromptTemplate.read(given.object("prompt")),
            image=image,
            image_rules=image_rules,
            video=VideoRules.read(given.object("video")),
            max_text_tokens=given.count("max_text_tokens", None),
            cut=given.choice("cut", CUTS[0], CUTS),
            dimensions=tuple(given.list_of("dimensions", is_count, "positive whole numbers") or ()),
            audio_max_seconds=given.number("audio_max_seconds", None, 0.025, 3600.0),
            audio_short=given.choice("audio_short", AUDIO_SHORTS[0], AUDIO_SHORTS),
        )
        given.done()
        if config.cut != CUTS[0] and config.max_text_tokens is None:
            given.fail("cut", "max_text_tokens with it", config.cut)
        return config

    def to_dict(self) -> dict[str, Any]:
        """The values of ``embedding.json``. Those that came after its first version are left out
        where they say nothing, so that an older file keeps its bytes, and its space."""
        values = asdict(self)
        del values["image_rules"]
        values["prompt"] = self.prompt.to_dict()
        values["image"] = {**self.image, **self.image_rules.to_dict()}
        values["video"] = self.video.to_dict()
        said = {
            "attention": self.attention != ATTENTIONS[0],
            "positions": self.positions != POSITIONS[0],
            "video": bool(values["video"]),
            "max_text_tokens": self.max_text_tokens is not None,
            "cut": self.cut != CUTS[0],
            "audio_max_seconds": self.audio_max_seconds is not None,
            "audio_short": self.audio_short != AUDIO_SHORTS[0],
        }
        return {key: value for key, value in values.items() if said.get(key, True)}

    def to_json(self) -> str:
        """The text of ``embedding.json``; keys sorted, so that equal configs are equal bytes."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
