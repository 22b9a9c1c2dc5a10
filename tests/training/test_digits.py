"""The model that ships: its world, its evaluation sets and recipe, and that it does its task."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from sklearn.datasets import load_digits
from torch import nn

from vlm2vec import Input
from vlm2vec_demo.digits import MODEL, words
from vlm2vec_demo.digits.held_out import HELD_OUT
from vlm2vec_demo.digits.recipe import Recipe, run
from vlm2vec_demo.digits.suite import write_suite
from vlm2vec_demo.digits.tasks import tasks
from vlm2vec_demo.digits.world import TEST_FROM, DigitWorld, Scene, Thing, draw_scene, variants
from vlm2vec_evaluation.data import read_task
from vlm2vec_evaluation.evaluation import Evaluation, evaluate
from vlm2vec_evaluation.local import load
from vlm2vec_evaluation.suite import read_suite
from vlm2vec_evaluation.task import Task
from vlm2vec_registry.artifact import check_folder
from vlm2vec_service.settings import EngineSettings, Limits, VideoSettings
from vlm2vec_training.merged import merge_products

FEW = {"singles": 60, "pairs": 60, "scenes": 30}


def test_training_draws_no_test_digit() -> None:
    world = DigitWorld()
    for digit in range(10):
        train, test = world.indices(digit, test=False), world.indices(digit, test=True)
        assert train.max() < TEST_FROM <= test.min()
        assert set(world.labels[train]) == set(world.labels[test]) == {digit}
    assert sum(len(world.indices(digit, test=False)) for digit in range(10)) == TEST_FROM


def test_the_digits_are_those_of_scikit_learn() -> None:
    theirs = load_digits()
    glyphs = DigitWorld()._data["images"]
    np.testing.assert_array_equal(glyphs, theirs.images)
    np.testing.assert_array_equal(DigitWorld().labels, theirs.target)


def test_no_held_out_wording_is_trained_with() -> None:
    assert HELD_OUT.keys() == words.WORDINGS.keys() == words.PLAIN.keys()
    for kind, held_out in HELD_OUT.items():
        trained = {wording.lower().rstrip("?.") for wording in words.WORDINGS[kind]}
        assert not trained & {wording.lower().rstrip("?.") for wording in held_out}


def test_a_drawn_digit_has_its_colour_at_its_place() -> None:
    scene = Scene("row", (Thing(3, 0), Thing(8, 2)))
    drawn = DigitWorld().draw([scene], np.random.default_rng(0), test=True)
    for box, ink in zip(drawn.boxes[0], ([212, 36, 40], [38, 84, 214]), strict=True):
        x, y, half = round(box.x), round(box.y), round(box.side / 2)
        around = drawn.images[0, y - half : y + half, x - half : x + half].reshape(-1, 3)
        darkest = around[around.sum(1).argsort()[:20]].mean(0)
        assert np.abs(darkest - ink).max() < 50
    digits = drawn.digits[0].view(4, 4)
    assert set(digits[:, :2].flatten().tolist()) == {3, 10}
    assert set(digits[:, 2:].flatten().tolist()) == {8, 10}


def test_variants_differ_from_the_scene_and_keep_its_layout() -> None:
    rng = random.Random(0)
    for _ in range(50):
        scene, *others = variants(draw_scene(rng), rng)
        for other in others:
            assert words.caption(other) != words.caption(scene)
            assert (other.layout, len(other.things)) == (scene.layout, len(scene.things))


def test_questions_have_the_right_answers() -> None:
    scene = Scene("column", (Thing(3, 0), Thing(8, 2)))
    asked = {kind: words.ask(scene, 1, kind, words.PLAIN[kind]) for kind in words.KINDS}
    assert {kind: (item.text, item.answer) for kind, item in asked.items()} == {
        "digit_by_colour": ("Which digit is blue?", "eight"),
        "colour_by_digit": ("What colour is the eight?", "blue"),
        "digit_by_place": ("Which digit is at the bottom?", "eight"),
        "colour_by_place": ("What colour is the digit at the bottom?", "blue"),
        "count": ("How many digits are there?", "two"),
    }


def same(one: Task, other: Task) -> bool:
    return [r.query for r in one.records] == [r.query for r in other.records] and [
        (r.candidates, r.right) for r in one.records
    ] == [(r.candidates, r.right) for r in other.records]


def test_tasks_are_the_same_again_and_their_files_say_the_same(tmp_path: Path) -> None:
    made = list(tasks(**FEW))
    assert all(same(*pair) for pair in zip(made, tasks(**FEW), strict=True))
    suite = read_suite(write_suite(tmp_path, **FEW))
    assert [item.name for item in suite.data_sets] == [task.name for task in made]
    for data_set, task in zip(suite.data_sets, made, strict=True):
        read = read_task(suite, data_set, "qwen2_vl")
        assert isinstance(read, Task)
        assert (read.meta_task, read.split) == (task.meta_task, task.split)
        for ours, theirs in zip(task.records, read.records, strict=True):
            assert theirs.right == tuple(range(len(ours.right)))
            pairs = [(ours.query, theirs.query)]
            pairs += [
                (ours.candidates[at], theirs.candidates[place])
                for place, at in enumerate(ours.right)
            ]
            for a, b in pairs:
                assert isinstance(a, Input)
                assert isinstance(b, Input)
                assert (a.instruction, a.text, a.prompt) == (b.instruction, b.text, b.prompt)
                files = [Path(str(image)).read_bytes() for image in b.images]
                assert list(a.images) == files
            assert len(ours.candidates) == len(theirs.candidates)


@pytest.mark.parametrize("dora", [False, True])
def test_merged_products_are_pefts_own_function_and_gradients(dora: bool) -> None:
    torch.manual_seed(0)
    found = []
    inputs = torch.randn(7, 12, dtype=torch.float64)
    for merged in (False, True):
        torch.manual_seed(1)
        config = LoraConfig(r=3, lora_alpha=6, use_dora=dora, target_modules=["0"])
        model = get_peft_model(nn.Sequential(nn.Linear(12, 5)), config).double()
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter)
        if merged:
            assert merge_products(model) == 1
        out = model(inputs)
        (out**3).sum().backward()
        found.append([out.detach(), *(p.grad for p in model.parameters() if p.requires_grad)])
    assert len(found[0]) == (4 if dora else 3)
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_recipe_runs_and_goes_on_with_the_stage_it_was_in(tmp_path: Path) -> None:
    recipe = Recipe(vision=1, base=1, v1=1, v2=3, pool=1, scenes=8)
    (tmp_path / "v2.json").write_text("{}")
    run(tmp_path, recipe)
    assert not (tmp_path / "v2").exists()
    base = (tmp_path / "base" / "model.safetensors").read_bytes()
    (tmp_path / "v2.json").unlink()
    run(tmp_path, recipe)
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == base
    score = scores(tmp_path, "v2", singles=1, pairs=1, scenes=1)
    assert len(score.data_sets) == 16


def scores(folder: Path, adapter: str, **sizes: int) -> Evaluation:
    settings = EngineSettings(), Limits(), VideoSettings()
    model = load(folder / "base", folder / adapter, *settings)
    return evaluate(model.embed, tasks(**sizes))


def test_what_ships_is_small_and_holds_no_code() -> None:
    sizes = {path: path.stat().st_size for path in MODEL.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 10_000_000
    for adapter in ("v1", "v2"):
        check_folder(MODEL / adapter)
    assert "## Scores" in (MODEL / "README.md").read_text()


def test_what_ships_does_what_its_card_says() -> None:
    old, new = (scores(MODEL, adapter, **FEW).averages for adapter in ("v1", "v2"))
    for name in ("classification", "retrieval"):
        assert min(old[name].hit1, new[name].hit1) > 0.8
    for name in ("vqa", "grounding"):
        assert new[name].hit1 > 0.7
        assert new[name].hit1 > old[name].hit1 + 0.25
