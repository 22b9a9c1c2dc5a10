"""Rotary position embedding."""

from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> None:
    """Rotates the first ``heads`` heads of each row of ``x``, ``(rows, columns)``, in place.

    A head is ``dim`` neighbouring columns; its column ``i`` of the first half turns with column
    ``i`` of the second by the angle whose cosine and sine are ``cos[row, i]`` and ``sin[row, i]``,
    float32 ``(rows, dim / 2)``. Later columns keep their values.
    """
    half = cos.shape[1]
    halves = x[:, : heads * 2 * half].unflatten(1, (heads, 2, half))
    first, second = halves.unbind(2)
    cos, sin = cos[:, None], sin[:, None]
    turned = first * cos - second * sin
    second.copy_(second * cos + first * sin)
    first.copy_(turned)
