"""The steps between matrix products: plain torch beside transformers, and what operators state."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import QuickGELUActivation
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRMSNorm, apply_rotary_pos_emb
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm

from vlm2vec_service.engine import ops
from vlm2vec_service.engine.low_rank import LowRank
from vlm2vec_service.engine.ops.registry import starter

DTYPES = [torch.float32, torch.bfloat16]
MODULES = {
    "add_rms_norm": "norms",
    "add_layer_norm": "norms",
    "rotate": "rotary",
    "swiglu": "activations",
    "quick_gelu": "activations",
    "shrink": "low_rank",
    "expand": "low_rank",
    "swiglu_expand": "low_rank",
}
"""The operators and the modules of their kernels."""
ROWS = [1, 300]
"""A CPU does 256 rows at once, or 64."""


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    tolerance = 1e-6 if ours.dtype == torch.float32 else 2**-6
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_rms_norm_is_that_of_transformers(rows: int, dtype: torch.dtype) -> None:
    residual, delta = normal(2, rows, 96, dtype=dtype).unbind()
    module = Qwen2VLRMSNorm(96, eps=1e-5).to(dtype)
    module.weight = nn.Parameter(normal(96, dtype=dtype, seed=1), requires_grad=False)
    total = residual + delta
    assert_close(ops.add_rms_norm(residual, delta, module.weight, 1e-5), module(total))
    assert torch.equal(residual, total)
    assert_close(ops.add_rms_norm(residual, None, module.weight, 1e-5), module(total))
    assert torch.equal(residual, total)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layer_norm_is_that_of_torch(dtype: torch.dtype) -> None:
    residual, delta = normal(2, 3, 96, dtype=dtype).unbind()
    weight, bias = normal(2, 96, dtype=dtype, seed=1).unbind()
    total = residual + delta
    normed = ops.add_layer_norm(residual, delta, weight, bias, 1e-6)
    assert_close(normed, F.layer_norm(total, (96,), weight, bias, 1e-6))
    assert torch.equal(residual, total)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_rotation_is_that_of_transformers(rows: int, dtype: torch.dtype) -> None:
    heads, keys, dim = 6, 2, 20
    x, angles = normal(rows, (heads + 2 * keys) * dim, dtype=dtype), normal(rows, dim // 2, seed=1)
    query, key, value = (
        x.clone().view(1, rows, -1, dim).transpose(1, 2).split((heads, keys, keys), 1)
    )
    twice = torch.cat((angles, angles), 1)[None]
    turned = apply_rotary_pos_emb(query.float(), key.float(), twice.cos(), twice.sin())
    theirs = torch.cat((*turned, value.float()), 1).to(dtype).transpose(1, 2).flatten(2)[0]
    ops.rotate(x, angles.cos(), angles.sin(), heads + keys)
    assert_close(x, theirs)
    assert torch.equal(x[:, -keys * dim :], theirs[:, -keys * dim :])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_heads_are_normed_before_they_turn_as_by_transformers(dtype: torch.dtype) -> None:
    heads, keys, dim = 3, 2, 20
    x, angles = normal(5, (heads + keys) * dim + 7, dtype=dtype), normal(5, dim // 2, seed=1)
    norms = [Qwen3VLTextRMSNorm(dim, eps=1e-5).to(dtype) for _ in range(2)]
    for seed, norm in enumerate(norms):
        norm.weight = nn.Parameter(normal(dim, dtype=dtype, seed=seed), requires_grad=False)
    wide = x[:, : (heads + keys) * dim].float().view(1, 5, -1, dim).transpose(1, 2)
    parts = zip(norms, wide.split((heads, keys), 1), strict=True)
    query, key = (norm.float()(part) for norm, part in parts)
    twice = torch.cat((angles, angles), 1)[None]
    turned = torch.cat(apply_rotary_pos_emb(query, key, twice.cos(), twice.sin()), 1)
    counts = zip(norms, (heads, keys), strict=True)
    weight = torch.cat([norm.weight.expand(count, dim) for norm, count in counts])
    rest = x[:, (heads + keys) * dim :].clone()
    ops.rotate(x, angles.cos(), angles.sin(), heads + keys, weight.to(dtype), 1e-5)
    assert_close(x[:, : (heads + keys) * dim], turned.transpose(1, 2).flatten(2)[0].to(dtype))
    assert torch.equal(x[:, (heads + keys) * dim :], rest)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_activations_are_those_of_transformers(rows: int, dtype: torch.dtype) -> None:
    x = normal(rows, 80, dtype=dtype) * 4
    assert_close(ops.swiglu(x), F.silu(x[:, :40]) * x[:, 40:])
    theirs = QuickGELUActivation()(x)
    assert_close(ops.quick_gelu(x), theirs)


def test_gradients_pass_the_plain_steps() -> None:
    def leaf(*shape: int) -> Tensor:
        return normal(*shape, seed=len(shape)).double().requires_grad_()

    checks: list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (lambda r, d, w: ops.add_rms_norm(r * 1, d, w, 1e-6), (leaf(2, 5), leaf(2, 5), leaf(5))),
        (
            lambda r, d, w, b: ops.add_layer_norm(r * 1, d, w, b, 1e-6),
            (leaf(2, 5), leaf(2, 5), leaf(5), leaf(5)),
        ),
        (ops.swiglu, (leaf(2, 6),)),
        (lambda x: ops.quick_gelu(x * 1), (leaf(2, 6),)),
    ]
    for step, inputs in checks:
        assert torch.autograd.gradcheck(step, inputs)


@pytest.mark.parametrize(
    ("spans", "block", "expected"),
    [
        ([], 16, []),
        ([(0, 16, 0)], 16, [[0, 0, 16]]),
        ([(3, 20, 0), (20, 21, 1)], 16, [[0, 3, 19], [0, 19, 20], [1, 20, 21]]),
        ([(4, 4, 7), (9, 2, 8), (5, 7, 9)], 2, [[9, 5, 7]]),
    ],
)
def test_tiles_cover_the_rows_of_each_span(
    spans: list[tuple[int, int, int]], block: int, expected: list[list[int]]
) -> None:
    tiles = ops.tiles(spans, block)
    assert tiles.dtype == "int32"
    assert tiles.shape == (len(expected), 3)
    assert tiles.tolist() == expected


def low_rank(device: str = "cpu") -> LowRank:
    return LowRank(normal(3, 24), normal(32, 3), normal(32), normal(32, seed=1)).to(
        torch.device(device)
    )


def test_adapters_add_to_their_rows_alone() -> None:
    each, x, y = low_rank(), normal(9, 24), normal(9, 32, seed=2)
    assert each.gain is not None
    assert each.shift is not None
    expected = y.clone()
    expected[2:5] = y[2:5] * each.gain + each.shift + x[2:5] @ each.a.T @ each.b.T
    ops.add_low_rank(y, x, [ops.LowRankGroup(each, 2, 5)])
    torch.testing.assert_close(y, expected)
    assert torch.equal(y[[0, 1, 5, 6, 7, 8]], expected[[0, 1, 5, 6, 7, 8]])


class Seen(torch.utils._python_dispatch.TorchDispatchMode):
    """Writes down the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_on_the_meta_device_each_step_is_one_operator() -> None:
    x, wide, vector = (torch.empty(*s, device="meta") for s in ((9, 24), (9, 32), (24,)))
    half = torch.empty(9, 4, device="meta")
    tensors = low_rank("meta").tensors
    tiles = torch.empty(1, 3, dtype=torch.int32, device="meta")
    table = torch.empty(1, 5, dtype=torch.int64, device="meta")
    with torch.inference_mode(), Seen() as seen:
        assert ops.add_rms_norm(x, x, vector, 1e-6).shape == (9, 24)
        assert ops.add_layer_norm(x, None, vector, vector, 1e-6).shape == (9, 24)
        ops.rotate(x, half, half, 2)
        assert ops.swiglu(wide).shape == (9, 16)
        assert ops.quick_gelu(wide) is wide
        addition = ops.mix(x, tensors, tiles, table, 3)
        ops.add(wide, addition)
        assert ops.swiglu(wide, addition).shape == (9, 16)
    run = [name.removeprefix("vlm2vec::") for name in seen.names if name.startswith("vlm2vec::")]
    assert run == list(MODULES)
    assert [name for name in seen.names if not name.startswith(("vlm2vec::", "aten::empty"))] == []


@pytest.fixture(scope="module")
def on_cpu() -> Iterator[None]:
    """Lets the operators run on a CPU too, in Triton's interpreter."""
    pytest.importorskip("triton", reason="Triton has no wheel for this machine")
    library = torch.library.Library("vlm2vec", "IMPL")
    for name, module in MODULES.items():
        library.impl(name, starter(name, module), "CPU")
    yield
    library._destroy()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is no interpreter beside a GPU")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_operators_write_to_what_they_say_and_their_fakes_fit(
    on_cpu: None, name: str, dtype: torch.dtype
) -> None:
    x, vector = normal(5, 24, dtype=dtype), normal(24, dtype=dtype)
    half = normal(5, 4)
    each = LowRank(normal(3, 24, dtype=dtype), normal(24, 3, dtype=dtype))
    table = torch.tensor([each.pointers])
    tiles = torch.tensor([[0, 0, 5]], dtype=torch.int32)
    arguments = {
        "add_rms_norm": (x, x.clone(), vector, 1e-6),
        "add_layer_norm": (x, None, vector, vector, 1e-6),
        "rotate": (x, half, half, 2, normal(2, 8, dtype=dtype), 1e-6),
        "swiglu": (x,),
        "quick_gelu": (x,),
        "shrink": (x, each.tensors, table, tiles, 16, 2, 16),
        "expand": (x, torch.zeros(2, 5, 16), each.tensors, table, tiles, 16),
        "swiglu_expand": (x, torch.zeros(2, 5, 16), each.tensors, table, tiles, 16),
    }
    operator = getattr(torch.ops.vlm2vec, name).default
    torch.library.opcheck(operator, arguments[name], test_utils=("test_schema", "test_faketensor"))
