"""Compiles the kernels for an H100 at the sizes of real models, and prints what they became.

Run as a module with TRITON_INTERPRET=0. The functions that start kernels are called as they are;
only the driver, which asks for the GPU, and the launch after compiling are replaced.
"""

import json
import re
import sys
from collections import Counter
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from vlm2vec_service.engine.kernels import activations, low_rank, norms, rotary

INSTRUCTION = re.compile(r"\b((?:ld|st)\.global[.\w]*|cp\.async\.c[ag][.\w]*|w?g?mma\.[.\w]*)")


class Driver:
    """Stands in for CUDA's driver, with an H100."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def call_all() -> None:
    """Starts every kernel as the models do that are served most."""
    norms.add_rms_norm(empty(5, 1536), empty(5, 1536), empty(1536), 1e-6)
    norms.add_rms_norm(empty(5, 3072), None, empty(3072), 1e-6)
    norms.add_layer_norm(empty(5, 1280), empty(5, 1280), empty(1280), empty(1280), 1e-6)
    for columns, heads, dim in ((2048, 14, 128), (3840, 32, 80), (9216, 64, 96)):
        cos, sin = (empty(5, dim // 2, dtype=torch.float32) for _ in range(2))
        rotary.rotate(empty(5, columns), cos, sin, heads)
        rotary.rotate(empty(5, columns), cos, sin, heads, empty(heads, 2 * cos.shape[1]), 1e-6)
    activations.swiglu(empty(5, 17920))
    activations.quick_gelu(empty(5, 5120))
    table = empty(8, 5, dtype=torch.int64)
    for block in (16, 32, 64):
        for rows, count, splits in ((1, 1, 1), (7, 3, 6), (160, 10, 3), (1001, 16, 16)):
            tiles = empty(count, 3, dtype=torch.int32)
            mixed = low_rank.shrink(empty(rows, 1536), [], table, tiles, 48, splits, block)
            low_rank.expand(empty(rows, 2048), mixed, [], table, tiles, block)
            low_rank.swiglu_expand(empty(rows, 17920), mixed, [], table, tiles, block)


def main() -> None:
    """Prints a list of pairs as JSON: each compiled kernel's name and its instructions' counts."""
    kernels: dict[int, tuple[str, Counter[str]]] = {}
    run = JITFunction.run

    def only_compile(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        counts = Counter(INSTRUCTION.findall(kernel.asm["ptx"]))
        kernels[id(kernel)] = self.__name__, counts

    triton.runtime.driver.set_active(Driver())
    JITFunction.run = only_compile
    call_all()
    json.dump(list(kernels.values()), sys.stdout)


if __name__ == "__main__":
    main()
