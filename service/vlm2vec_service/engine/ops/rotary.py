"""Rotary position embedding, and the norms of heads that some families have before it."""

from torch import Tensor

from vlm2vec_service.engine.ops.registry import define, wants_operator

ROWS = 256
"""Rows that a CPU does at once: what is in float32 meanwhile stays in its cache."""


def rotate(
    x: Tensor, cos: Tensor, sin: Tensor, heads: int, norm: Tensor | None = None, eps: float = 0.0
) -> None:
    """Rotates the first ``heads`` heads of each row of ``x``, ``(rows, columns)``, in place.

    A head is ``dim`` neighbouring columns; its column ``i`` of the first half turns with column
    ``i`` of the second by the angle whose cosine and sine are ``cos[row, i]`` and ``sin[row, i]``,
    float32 ``(rows, dim / 2)``. Later columns keep their values. With ``norm``, ``(heads, dim)``,
    what turns is the RMS norm of each head, times its row of ``norm``.
    """
    if wants_operator(x):
        _rotate(x, cos, sin, heads, norm, eps)
        return
    half = cos.shape[1]
    weight = None if norm is None else norm.float().view(heads, 2, half)
    parts = x[:, : heads * 2 * half].unflatten(1, (heads, 2, half))
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        wide = parts[rows].float()
        if weight is not None:
            mean = wide.square().mean((2, 3), keepdim=True)
            wide = wide * mean.add_(eps).rsqrt_() * weight
        _turn(parts[rows], wide, cos[rows, None], sin[rows, None])


def _turn(halves: Tensor, wide: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Writes ``wide``, float32 ``(rows, heads, 2, dim / 2)``, into ``halves``, rotated."""
    first, second = wide.unbind(2)
    turned = (first * cos).addcmul_(second, sin, value=-1)
    halves[:, :, 1] = (second * cos).addcmul_(first, sin)
    halves[:, :, 0] = turned


_rotate = define(
    "rotate(Tensor(a!) x, Tensor cos, Tensor sin, int heads, Tensor? norm=None, float eps=0.0)"
    " -> ()",
    "rotary",
    lambda x, cos, sin, heads, norm=None, eps=0.0: None,
)
