"""The goldens of the Qwen families, Qwen2-VL's in chat form, as our own code takes them."""

import functools
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.parity.audio_specs import waveform
from vlm2vec_registry import preset
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.preprocess import Prepared, Preprocessor, Request
from vlm2vec_service.preprocess.pictures import Frames, VideoSource
from vlm2vec_service.preprocess.resample import RATE, resample
from vlm2vec_service.preprocess.sampling import Sampling
from vlm2vec_service.preprocess.viewed import on_white

DATA = Path(__file__).parent / "data" / "backbones"
CASES: dict[str, list[dict[str, Any]]] = json.loads((DATA / "cases.json").read_text())
for one in CASES["qwen2_5_omni"]:  # whose placeholders have other names in the chat
    one["form"] = one["form"].replace("chat", "omni_chat")
PRESETS = {
    "qwen3_vl_embedding": "qwen3-vl-embedding", "vlm2vec": "vlm2vec", "chat": "chat",
    "gme": "gme-qwen2-vl", "ops_mm": "ops-mm", "vlm2vec_v3": "vlm2vec-v3",
    "vlm2vec_v3_mean": "vlm2vec-v3-mean", "nemotron": "omni-embed-nemotron",
    "e5_omni": "e5-omni", "omni_chat": "omni-chat",
}  # fmt: skip
"""The preset of each form."""


def write_settings(folder: Path, tokenizer: str, config: Any, image: Any) -> Path:
    """Writes what preprocessing reads of a checkpoint, which has no weights then."""
    shutil.copytree(DATA / "tokenizers" / tokenizer, folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    return folder


@functools.cache
def goldens() -> dict[str, npt.NDArray[Any]]:
    """Vectors and what led to them, by ``FAMILY/KEY/ID``."""
    with np.load(DATA / "golden.npz") as file:
        return dict(file)


@functools.cache
def photographs() -> dict[str, npt.NDArray[np.uint8]]:
    return dict(zip(("china", "flower"), load_sample_images().images, strict=True))


def embedding_of(case: dict[str, Any]) -> EmbeddingConfig:
    """What the preset of the form of ``case`` says, with the crop of its audios."""
    embedding = preset.read(PRESETS[case["form"]]).embedding
    if "max_samples" in case:
        embedding = replace(embedding, audio_max_seconds=case["max_samples"] / RATE)
    return embedding


def prepare(preprocessor: Preprocessor, case: dict[str, Any]) -> Prepared:
    """Prepares the raw prompt of ``case`` with its media."""
    embedding = embedding_of(case)
    raw = embedding.image_rules.decode == "raw"
    videos: list[Frames | VideoSource] = []
    for video in case.get("videos", ()):
        if "file" in video:
            videos.append(Film.of(video["file"], preprocessor.sampling(embedding, 8)))
        else:
            pan = video["frames"]
            pictures = tuple(_frame(pan, index) for index in range(pan["count"]))
            videos.append(Frames(pictures, video.get("fps")))
    images = tuple(_rgb(_picture(spec), raw) for spec in case.get("images", ()))
    audios = tuple(map(Sound, case.get("audios", ())))
    request = Request(prompt=case["text"], images=images, videos=tuple(videos), audios=audios)
    return preprocessor.prepare(request, embedding)


def prepare_all(base: Path) -> list[Prepared]:
    """Prepares all cases of the family whose checkpoint is ``base``."""
    preprocessor = load_preprocessor(base)
    return [prepare(preprocessor, case) for case in CASES[base.name]]


@dataclass(frozen=True)
class Sound:
    """An audio without a decoder: its samples are those of ``spec``."""

    spec: dict[str, Any]

    def samples(self, seconds: float) -> npt.NDArray[np.float32]:
        mono = waveform(self.spec).mean(axis=1, dtype=np.float32)
        return resample(mono, self.spec["rate"])[: int(seconds * RATE)]


@dataclass(frozen=True)
class Film:
    """A file of which frames are sampled, without a decoder: its frames are ``pan``'s."""

    pan: dict[str, Any]
    fps: float
    wanted: tuple[int, ...]

    @classmethod
    def of(cls, file: dict[str, Any], sampling: Sampling) -> "Film":
        pan, fps = file["frames"], file["fps"]
        return cls(pan, fps, sampling.indices(pan["count"], fps))

    @property
    def total(self) -> int:
        count: int = self.pan["count"]
        return count

    def __len__(self) -> int:
        return len(self.wanted)

    def sizes(self, decode: str) -> tuple[tuple[int, int], ...]:
        return (tuple(self.pan["size"]),) * len(self)

    def frames(self, decode: str) -> Iterator[Image.Image]:
        return (_frame(self.pan, index) for index in self.wanted)


def _frame(pan: dict[str, Any], index: int) -> Image.Image:
    """One of the frames of a film that pans over a photograph."""
    (x, y), (dx, dy), (width, height) = pan["from"], pan["step"], pan["size"]
    x, y = x + index * dx, y + index * dy
    spec = {"photo": pan["photo"], "crop": [x, y, x + width, y + height]}
    return _picture(spec | {key: pan[key] for key in ("resize",) if key in pan})


def _picture(spec: dict[str, Any]) -> Image.Image:
    picture = Image.fromarray(photographs()[spec["photo"]])
    if "crop" in spec:
        picture = picture.crop(spec["crop"])
    if "resize" in spec:
        picture = picture.resize(spec["resize"], Image.Resampling.BICUBIC)
    if "mode" in spec:
        picture = picture.convert(spec["mode"])
    if "alpha" in spec:  # a ramp from left to right
        width, height = picture.size
        ramp = (255 * np.arange(width) // (width - 1)).astype(np.uint8)
        picture = picture.convert("RGBA")
        picture.putalpha(Image.fromarray(np.tile(ramp, (height, 1))))
    return picture


def _rgb(picture: Image.Image, raw: bool) -> Image.Image:
    """Makes ``picture`` RGB, as decoding its file would."""
    if picture.mode == "RGBA" and not raw:
        return on_white(picture)
    return picture.convert("RGB")
