"""Whole runs: the loss does not depend on the chunks, a killed run goes on, adapters are served."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.data import write_data
from vlm2vec_registry import preset
from vlm2vec_registry.store import Registry
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.engine import Engine
from vlm2vec_service.errors import AdapterError
from vlm2vec_service.settings import EngineSettings
from vlm2vec_training import gradcache
from vlm2vec_training.adapter import load_model, save_adapter
from vlm2vec_training.data import read_data
from vlm2vec_training.errors import DataError, TrainingError
from vlm2vec_training.loader import BatchLoader
from vlm2vec_training.sampling import Row
from vlm2vec_training.settings import AdapterSettings, TrainSettings
from vlm2vec_training.trainer import TrainArguments, schedule, train

SMALL = TrainSettings(
    batch=8, sub_batch=4, chunk=3, steps=6, warm_up=2, learning_rate=2e-3, held_out=8,
    evaluate_every=3, save_every=1, dtype="float32", threads=1, gradient_checkpointing=False,
)  # fmt: skip
OPTIONS = [
    "--rank=4", "--batch=8", "--sub-batch=4", "--chunk=3", "--steps=6", "--warm-up=2",
    "--learning-rate=2e-3", "--held-out=8", "--evaluate-every=3", "--save-every=1",
    "--dtype=float32", "--threads=1", "--no-gradient-checkpointing",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(checkpoints: Path) -> Path:
    return checkpoints / "qwen2_vl"


def small_run(base: Path, data: Path, output: Path, **changes: object) -> TrainArguments:
    settings = replace(SMALL, **changes)  # type: ignore[arg-type]
    return TrainArguments(base, data, output, AdapterSettings(rank=4), settings)


def command(base: Path, data: Path, output: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "vlm2vec_cli", "train", f"--base={base}", f"--data={data}",
        f"--output={output}", *OPTIONS, *more,
    ]  # fmt: skip


def test_the_loss_of_twenty_steps_is_the_same_with_and_without_chunks(
    base: Path, data: Path, tmp_path: Path
) -> None:
    curves = []
    for chunk in (0, 5):
        changed = {"chunk": chunk, "steps": 20, "held_out": 0, "save_every": 100}
        run = small_run(base, data, tmp_path / str(chunk), learning_rate=5e-4, **changed)
        # Other chunks draw other dropout.
        curves.append(train(replace(run, adapter=replace(run.adapter, dropout=0.0))).losses)
    assert len(curves[0]) == 20
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-3)
    assert np.mean(curves[0][-5:]) < np.mean(curves[0][:5])


def test_a_killed_run_goes_on_to_the_result_of_one_that_was_not(
    base: Path, data: Path, tmp_path: Path
) -> None:
    whole = small_run(base, data, tmp_path / "whole")
    train(whole)
    killed = tmp_path / "killed"
    arguments = command(base, data, killed)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(arguments, env=environment) as process:
        while not any((killed / "states").glob("step-[23]")):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    # It may have been killed before it removed the state before.
    states = (killed / "states").glob("step-*")
    state = max(states, key=lambda path: int(path.name.removeprefix("step-")))
    done = json.loads((state / "facts.json").read_text())["step"]
    assert 2 <= done < 6
    result = train(small_run(base, data, killed))
    assert len(result.losses) == 6 - done
    ours, theirs = (
        load_file(folder / "adapter_model.safetensors") for folder in (killed, whole.output)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_state_of_other_settings_is_refused_by_name(
    base: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    train(small_run(base, data, output, steps=1))
    with pytest.raises(TrainingError, match="holds an adapter"):
        train(small_run(base, data, output, steps=1))
    model = load_model(base, AdapterSettings(rank=4), "cpu", "float32", checkpointing=False)
    optimizer = torch.optim.AdamW(gradcache.parameters_of(model.peft))
    from vlm2vec_training import states

    states.save(output / "states", 1, model.peft, optimizer, {"settings": {"seed": 1}})
    with pytest.raises(TrainingError, match=r"other settings: .*seed"):
        train(small_run(base, data, output))


def test_adapter_wants_what_its_preset_says(base: Path) -> None:
    settings = AdapterSettings(rank=4, image="max_pixels=50176")
    form = preset.read("gme-qwen2-vl").embedding
    model = load_model(base, settings, "cpu", "float32", checkpointing=False, form=form)
    assert (model.embedding.prompt, model.embedding.positions) == (form.prompt, "plain")
    assert model.embedding.image == {"min_pixels": 200704, "max_pixels": 50176}
    assert model.embedding.backbone == "qwen2_vl"
    form = preset.read("vlm2vec-full").embedding
    with pytest.raises(AdapterError, match="--preset: made for phi3_v, the base is qwen2_vl"):
        load_model(base, settings, "cpu", "float32", checkpointing=False, form=form)


def test_gradient_checkpointing_changes_no_gradient(base: Path, data: Path) -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        settings = AdapterSettings(rank=4, dropout=0.0)
        model = load_model(base, settings, "cpu", "float32", checkpointing)
        model.embedder.train()
        loader = BatchLoader(read_data(data), load_preprocessor(base), model.embedding, 1)
        batch = loader.batch([Row(0, 0), Row(1, 1)])
        loader.close()
        gradcache.backward(model.embedder, batch, 0.02, 2)
        found.append([p.grad for p in gradcache.parameters_of(model.peft)])
    assert any(g is not None and g.abs().max() > 0 for g in found[0])
    for plain, computed_twice in zip(*found, strict=True):
        torch.testing.assert_close(computed_twice, plain)


@pytest.mark.parametrize(
    ("architecture", "kind"), [("qwen2_vl", "lora"), ("qwen2_vl", "dora"), ("phi3_v", "dora")]
)
def test_the_engine_gives_the_trainers_vectors(
    checkpoints: Path, data: Path, tmp_path: Path, architecture: str, kind: str
) -> None:
    base = checkpoints / architecture
    torch.manual_seed(0)
    crops = 1 if architecture == "phi3_v" else 0
    settings = AdapterSettings(
        adapter=kind, rank=4, dropout=0.0, image=f"num_crops={crops}" if crops else ""
    )
    model = load_model(base, settings, "cpu", "float32", checkpointing=False)
    loader = BatchLoader(read_data(data), load_preprocessor(base), model.embedding, 1)
    batch = loader.batch([Row(0, 0), Row(0, 1)])
    loader.close()
    inputs = [*batch.queries, *batch.targets]
    with torch.no_grad():
        untrained = model.embedder(inputs)
    parameters = gradcache.parameters_of(model.peft)
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    gradcache.backward(model.embedder, batch, 0.02, 0)
    optimizer.step()
    with torch.no_grad():
        trained = model.embedder(inputs)
    save_adapter(model.peft, model.embedding, tmp_path)
    engine = Engine.load(base, EngineSettings(dtype="float32"))
    engine.load_adapter("trained", tmp_path)
    served = torch.from_numpy(engine.embed([(item, "trained") for item in inputs]))
    assert (trained - untrained).abs().max() > 1e-2
    assert (served - trained).abs().max() < 1e-4
    assert torch.nn.functional.cosine_similarity(served, trained).min() > 0.999999


def test_the_command_publishes_what_the_run_recorded(
    base: Path, data: Path, tmp_path: Path
) -> None:
    registry = tmp_path / "registry"
    arguments = command(
        base,
        data,
        tmp_path / "out",
        "--adapter=lora",
        f"--registry={registry}",
        "--publish=squares",
    )
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "published squares version 1" in done.stdout
    opened = Registry(str(registry))
    version = opened.version("squares", "1")
    assert set(version.tags) >= {"data.captions", "data.questions", "code.training"}
    modes = {path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    assert modes == {data.stat().st_mode}  # not the owner's alone
    run = opened.client.get_run(version.run_id)
    assert run.data.params["rank"] == "4"
    assert run.data.tags["mlflow.user"]
    assert run.inputs is not None
    read = {item.dataset.name: item.dataset for item in run.inputs.dataset_inputs}
    assert {f"data.{name}" for name in read} == {"data.captions", "data.questions"}
    assert read["captions"].digest == version.tags["data.captions"]
    assert run.data.metrics["held_out_hit1"] == max(
        point.value for point in opened.client.get_metric_history(version.run_id, "hit1")
    )
    losses = opened.client.get_metric_history(version.run_id, "loss")
    assert [point.step for point in losses] == [1, 2, 3, 4, 5, 6]


def test_the_learning_rate_rises_and_falls_in_lines() -> None:
    assert [schedule(step, 4, 12) for step in (0, 1, 3, 4, 8, 11)] == [
        0.25, 0.5, 1.0, 1.0, 0.5, 0.125,
    ]  # fmt: skip


def test_too_few_rows_to_hold_some_out_is_said_with_the_subset(
    base: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="subset captions: of 24 rows none is left"):
        train(small_run(base, data, tmp_path, held_out=24))
