"""The step in chunks, and over processes, is the step of the whole batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.training.data import write_data
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_training import gradcache
from vlm2vec_training.adapter import TrainableModel, load_model
from vlm2vec_training.data import read_data
from vlm2vec_training.loader import BatchLoader
from vlm2vec_training.loss import info_nce
from vlm2vec_training.sampling import Row
from vlm2vec_training.settings import AdapterSettings

ROWS = [Row(subset, row) for subset in (0, 1) for row in range(6)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def build(base: Path, kind: str, dtype: torch.dtype) -> TrainableModel:
    torch.manual_seed(0)
    settings = AdapterSettings(adapter=kind, rank=4, dropout=0.0)
    model = load_model(base, settings, "cpu", "float32", checkpointing=False)
    model.peft.to(dtype)
    # B is zero at first, and with it A's gradient.
    for name, parameter in model.peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def batch_of(
    base: Path, data: Path, model: TrainableModel, rows: list[Row] = ROWS
) -> gradcache.ContrastiveBatch:
    loader = BatchLoader(read_data(data), load_preprocessor(base), model.embedding, 1)
    try:
        return loader.batch(rows)
    finally:
        loader.close()


def gradients(
    model: TrainableModel, batch: gradcache.ContrastiveBatch, chunk: int
) -> tuple[float, dict[str, Tensor]]:
    model.peft.zero_grad()
    loss = gradcache.backward(model.embedder, batch, 0.02, chunk)
    named = model.peft.named_parameters()
    return loss, {name: p.grad.clone() for name, p in named if p.requires_grad}


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference, relative to the size of the whole gradient."""
    size = max(gradient.abs().max().item() for gradient in theirs.values())
    assert size > 0
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in theirs) / size


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_chunked_gradients_equal_those_of_the_whole_batch_by_autograd(
    checkpoints: Path, data: Path, kind: str, dtype: torch.dtype, limit: float
) -> None:
    base = checkpoints / "qwen2_vl"
    model = build(base, kind, dtype)
    batch = batch_of(base, data, model)
    model.peft.zero_grad()
    vectors = model.embedder([*batch.queries, *batch.targets])
    count = len(batch.queries)
    loss = info_nce(
        vectors[:count], vectors[count:], torch.arange(count), 0.02, torch.tensor(batch.contents)
    )
    loss.backward()
    whole = {n: p.grad.clone() for n, p in model.peft.named_parameters() if p.requires_grad}
    for chunk in (0, 1, 5, 8):
        chunked_loss, chunked = gradients(model, batch, chunk)
        assert chunked_loss == pytest.approx(loss.item(), rel=limit)
        assert distance(chunked, whole) < limit


def test_a_wrong_batch_has_other_gradients(checkpoints: Path, data: Path) -> None:
    # What the limits above would not let pass: chunks that do not see each other's negatives.
    base = checkpoints / "qwen2_vl"
    model = build(base, "lora", torch.float64)
    _, whole = gradients(model, batch_of(base, data, model), 0)
    _, half = gradients(model, batch_of(base, data, model, ROWS[:6]), 0)
    assert distance(half, whole) > 1e-2


def test_hard_negatives_count(checkpoints: Path, data: Path) -> None:
    base = checkpoints / "qwen2_vl"
    model = build(base, "lora", torch.float64)
    batch = batch_of(base, data, model)
    count = len(batch.queries)
    assert len(batch.targets) == count + 6
    without = gradcache.ContrastiveBatch(
        batch.queries, batch.targets[:count], batch.contents[:count]
    )
    assert gradients(model, batch, 0)[0] > gradients(model, without, 0)[0]


def test_a_copy_of_the_target_is_no_negative_of_its_query_alone() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(5, 8, dtype=torch.float64), dim=1)
    queries, (first, second) = vectors[:2], vectors[2:4]
    targets = torch.stack([first, second, first])
    loss = info_nce(queries, targets, torch.arange(2), 0.1, torch.tensor([7, 8, 7]))
    near, far = queries @ targets.T / 0.1
    expected = (near[:2].logsumexp(0) - near[0] + far.logsumexp(0) - far[1]) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_dropout_is_the_same_when_a_chunk_is_computed_again(checkpoints: Path, data: Path) -> None:
    base = checkpoints / "qwen2_vl"
    model = build(base, "lora", torch.float64)
    batch = batch_of(base, data, model)
    dropping = [
        name for name, module in model.peft.named_modules() if "lora_dropout.default" in name
    ]
    assert dropping
    for name in dropping:
        parent = model.peft.get_submodule(name.rpartition(".")[0])
        parent["default"] = torch.nn.Dropout(0.5)
    model.embedder.train()
    seen: list[Tensor] = []

    def embed(inputs: object) -> Tensor:
        vectors: Tensor = model.embedder(inputs)
        seen.append(vectors.detach())
        return vectors

    torch.manual_seed(1)
    gradcache.backward(embed, batch, 0.02, 9)
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(first) == len(second) > 1
    for before, again in zip(first, second, strict=True):
        assert torch.equal(before, again)
    assert not torch.equal(first[0], model.embedder([*batch.queries][:9]))


WORKER = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from tests.training.test_gradcache import ROWS, batch_of, build
from vlm2vec_training import gradcache, processes
base, data, out = map(Path, sys.argv[1:])
with processes.group(torch.device("cpu")):
    model = build(base, "dora", torch.float64)
    # Uneven numbers of hard negatives: the first half has none.
    rows = ROWS[:6] if processes.rank() == 0 else ROWS[6:]
    loss = gradcache.backward(model.embedder, batch_of(base, data, model, rows), 0.02, 4)
    processes.sum_gradients(gradcache.parameters_of(model.peft))
    named = model.peft.named_parameters()
    found = {name: p.grad for name, p in named if p.requires_grad}
    save_file({**found, "loss": torch.tensor(loss)}, out / f"{processes.rank()}.safetensors")
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    return number


def test_two_processes_have_the_gradient_of_one_with_the_joined_batch(
    checkpoints: Path, data: Path, tmp_path: Path, port: int
) -> None:
    base = checkpoints / "qwen2_vl"
    environment = {
        **os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(),
    }  # fmt: skip
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, base, data, tmp_path],
            env={**environment, "RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0]
    model = build(base, "dora", torch.float64)
    loss, joined = gradients(model, batch_of(base, data, model), 0)
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert float(found.pop("loss")) == pytest.approx(loss, rel=1e-6)
        assert distance(found, joined) < 1e-9
