"""A packed batch to vectors: backbones, adapter bank, attention, pooling.

`Engine` is the way in. A batch is one flat sequence of tokens without padding; ``packing`` lays
it out with the rows of one adapter together. ``transformers`` modules do the arithmetic, except
that every linear layer is an `AdaptedLinear`, which adds each row's own adapter to the base
product. Nothing here imports grpc.
"""

from vlm2vec_service.engine.engine import Engine

__all__ = ["Engine"]
