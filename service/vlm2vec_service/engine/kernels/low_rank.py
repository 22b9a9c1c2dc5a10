"""Kernels that add what adapters add, for the rows of all of them at once.

They find an adapter's factors by addresses in a table, so that one launch serves all adapters of a
batch, and a CUDA graph any. The factors start at multiples of 16 bytes. Numbers that differ from
batch to batch are no reason to compile a kernel anew.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

STEP_BYTES = 256
"""Bytes of each row that a step of the shrinking kernel reads."""
OUTPUT_BYTES = 256
"""Bytes of each row that a program of the expanding kernel writes."""
SHRUNK_RANKS, EXPANDED_RANKS = 64, 32
"""Ranks that the kernels do at once: as many as they have registers for. The first is a multiple
of the second, so that all that is read has been written."""


def shrink(
    x: Tensor,
    tensors: Sequence[Tensor],
    table: Tensor,
    tiles: Tensor,
    rank: int,
    splits: int,
    block: int,
) -> Tensor:
    """Multiplies each tile's rows of ``x`` by its adapter's ``a``.

    Returns float32 ``(splits, rows, rank)``, one part for each of ``splits`` parts of the inputs,
    whose sum is ``x aᵀ``. Only the rows of tiles with an adapter are set, and of their columns
    those that `expand` reads: zero where the adapter has no such rank.
    """
    rows, size = x.shape
    mixed = torch.empty(splits, rows, rank, dtype=torch.float32, device=x.device)
    ranks = _ranks(rank, SHRUNK_RANKS)
    step = STEP_BYTES // x.element_size()
    _shrink[(len(tiles), triton.cdiv(rank, ranks), splits)](
        x,
        table,
        tiles,
        mixed,
        x.stride(0),
        size,
        rows,
        rank,
        triton.cdiv(triton.cdiv(size, splits), step),
        DOT=_operand(x),
        ROWS=block,
        RANKS=ranks,
        STEP=step,
        num_warps=4,
        num_stages=3,
    )
    return mixed


def expand(
    y: Tensor,
    mixed: Tensor,
    tensors: Sequence[Tensor],
    table: Tensor,
    tiles: Tensor,
    block: int,
) -> None:
    """Turns each tile's rows of ``y`` into ``gain * y + shift + mixed bᵀ``, in place.

    ``mixed`` is what `shrink` returned. The sum of its parts is rounded to the type of ``y``.
    """
    options = _reading(mixed, y, block)
    _expand[(len(tiles), triton.cdiv(y.shape[1], options["OUTPUTS"]))](
        y, mixed, table, tiles, y.stride(0), y.shape[1], **options, num_warps=4
    )


def swiglu_expand(
    gate_up: Tensor,
    mixed: Tensor,
    tensors: Sequence[Tensor],
    table: Tensor,
    tiles: Tensor,
    block: int,
) -> Tensor:
    """Computes `expand` and then SwiGLU for ``(rows, 2 * size)``, gate first, in one pass.

    ``tiles`` cover all rows. Returns ``(rows, size)``.
    """
    rows, size = len(gate_up), gate_up.shape[1] // 2
    product = torch.empty(rows, size, dtype=gate_up.dtype, device=gate_up.device)
    options = _reading(mixed, gate_up, block)
    _swiglu_expand[(len(tiles), triton.cdiv(size, options["OUTPUTS"]))](
        gate_up, product, mixed, table, tiles, gate_up.stride(0), size, **options, num_warps=8
    )
    return product


def _reading(mixed: Tensor, y: Tensor, block: int) -> dict[str, Any]:
    """Lists what a kernel that adds ``mixed`` to ``y`` has to know of them."""
    splits, rows, rank = mixed.shape
    return {
        "rows": rows,
        "rank": rank,
        "splits": splits,
        "DOT": _operand(y),
        "ROWS": block,
        "RANKS": _ranks(rank, EXPANDED_RANKS * 2 // y.element_size()),
        "OUTPUTS": OUTPUT_BYTES // y.element_size(),
    }


def _ranks(rank: int, most: int) -> int:
    """Decides how many ranks a program does at once: tensor cores take 16 at least."""
    return min(most, max(16, triton.next_power_of_2(rank)))


def _operand(x: Tensor) -> "tl.constexpr":
    """Finds the type of the factors of a product: Triton's interpreter has none of bfloat16."""
    wide = triton.knobs.runtime.interpret or x.dtype == torch.float32
    return tl.float32 if wide else tl.bfloat16 if x.dtype == torch.bfloat16 else tl.float16


@triton.jit
def _tile(tiles, table):
    """Finds this program's tile: its adapter's entry in ``table``, its first row, its last + 1."""
    tile = tiles + tl.program_id(0) * 3
    return table + tl.load(tile) * 5, tl.load(tile + 1), tl.load(tile + 2)


@triton.jit(do_not_specialize=["rows", "steps"])
def _shrink(
    x,
    table,
    tiles,
    mixed,
    stride,
    size,
    rows,
    rank,
    steps,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    STEP: tl.constexpr,
):
    """One program does one tile, ``RANKS`` ranks and one part of the inputs, of ``steps`` steps."""
    entry, first, stop = _tile(tiles, table)
    part = tl.program_id(2)
    address = tl.load(entry)
    own_rank = tl.load(entry + 4).to(tl.int32)
    r = tl.program_id(1) * RANKS + tl.arange(0, RANKS)
    if (first < stop) & (address != 0) & (tl.program_id(1) * RANKS < own_rank):
        a = tl.multiple_of(address.to(tl.pointer_type(x.dtype.element_ty)), 16)
        row = first + tl.arange(0, ROWS)
        x_rows = x + row.to(tl.int64)[:, None] * stride
        a_rows = a + r[None, :] * size
        total = tl.zeros((ROWS, RANKS), tl.float32)
        for index in range(part * steps, part * steps + steps):
            k = index * STEP + tl.arange(0, STEP)
            left = tl.load(
                x_rows + k[None, :], (row < stop)[:, None] & (k < size)[None, :], other=0
            )
            right = tl.load(
                a_rows + k[:, None], (r < own_rank)[None, :] & (k < size)[:, None], other=0
            )
            total = tl.dot(left.to(DOT), right.to(DOT), total, input_precision="ieee")
        out = mixed + (part * rows + row).to(tl.int64)[:, None] * rank + r[None, :]
        tl.store(out, total, (row < stop)[:, None] & (r < rank)[None, :])


@triton.jit
def _added(
    value,
    n,
    known,
    entry,
    mixed,
    row,
    stop,
    rows,
    rank,
    splits,
    KIND: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
):
    """Turns ``value``, columns ``n`` of a product, as far as ``known``, into the adapter's."""
    b = tl.multiple_of(tl.load(entry + 1).to(tl.pointer_type(KIND)), 16)
    gain_address, shift_address = tl.load(entry + 2), tl.load(entry + 3)
    own_rank = tl.load(entry + 4).to(tl.int32)
    if gain_address != 0:
        gain = tl.multiple_of(gain_address.to(tl.pointer_type(KIND)), 16)
        value *= tl.load(gain + n, known, other=0).to(tl.float32)[None, :]
    if shift_address != 0:
        shift = tl.multiple_of(shift_address.to(tl.pointer_type(KIND)), 16)
        value += tl.load(shift + n, known, other=0).to(tl.float32)[None, :]
    for start in range(0, own_rank, RANKS):
        r = start + tl.arange(0, RANKS)
        written = (row < stop)[:, None] & (r < rank)[None, :]
        left = tl.zeros((ROWS, RANKS), tl.float32)
        for part in range(splits):
            from_rows = mixed + (part * rows + row).to(tl.int64)[:, None] * rank
            left += tl.load(from_rows + r[None, :], written, other=0)
        # With a stride that is known to be a multiple of 8, loads are of 16 bytes.
        even = own_rank // 8 * 8
        if even == own_rank:
            right = tl.load(
                b + n[None, :] * even + r[:, None],
                known[None, :] & (r < even)[:, None],
                other=0,
            )
        else:
            right = tl.load(
                b + n[None, :] * own_rank + r[:, None],
                known[None, :] & (r < own_rank)[:, None],
                other=0,
            )
        left = left.to(KIND)
        value = tl.dot(left.to(DOT), right.to(DOT), value, input_precision="ieee")
    return value


@triton.jit(do_not_specialize=["rows", "splits"])
def _expand(
    y,
    mixed,
    table,
    tiles,
    stride,
    size,
    rows,
    rank,
    splits,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """One program does ``OUTPUTS`` columns of one tile."""
    entry, first, stop = _tile(tiles, table)
    if (first < stop) & (tl.load(entry) != 0):
        kind: tl.constexpr = y.dtype.element_ty
        row = first + tl.arange(0, ROWS)
        n = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
        at = y + row.to(tl.int64)[:, None] * stride + n[None, :]
        inside = (row < stop)[:, None] & (n < size)[None, :]
        value = tl.load(at, inside, other=0).to(tl.float32)
        value = _added(
            value, n, n < size, entry, mixed, row, stop, rows, rank, splits, kind, DOT, ROWS, RANKS
        )
        tl.store(at, value.to(kind), inside)


@triton.jit(do_not_specialize=["rows", "splits"])
def _swiglu_expand(
    gate_up,
    product,
    mixed,
    table,
    tiles,
    stride,
    size,
    rows,
    rank,
    splits,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """One program does ``OUTPUTS`` columns of one tile of the SwiGLU, whose width is ``size``."""
    entry, first, stop = _tile(tiles, table)
    if first < stop:
        kind: tl.constexpr = gate_up.dtype.element_ty
        row = first + tl.arange(0, ROWS)
        n = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
        known = n < size
        inside = (row < stop)[:, None] & known[None, :]
        at = gate_up + row.to(tl.int64)[:, None] * stride + n[None, :]
        gate = tl.load(at, inside, other=0).to(tl.float32)
        up = tl.load(at + size, inside, other=0).to(tl.float32)
        if tl.load(entry) != 0:
            gate = _added(
                gate, n, known, entry, mixed, row, stop, rows, rank, splits, kind, DOT, ROWS, RANKS
            )
            up = _added(
                up, n + size, known, entry, mixed, row, stop, rows, rank, splits,
                kind, DOT, ROWS, RANKS,
            )  # fmt: skip
        y = gate * tl.sigmoid(gate) * up
        to = product + row.to(tl.int64)[:, None] * size + n[None, :]
        tl.store(to, y.to(kind), inside)
