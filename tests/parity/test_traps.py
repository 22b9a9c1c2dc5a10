"""Ways to go wrong in a Qwen-VL family: none is taken, for each gives another vector than the
golden one, which `test_backbones` holds ours to."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from tests.parity.backbone_cases import CASES, goldens, prepare
from tests.parity.make_backbones import write_all
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.backbones.qwen2_5_omni import model as qwen2_5_omni
from vlm2vec_service.backbones.qwen3_vl import preprocess as qwen3_vl
from vlm2vec_service.backbones.qwen_vl.model import QwenVL
from vlm2vec_service.backbones.qwen_vl.placing import placed
from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.attention import Segments
from vlm2vec_service.preprocess import Prepared, Preprocessor
from vlm2vec_service.preprocess.pictures import Pictures
from vlm2vec_service.settings import EngineSettings

Patch = pytest.MonkeyPatch
PLACED = "vlm2vec_service.backbones.qwen_vl.preprocess.placed"
WAYS: dict[tuple[str, str], Callable[[Patch, Any, Any], None]] = {}
"""What makes the preprocessor or backbone wrong, by the family and the case that shows it."""


def way(family: str, case: str) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        WAYS[family, f"{function.__name__} {case}"] = function
        return function

    return register


@pytest.fixture(scope="module")
def loaded(
    checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Preprocessor, Engine]]:
    folder = tmp_path_factory.mktemp("backbones")
    families = ("qwen2_5_vl", "qwen3_vl", "qwen2_5_omni")
    write_all(folder, *families)
    (folder / "qwen2_vl").symlink_to(checkpoints / "qwen2_vl")
    settings = EngineSettings(dtype="float32", vision_cache_bytes=0)
    return {
        name: (load_preprocessor(folder / name), Engine.load(folder / name, settings))
        for name in ("qwen2_vl", *families)
    }


@way("qwen3_vl", "video-8-text")
def frames_resized_once(patch: Patch, preprocessor: Any, backbone: Any) -> None:
    rules = preprocessor.film_rules
    patch.setattr(preprocessor, "film_rules", lambda said: replace(rules(said), list_first=None))


@way("qwen3_vl", "video-2")
def stamps_off(patch: Patch, preprocessor: Any, backbone: Any) -> None:
    stamps = qwen3_vl._stamps
    patch.setattr(
        qwen3_vl, "_stamps", lambda film, pairs: [time + 0.3 for time in stamps(film, pairs)]
    )


@way("qwen3_vl", "image-two")
def frequencies_in_blocks(patch: Patch, preprocessor: Any, backbone: Any) -> None:
    sections = backbone.model.config.rope_parameters["mrope_section"]
    patch.setattr(backbone, "axes", backbone.axes.new_tensor(QwenVL.axes_of(backbone, sections)))


@way("qwen3_vl", "image-two")
def no_deepstack(patch: Patch, preprocessor: Any, backbone: Any) -> None:
    entering = backbone.entering

    def first_only(hidden: Tensor, rows: Tensor, features: Tensor | None) -> Tensor:
        found: Tensor = entering(hidden, rows, features)
        return found[:1]

    patch.setattr(backbone, "entering", first_only)


@way("qwen3_vl", "image-two")
def nearest_places(patch: Patch, preprocessor: Any, backbone: Any) -> None:
    between = backbone._between

    def nearest(count: int) -> Any:
        before, behind, part = between(count)
        return before, behind, part.round()

    patch.setattr(backbone, "_between", nearest)


@way("qwen2_5_vl", "image-two")
def full_attention_in_every_block(patch: Patch, preprocessor: Any, backbone: Any) -> None:
    patch.setattr(backbone.vision, "fullatt_block_indexes", list(range(backbone.vision.depth)))


@way("qwen2_5_vl", "image-two")
def windows_in_raster_order(patch: Patch, preprocessor: Any, backbone: Any) -> None:
    windows = backbone._windows

    def raster(grids: Any) -> Any:
        order, lengths = windows(grids)
        return np.sort(order), lengths

    patch.setattr(backbone, "_windows", raster)


@way("qwen2_5_vl", "chat-video-8-fps1")
def other_tokens_per_second(patch: Patch, preprocessor: Any, backbone: Any) -> None:
    patch.setattr(preprocessor, "tokens_per_second", 25)


@way("qwen2_5_vl", "chat-video-6-fps3")
def seconds_not_cut_off(patch: Patch, preprocessor: Any, backbone: Any) -> None:
    def times(film: Pictures, steps: int) -> list[int]:
        assert film.fps is not None
        step = int(preprocessor.tokens_per_second * 2 / film.fps)
        return [step * index for index in range(steps)]

    patch.setattr(preprocessor, "film_times", times)


@way("qwen2_5_omni", "audio-speech")
def audio_in_one_chunk(patch: Patch, preprocessor: Any, backbone: Any) -> None:
    patch.setattr(backbone.audio, "n_window", 1000)


@way("qwen2_5_omni", "chat-audio-two")
def attention_over_several_audios(patch: Patch, preprocessor: Any, backbone: Any) -> None:
    def whole(lengths: list[int], causal: bool, device: Any) -> Segments:
        return Segments([sum(lengths)], causal, device)

    patch.setattr(qwen2_5_omni, "Segments", whole)


@way("qwen2_5_omni", "audio-query")
def places_from_the_end(patch: Patch, preprocessor: Any, backbone: Any) -> None:
    sinusoids = qwen2_5_omni._sinusoids
    patch.setattr(qwen2_5_omni, "_sinusoids", lambda *sizes: sinusoids(*sizes).flip(0))


@way("qwen2_vl", "gme-image")
def positions_of_a_grid(patch: Patch, preprocessor: Any, backbone: Any) -> None:
    start = preprocessor.vision_start_id
    patch.setattr(PLACED, lambda ids, shown, opening: placed(ids, shown, start))


@way("qwen2_5_vl", "image-two")
def bare_placeholders_with_a_grid(patch: Patch, preprocessor: Any, backbone: Any) -> None:
    def spatial(ids: Any, shown: Any, opening: int | None) -> Any:
        token_ids, spans = placed(ids, shown, opening)
        return token_ids, [replace(span, spatial=True) for span in spans]

    patch.setattr(PLACED, spatial)


def positions_plain(prepared: Prepared) -> Prepared:
    plain = np.broadcast_to(np.arange(len(prepared), dtype=np.int32), (3, len(prepared)))
    return replace(prepared, positions=plain)


def cosine(
    loaded: dict[str, tuple[Preprocessor, Engine]],
    family: str,
    id: str,
    change: Callable[[Prepared], Prepared] = lambda prepared: prepared,
) -> float:
    preprocessor, engine = loaded[family]
    case = next(case for case in CASES[family] if case["id"] == id)
    vector = engine.embed([(change(prepare(preprocessor, case)), None)])[0]
    return float(vector @ goldens()[f"{family}/base/{id}"])


@pytest.mark.parametrize(("family", "name"), WAYS)
def test_it_is_not_taken(
    loaded: dict[str, tuple[Preprocessor, Engine]], monkeypatch: Patch, family: str, name: str
) -> None:
    id = name.rpartition(" ")[2]
    preprocessor, engine = loaded[family]
    WAYS[family, name](monkeypatch, preprocessor, engine.backbone)
    assert cosine(loaded, family, id) < 0.999
    monkeypatch.undo()
    assert cosine(loaded, family, id) > 0.99999


@pytest.mark.parametrize(
    ("family", "id"),
    [
        ("qwen2_vl", "chat-image"),
        ("qwen2_5_vl", "chat-image-gray-tall"),
        ("qwen3_vl", "video-2"),
        ("qwen2_5_omni", "image-audio"),
    ],
)
def test_positions_are_not_plain_where_they_are_of_a_grid(
    loaded: dict[str, tuple[Preprocessor, Engine]], family: str, id: str
) -> None:
    assert cosine(loaded, family, id, positions_plain) < 0.999


@pytest.mark.parametrize("id", ["nemotron-text", "nemotron-audio"])
def test_nemotron_is_not_causal(loaded: dict[str, tuple[Preprocessor, Engine]], id: str) -> None:
    def causal(prepared: Prepared) -> Prepared:
        return replace(prepared, both_ways=False)

    assert cosine(loaded, "qwen2_5_omni", id, causal) < 0.9
