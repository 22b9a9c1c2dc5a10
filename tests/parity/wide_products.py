"""Products of bfloat16 as devices compute them that have bfloat16."""

from collections.abc import Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default,
    aten.convolution.default,
}  # fmt: skip


class WideProducts(TorchDispatchMode):
    """Has every product of bfloat16 tensors summed in float32 and rounded once, as tensor cores
    and CPUs with AVX-512 do. A CPU without it gives the same after fifty times as long."""

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in PRODUCTS and args[0].dtype == torch.bfloat16:
            wide = [value.float() if isinstance(value, torch.Tensor) else value for value in args]
            return func(*wide, **kwargs).bfloat16()
        if func is aten.addmm_.default and args[0].dtype == torch.bfloat16:
            with self:
                return args[0].copy_(aten.addmm.default(*args, **kwargs))
        # In inference mode operators come as they are called: linear, matmul, attention.
        with self:
            parts = func.decompose(*args, **kwargs)
        return func(*args, **kwargs) if parts is NotImplemented else parts
