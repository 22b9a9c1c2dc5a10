"""What the roofline charges for an operation, beside what can be counted by hand."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.charge import Card, Charge, Cost
from benchmarks.models import workload
from benchmarks.roofline import predict
from vlm2vec_service.engine.attention import Segments, attend

CARD = Card(flops=1000.0, nbytes=10.0, launch=1.0)


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(*shape, device="meta", dtype=dtype)


def charged(run: Callable[[], Any], card: Card = CARD) -> dict[str, Cost]:
    """Charges what ``run`` calls, and returns the costs by operation."""
    charge = Charge(card)
    with torch.inference_mode(), charge:
        run()
    return {name: cost for (_, _, name), cost in charge.costs.items()}


def test_a_product_costs_its_arithmetic_and_its_bytes() -> None:
    x, weight, bias = empty(2, 3, 8), empty(4, 8), empty(4)
    costs = charged(lambda: F.linear(x, weight, bias))
    assert costs == {"aten::addmm": Cost(1, 21.6, 2 * 6 * 8 * 4, 2 * (6 * 8 + 4 * 8 + 4 + 6 * 4))}


def test_a_product_into_a_tensor_writes_it_and_does_not_read_it() -> None:
    x, weight, out = empty(6, 8), empty(4, 8), empty(9, 4)
    costs = charged(lambda: torch.mm(x, weight.T, out=out[1:7]))
    assert costs["aten::mm"].nbytes == 2 * (6 * 8 + 4 * 8 + 6 * 4)


def test_what_is_changed_in_place_is_read_and_written() -> None:
    y, gain = empty(6, 8), empty(8)
    assert charged(lambda: y.mul_(gain))["aten::mul_"].nbytes == 2 * (2 * 6 * 8 + 8)
    x, b = empty(6, 4), empty(4, 8)
    costs = charged(lambda: y.addmm_(x, b))
    assert costs["aten::addmm_"].nbytes == 2 * (2 * 6 * 8 + 6 * 4 + 4 * 8)
    assert charged(lambda: y.copy_(gain))["aten::copy_"].nbytes == 2 * (6 * 8 + 8)


def test_a_look_up_reads_what_it_returns() -> None:
    table, ids = empty(1000, 8), empty(5, dtype=torch.int64)
    expected = 5 * 8 + 2 * 2 * 5 * 8
    assert charged(lambda: F.embedding(ids, table))["aten::embedding"].nbytes == expected
    assert charged(lambda: table[ids])["aten::index"].nbytes == expected


def test_views_are_free_and_copies_are_not() -> None:
    x = empty(6, 8)
    assert not charged(lambda: x.view(2, 3, 8).transpose(0, 1)[1:].unsqueeze(0))
    assert charged(lambda: x.T.reshape(-1))["aten::clone"].nbytes == 2 * 2 * 6 * 8


def test_attention_costs_what_the_lengths_of_the_sequences_say() -> None:
    query, key = empty(7, 4, 16), empty(7, 2, 16)
    card = Card(flops=1000.0, nbytes=1e9, launch=0.0, attention=0.5)

    def run(causal: bool) -> Cost:
        segments = Segments([2, 5], causal, query.device)
        costs = charged(lambda: attend(query, key, key, None, segments), card)
        return costs["torch_attn::_varlen_attn"]

    assert run(causal=False).flops == 4 * (4 + 25) * 4 * 16
    assert run(causal=True).flops == run(causal=False).flops / 2
    assert run(causal=False).seconds == run(causal=False).flops / 500


ROWS, SIZE = 6, 8
OWN: dict[str, tuple[Callable[[], tuple[Any, ...]], int]] = {
    "add_rms_norm": (
        lambda: (empty(ROWS, SIZE), empty(ROWS, SIZE), empty(SIZE), 1e-6),
        2 * (4 * ROWS * SIZE + SIZE),
    ),
    "add_layer_norm": (
        lambda: (empty(ROWS, SIZE), empty(ROWS, SIZE), empty(SIZE), empty(SIZE), 1e-6),
        2 * (4 * ROWS * SIZE + 2 * SIZE),
    ),
    "rotate": (
        lambda: (empty(ROWS, SIZE), floats(ROWS, 2), floats(ROWS, 2), 1),
        2 * 2 * ROWS * SIZE + 4 * 2 * 2 * ROWS,
    ),
    "swiglu": (lambda: (empty(ROWS, 2 * SIZE),), 2 * 3 * ROWS * SIZE),
    "quick_gelu": (lambda: (empty(ROWS, SIZE),), 2 * 2 * ROWS * SIZE),
    "shrink": (
        lambda: (empty(ROWS, SIZE), [empty(4, SIZE), empty(3, 4)], *places(), 16, 2, 16),
        2 * (ROWS * SIZE + 4 * SIZE + 3 * 4) + 8 * 5 + 4 * 3 + 4 * 2 * ROWS * 16,
    ),
    "expand": (
        lambda: (empty(ROWS, 3), floats(2, ROWS, 16), [empty(4, SIZE), empty(3, 4)], *places(), 16),
        2 * (2 * ROWS * 3 + 4 * SIZE + 3 * 4) + 8 * 5 + 4 * 3 + 4 * 2 * ROWS * 16,
    ),
    "swiglu_expand": (
        lambda: (empty(ROWS, 6), floats(2, ROWS, 16), [empty(4, SIZE), empty(6, 4)], *places(), 16),
        2 * (ROWS * (6 + 3) + 4 * SIZE + 6 * 4) + 8 * 5 + 4 * 3 + 4 * 2 * ROWS * 16,
    ),
}
"""Our operators: arguments, and the bytes that a call of them reads and writes, counted by hand."""


def floats(*shape: int) -> Tensor:
    return empty(*shape, dtype=torch.float32)


def places() -> tuple[Tensor, Tensor]:
    """The table and the tiles of one group."""
    return empty(1, 5, dtype=torch.int64), empty(1, 3, dtype=torch.int32)


def test_every_operator_of_ours_is_known() -> None:
    names = {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    assert {name for name in names if name.startswith("vlm2vec::")} == {
        f"vlm2vec::{name}" for name in OWN
    }


@pytest.mark.parametrize("name", OWN)
def test_an_operator_of_ours_is_charged_once_for_all_that_it_reads_and_writes(name: str) -> None:
    make, nbytes = OWN[name]
    operator = getattr(torch.ops.vlm2vec, name).default
    costs = charged(lambda: operator(*make()))
    assert costs[f"vlm2vec::{name}"].nbytes == nbytes
    assert sum(cost.launches for cost in costs.values()) == 1


def test_low_ranks_cost_the_arithmetic_of_their_products() -> None:
    def of(name: str) -> dict[str, Cost]:
        make, _ = OWN[name]
        return charged(lambda: getattr(torch.ops.vlm2vec, name).default(*make()))

    shrink, expand, fused = of("shrink"), of("expand"), of("swiglu_expand")
    assert shrink["vlm2vec::shrink"].flops == 2 * ROWS * SIZE * 16
    assert expand["vlm2vec::expand"].flops == 2 * ROWS * 3 * 16
    assert fused["vlm2vec::swiglu_expand"].flops == 2 * ROWS * 6 * 16


def test_an_operation_takes_the_longest_of_launch_arithmetic_and_bytes() -> None:
    assert charged(lambda: empty(1).neg())["aten::neg"].seconds == 1.0
    assert charged(lambda: empty(100).neg())["aten::neg"].seconds == 2 * 2 * 100 / 10


def test_an_operation_that_may_multiply_unknown_matrices_is_refused() -> None:
    library = torch.library.Library("vlm2vec_test", "DEF")
    library.define("fused_product(Tensor x, Tensor weight) -> Tensor")
    library.impl("fused_product", lambda x, weight: x.new_empty(len(x), len(weight)), "Meta")
    with pytest.raises(TypeError, match="vlm2vec_test::fused_product"):
        charged(lambda: torch.ops.vlm2vec_test.fused_product(empty(6, 8), empty(4, 8)))
    with pytest.raises(TypeError, match="_cdist_forward"):
        charged(lambda: torch.cdist(empty(6, 8), empty(4, 8)))


def test_merged_copies_cost_less_than_low_rank_and_no_adapter_least() -> None:
    inputs = workload("text", "small", 64)
    none = predict("small", inputs)
    merged, low_rank = (predict("small", inputs, 4, path) for path in ("merged", "low-rank"))
    assert none.seconds < merged.seconds < low_rank.seconds
    assert none.launches < merged.launches
    mixed = predict("small", inputs, 4, "mixed")
    assert merged.seconds < mixed.seconds


@pytest.mark.parametrize("size", ["small-2.5", "small-3"])
def test_every_family_is_charged(size: str) -> None:
    found = predict(size, workload("mixed", size, 8), 2, "low-rank")
    assert {stage for stage, _, _ in found.costs} == {"vision", "language"}
    assert 0 < found.of_rate < 1


def test_the_command_prints_one_json_object() -> None:
    command = [sys.executable, "-m", "benchmarks.roofline", "--json", "--size", "tiny"]
    more = ["--workload", "image", "--tokens", "600", "--adapters", "2"]
    output = subprocess.run([*command, *more], capture_output=True, text=True, check=True).stdout
    found = json.loads(output)
    assert {"ms", "of_rate", "launches"} <= set(found)
    assert found["ms"] > 0
    assert 0 < found["of_rate"] < 1
    assert found["launches"] > 50
