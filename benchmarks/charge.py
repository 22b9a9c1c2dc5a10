"""What operations would cost a GPU, charged as they are called on the meta device."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


@dataclass(frozen=True)
class Card:
    """What good kernels reach on a GPU.

    ``flops`` is that of dense bfloat16 products a second and ``nbytes`` what the memory moves in
    one; ``launch`` is the least that a kernel takes, in seconds, and ``attention`` the share of
    ``flops`` that attention reaches.
    """

    flops: float
    nbytes: float
    launch: float = 4e-6
    attention: float = 0.6


H100 = Card(flops=700e12, nbytes=3.0e12)
"""An H100 SXM."""


@dataclass
class Cost:
    """What all calls of one operation cost."""

    launches: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    nbytes: float = 0.0


Flops = Callable[[dict[str, Any]], float]
"""Counts the multiplications and additions of a call by its arguments."""


def _mm(left: str, right: str) -> Flops:
    return lambda call: 2.0 * call[left].numel() * call[right].shape[-1]


PRODUCTS: dict[str, Flops] = {
    "aten::mm": _mm("self", "mat2"),
    "aten::bmm": _mm("self", "mat2"),
    "aten::addmm": _mm("mat1", "mat2"),
    "aten::addmm_": _mm("mat1", "mat2"),
    "aten::baddbmm": _mm("batch1", "batch2"),
    # The stride of every convolution here is its kernel: each input is read once.
    "aten::convolution": lambda call: 2.0 * call["input"].numel() * call["weight"].shape[0],
}
"""The operations that multiply matrices and what that takes."""
LOW_RANK: dict[str, Flops] = {
    "vlm2vec::shrink": lambda call: 2.0 * call["x"].numel() * call["rank"],
    "vlm2vec::expand": lambda call: 2.0 * call["y"].numel() * call["mixed"].shape[-1],
    "vlm2vec::swiglu_expand": (
        lambda call: 2.0 * call["gate_up"].numel() * call["mixed"].shape[-1]
    ),
}
"""The same for our own, which are counted apart: a vector without an adapter needs none of it."""
OURS = frozenset(
    f"vlm2vec::{name}"
    for name in ("add_rms_norm", "add_layer_norm", "rotate", "swiglu", "quick_gelu")
)
"""Our operations that multiply no matrices."""
DENSE = "aten::scaled_dot_product_attention"
ATTENTION = {
    DENSE: "",
    "torch_attn::_varlen_attn": "cu_seq_q",
    "aten::_flash_attention_forward": "cum_seq_q",
}
"""The operations that are attention, and the argument that has the boundaries of sequences."""
PASSES = frozenset(
    f"aten::{name}"
    for name in (
        "_softmax", "_to_copy", "arange", "cat", "clone", "constant_pad_nd", "copy_", "cumsum",
        "embedding", "fill_", "full", "index", "index_add", "index_copy", "index_put_",
        "index_select", "native_layer_norm", "ones", "repeat", "repeat_interleave", "sort",
        "stack", "upsample_bicubic2d", "zero_", "zeros", "zeros_like",
    )
)  # fmt: skip
"""Operations that go once over what they read and write, and that torch does not tag as such."""
WHOLE = frozenset({DENSE, "aten::upsample_bicubic2d"})
"""Operations that are one kernel on a GPU, though torch can make them of others."""
FREE = frozenset(
    f"aten::{name}"
    for name in (
        "_unsafe_view", "detach_", "empty", "empty_like", "empty_strided", "new_empty",
    )
)  # fmt: skip
"""Operations that launch nothing, beside those that torch says are views."""
GATHERS = {"aten::embedding": "weight", "aten::index": "self", "aten::index_select": "self"}
"""Operations that read of one argument no more than they return."""
OVERWRITES = frozenset({"aten::copy_", "aten::fill_", "aten::zero_"})
"""Operations that change a tensor without reading it."""


class Charge(TorchDispatchMode):
    """While it is on, adds up what every operation on the meta device would cost ``card``.

    An operation takes the longest of a launch, its arithmetic and its bytes. One that is made of
    others is charged for those, and one of our own once, for every tensor in its signature. What
    is copied to the host comes back as zeros. Raises `TypeError` for an operation that it does not
    know and that may multiply matrices, for that would be charged too little.
    """

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card
        self.costs: dict[tuple[str, str, str], Cost] = {}
        """By stage, the operation's kind (product, low-rank, attention, pass) and its name."""
        self._stage = ""
        # Attention costs what the boundaries of its sequences say, and they come from the host.
        self._sent = WeakIdKeyDictionary()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Notes the operations called within as those of the stage ``name``."""
        before, self._stage = self._stage, name
        try:
            yield
        finally:
            self._stage = before

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Calls ``func`` and charges it."""
        kwargs, name = kwargs or {}, func._schema.name
        if name.startswith("aten::") and name not in WHOLE:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        if name == "aten::_to_copy" and args[0].is_meta and kwargs.get("device") == _HOST:
            result: Any = torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        else:
            result = func(*args, **kwargs)
        call = _named(func, args, kwargs)
        if name == "aten::_to_copy" and result.is_meta and not args[0].is_meta:
            self._sent[result] = args[0]
        on_device = any(tensor.is_meta for tensor in (*_tensors(call), *_tensors(result)))
        if on_device and not func.is_view and name not in FREE:
            self._charge(func, call, result)
        return result

    def _charge(self, func: OpOverload, call: dict[str, Any], result: Any) -> None:
        name = func._schema.name
        kind, flops = self._arithmetic(func, call)
        nbytes = float(bytes_moved(func, call, result))
        rate = self.card.flops * (self.card.attention if kind == "attention" else 1)
        cost = self.costs.setdefault((self._stage, kind, name), Cost())
        cost.launches += 1
        cost.seconds += max(self.card.launch, flops / rate, nbytes / self.card.nbytes)
        cost.flops += flops
        cost.nbytes += nbytes

    def _arithmetic(self, func: OpOverload, call: dict[str, Any]) -> tuple[str, float]:
        """Finds the kind of a call and counts the arithmetic of its products."""
        name = func._schema.name
        if name in PRODUCTS:
            return "product", PRODUCTS[name](call)
        if name in LOW_RANK:
            return "low-rank", LOW_RANK[name](call)
        if name in ATTENTION:
            return "attention", self._attention(call, ATTENTION[name])
        tags = func.tags
        if name.startswith("aten::"):
            known = torch.Tag.pointwise in tags or torch.Tag.reduction in tags or name in PASSES
        else:
            known = name in OURS
        if not known:
            raise TypeError(f"{name}: benchmarks/charge.py does not know what it multiplies")
        return "pass", 0.0

    def _attention(self, call: dict[str, Any], boundaries: str) -> float:
        query = call["query"]
        if boundaries:
            ends = self._sent[call[boundaries]].tolist()
            lengths = [stop - start for start, stop in itertools.pairwise(ends)]
            causal = call["is_causal"] or (call.get("window_size") or (-1, -1))[1] == 0
            heads, dim = query.shape[1:]
        else:
            batch, heads, length, dim = query.shape
            lengths, causal = [length] * batch, call["is_causal"]
        return sum(4.0 * n * n for n in lengths) * heads * dim / (2 if causal else 1)


_HOST = torch.device("cpu")


def bytes_moved(func: OpOverload, call: dict[str, Any], result: Any) -> int:
    """Counts the bytes that ``func`` reads and writes: every tensor of its signature once, and one
    that it changes twice.

    ``call`` holds the arguments by name.
    """
    schema = func._schema
    returned = _tensors(
        [
            value
            for value, kind in zip(
                result if isinstance(result, tuple | list) else [result], schema.returns,
                strict=False,
            )
            if kind.alias_info is None
        ]
    )  # fmt: skip
    total = sum(map(_size, returned))
    for argument in schema.arguments:
        size = sum(map(_size, _tensors(call.get(argument.name))))
        writes = argument.alias_info is not None and argument.alias_info.is_write
        if GATHERS.get(schema.name) == argument.name:
            size = sum(map(_size, returned))
        if schema.name == "aten::index_put_" and argument.name == "self":
            size = _size(call["values"])
        reads = not (writes and (argument.is_out or schema.name in OVERWRITES))
        total += size * (reads + writes)
    return total


def _named(func: OpOverload, args: Iterable[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Names the arguments of a call, and fills in the defaults."""
    arguments = func._schema.arguments
    given = dict(zip((argument.name for argument in arguments), args, strict=False)) | kwargs
    return {
        argument.name: given.get(argument.name, argument.default_value) for argument in arguments
    }


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _size(tensor: Tensor) -> int:
    """Counts the bytes that ``tensor`` has in memory, where what is expanded lies once."""
    count = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= length if stride else min(length, 1)
    return count
