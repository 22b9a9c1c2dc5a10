"""Every operation of `engine.ops` beside its formula in float32, and how near it is to the memory's
rate."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.charge import H100, Charge
from benchmarks.gpu.rows import Options, Row
from benchmarks.gpu.timing import memory_rate, seconds_on_device
from vlm2vec_service.engine import ops
from vlm2vec_service.engine.low_rank import LowRank
from vlm2vec_service.engine.stage import Group, Stage

LIMIT = 1e-2
"""Of the largest value, that a result in bfloat16 may be off: it has 8 bits."""


@dataclass(frozen=True)
class Case:
    """An operation on tensors of one shape.

    ``make`` makes the tensors on a device, ``run`` calls the operation and returns what it computes
    or changed, and ``reference`` computes the same of the same tensors in float32.
    """

    name: str
    make: Callable[[torch.device], tuple[Tensor, ...]]
    run: Callable[..., Tensor]
    reference: Callable[..., Tensor]


def run(options: Options) -> Iterator[Row]:
    """Yields a row for each case: its time, its error, and its bytes at the memory's rate."""
    device = torch.device(options.device)
    counts = (7,) if options.size == "tiny" else (16_384, 1001, 7)
    rate = memory_rate(device)
    yield Row("kernels", "copying memory", rate / 1e9, "GB/s")
    for rows in counts:
        for case in cases(rows):
            made = case.make(device)
            expected = case.reference(*(tensor.float() for tensor in made))
            found = case.run(*(tensor.clone() for tensor in made)).float()
            error = ((found - expected).abs().max() / expected.abs().max()).item()
            seconds = seconds_on_device(functools.partial(case.run, *made), device)
            note = f"{moved(case) / seconds / rate:.2f} of the memory's rate, error {error:.1e}"
            name = f"{case.name}, {rows} rows"
            yield Row("kernels", name, seconds * 1e3, "ms", note, error < LIMIT)


def moved(case: Case) -> float:
    """Counts the bytes that the roofline charges for ``case``."""
    made = case.make(torch.device("meta"))
    charge = Charge(H100)
    with torch.inference_mode(), charge:
        case.run(*made)
    return sum(cost.nbytes for cost in charge.costs.values())


def cases(rows: int) -> Iterator[Case]:
    """Lists the operations at the sizes of Qwen2-VL-2B and Phi-3.5-V."""
    for size in (1536, 3072):
        yield Case(
            f"add_rms_norm {size}",
            tensors((rows, size), (rows, size), (size,)),
            lambda x, y, w: ops.add_rms_norm(x, y, w, 1e-6),
            lambda x, y, w: F.rms_norm((x + y).bfloat16().float(), w.shape, w, 1e-6),
        )
    for size in (1280, 1024):
        yield Case(
            f"add_layer_norm {size}",
            tensors((rows, size), (rows, size), (size,), (size,)),
            lambda x, y, w, b: ops.add_layer_norm(x, y, w, b, 1e-6),
            lambda x, y, w, b: F.layer_norm((x + y).bfloat16().float(), w.shape, w, b, 1e-6),
        )
    for size in (8960, 8192):
        yield Case(
            f"swiglu {size}",
            tensors((rows, 2 * size)),
            ops.swiglu,
            lambda x: F.silu(x[:, : x.shape[1] // 2]) * x[:, x.shape[1] // 2 :],
        )
    for size in (5120, 4096):
        yield Case(
            f"quick_gelu {size}",
            tensors((rows, size)),
            ops.quick_gelu,
            lambda x: x * torch.sigmoid(1.702 * x),
        )
    for dim, heads, columns in ((128, 14, 2048), (96, 64, 9216), (80, 32, 3840)):
        yield rotation(rows, dim, heads, columns)
    for in_, out, ranks in ((1536, 17_920, (32,) * 8), (8960, 1536, (16,) * 8), (1536, 2048, (7,))):
        yield low_rank(rows, in_, out, ranks)


def tensors(*shapes: tuple[int, ...]) -> Callable[[torch.device], tuple[Tensor, ...]]:
    """Returns a function that makes bfloat16 tensors of these shapes on a device."""
    return lambda device: tuple(
        torch.randn(*shape, device=device, dtype=torch.bfloat16) for shape in shapes
    )


def rotation(rows: int, dim: int, heads: int, columns: int) -> Case:
    """Makes the case of the rotary embedding of ``heads`` heads."""

    def make(device: torch.device) -> tuple[Tensor, ...]:
        angles = torch.randn(rows, dim // 2, device=device)
        x = torch.randn(rows, columns, device=device, dtype=torch.bfloat16)
        return x, angles.cos(), angles.sin()

    def run(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ops.rotate(x, cos, sin, heads)
        return x

    def reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x[:, : heads * dim].unflatten(1, (heads, 2, -1)).unbind(2)
        cos, sin = cos[:, None], sin[:, None]
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), 2)
        return torch.cat((turned.flatten(1), x[:, heads * dim :]), 1)

    return Case(f"rotate {heads} x {dim} of {columns}", make, run, reference)


def low_rank(rows: int, in_: int, out: int, ranks: tuple[int, ...]) -> Case:
    """Makes the case of a product with adapters of ``ranks``, which share the rows."""
    count = len(ranks)
    bounds = [rows * index // count for index in range(count + 1)]

    def make(device: torch.device) -> tuple[Tensor, ...]:
        shapes: list[tuple[int, ...]] = [(rows, out), (rows, in_)]
        for rank in ranks:
            shapes += [(rank, in_), (out, rank), (out,), (out,)]
        y, x, *added = tensors(*shapes)(device)
        # As an adapter's are: a sum over the columns that is of order one, a gain near one.
        for index in range(0, len(added), 4):
            added[index].mul_(in_**-0.5)
            added[index + 2].mul_(0.05).add_(1)
        return y, x, *added

    def run(y: Tensor, x: Tensor, *added: Tensor) -> Tensor:
        groups = []
        for index in range(count):
            layer = LowRank(*added[4 * index : 4 * index + 4])
            pointers = np.array([(0,) * 5 if x.is_meta else layer.pointers], np.int64)
            start, stop = bounds[index], bounds[index + 1]
            groups.append(Group({"product": layer}, start, stop, pointers=pointers))
        addition = Stage(groups, x.device).addition("product", 0, y, x)
        if addition is not None:
            ops.add(y, addition)
        return y

    def reference(y: Tensor, x: Tensor, *added: Tensor) -> Tensor:
        parts = []
        for index in range(count):
            a, b, gain, shift = added[4 * index : 4 * index + 4]
            own = slice(bounds[index], bounds[index + 1])
            parts.append(gain * y[own] + shift + x[own] @ a.T @ b.T)
        return torch.cat(parts)

    return Case(f"add_low_rank {in_} to {out}, {count} of rank {ranks[0]}", make, run, reference)
