"""Rotary position embedding."""

from torch import Tensor

from vlm2vec_service.engine.ops.registry import define, wants_operator

ROWS = 256
"""Rows that a CPU does at once: what is in float32 meanwhile stays in its cache."""


def rotate(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> None:
    """Rotates the first ``heads`` heads of each row of ``x``, ``(rows, columns)``, in place.

    A head is ``dim`` neighbouring columns; its column ``i`` of the first half turns with column
    ``i`` of the second by the angle whose cosine and sine are ``cos[row, i]`` and ``sin[row, i]``,
    float32 ``(rows, dim / 2)``. Later columns keep their values.
    """
    if wants_operator(x):
        _rotate(x, cos, sin, heads)
        return
    half = cos.shape[1]
    parts = x[:, : heads * 2 * half].unflatten(1, (heads, 2, half))
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        _turn(parts[rows], cos[rows, None], sin[rows, None])


def _turn(halves: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotates ``halves``, ``(rows, heads, 2, dim / 2)``, in place."""
    first, second = halves.float().unbind(2)
    turned = (first * cos).addcmul_(second, sin, value=-1)
    halves[:, :, 1] = (second * cos).addcmul_(first, sin)
    halves[:, :, 0] = turned


_rotate = define(
    "rotate(Tensor(a!) x, Tensor cos, Tensor sin, int heads) -> ()",
    "rotary",
    lambda x, cos, sin, heads: None,
)
