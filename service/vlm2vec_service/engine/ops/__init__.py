"""The steps between a model's matrix products, each in one pass over its tensors.

On a CPU they are plain torch, in the form that was measured to be fastest. On CUDA, and on the meta
device, which only counts, each is one custom operator ``torch.ops.vlm2vec.*``, whose kernel is in
``engine/kernels`` and is imported when it first runs. All tensors of a call have one floating-point
type unless said otherwise; a kernel calculates in float32 and rounds what it stores once. They are
for inference: on tensors that want a gradient they are plain torch too, whatever the device.
"""

from vlm2vec_service.engine.ops.activations import quick_gelu, swiglu
from vlm2vec_service.engine.ops.low_rank import (
    Addition,
    LowRankGroup,
    add,
    add_low_rank,
    block_rows,
    mix,
    swiglu_with,
    tiles,
)
from vlm2vec_service.engine.ops.norms import add_layer_norm, add_rms_norm
from vlm2vec_service.engine.ops.rotary import rotate

__all__ = [
    "Addition",
    "LowRankGroup",
    "add",
    "add_layer_norm",
    "add_low_rank",
    "add_rms_norm",
    "block_rows",
    "mix",
    "quick_gelu",
    "rotate",
    "swiglu",
    "swiglu_with",
    "tiles",
]
