"""How an operation becomes a custom operator of torch."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LIBRARY = torch.library.Library("vlm2vec", "DEF")
"""The operators ``torch.ops.vlm2vec.*``."""


def define(schema: str, module: str, fake: Callable[..., Any]) -> Callable[..., Any]:
    """Defines the operator of ``schema`` and returns it.

    On CUDA it calls the kernel of its name in ``module``, see `starter`. ``fake`` makes the
    results, without their values, on the meta device.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, starter(name, module), "CUDA")
    torch.library.register_fake(f"vlm2vec::{name}", fake, lib=LIBRARY)
    operator: Callable[..., Any] = getattr(torch.ops.vlm2vec, name).default
    return operator


def starter(name: str, module: str) -> Callable[..., Any]:
    """Returns a function that calls the function ``name`` of ``module`` in ``engine/kernels``.

    The first call imports the module: it needs Triton, which a torch for the CPU has not.
    """
    kernel: Callable[..., Any] | None = None

    def start(x: Tensor, *arguments: Any) -> Any:
        nonlocal kernel
        if kernel is None:
            kernels = importlib.import_module(f"vlm2vec_service.engine.kernels.{module}")
            kernel = getattr(kernels, name)
        with torch.cuda.device(x.get_device()):  # Triton starts kernels on the thread's own GPU.
            return kernel(x, *arguments)

    return start


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Says whether one of ``tensors`` is to get a gradient through what is done with it."""
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )


def wants_operator(*tensors: Tensor | None) -> bool:
    """Says whether a call with ``tensors``, the first of which is not None, goes to an operator."""
    first = tensors[0]
    assert first is not None
    return (first.is_cuda or first.is_meta) and not wants_gradient(*tensors)
