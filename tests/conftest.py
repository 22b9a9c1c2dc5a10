"""The parity data: tiny checkpoints, written once a run, their adapters, cases, golden vectors."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.parity.make_checkpoints import write_all
from vlm2vec_service.preprocess import Request
from vlm2vec_service.preprocess.pictures import Frames

# Tests run side by side, and threads that wait for a core by spinning keep it from the others.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

DATA = Path(__file__).parent / "parity" / "data"
ARCHITECTURES = ("qwen2_vl", "phi3_v")
CASES: dict[str, list[dict[str, Any]]] = json.loads((DATA / "cases.json").read_text())


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``qwen2_vl`` and ``phi3_v``, tiny checkpoints in Hugging Face layout."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write_all(folder)
    return folder


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """Vectors, token ids and pixel statistics from the model authors' own code."""
    with np.load(DATA / "golden.npz") as file:
        return dict(file)


def adapter_folder(architecture: str, name: str) -> Path:
    """The parity adapter ``name``, ``lora`` or ``dora``."""
    return DATA / "adapters" / architecture / name


def case_request(case: dict[str, Any]) -> Request:
    """The request that a parity case describes."""
    return Request(
        prompt=case["text"],
        images=case_pictures(case, "images"),
        videos=(Frames(case_pictures(case, "video")),) if "video" in case else (),
    )


def case_pictures(case: dict[str, Any], key: str) -> tuple[Image.Image, ...]:
    """The ``images`` of a parity case, or the frames of its ``video``."""
    return tuple(_picture(source) for source in case.get(key, ()))


def _picture(source: dict[str, Any]) -> Image.Image:
    photos = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    image = Image.fromarray(photos[source["photo"]])
    if "crop" in source:
        image = image.crop(source["crop"])
    if "resize" in source:
        image = image.resize(source["resize"], Image.Resampling.BICUBIC)
    if "mode" in source:
        image = image.convert(source["mode"])
    # Decoding gives RGB; so must a picture that was never encoded.
    return image.convert("RGB")
