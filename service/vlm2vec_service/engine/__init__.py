"""Batches of prepared inputs to vectors, whatever the model family.

`Engine` is the way in. It loads a checkpoint (``checkpoint``) and adapters (``adapter``): their
settings (``adapter_config``) mean a placement on the layers (``placement``, ``patterns``), which
their tensors (``adapter_file``) have to fit (``fit``). A batch is one flat sequence of tokens
without padding, in which the inputs of one adapter are neighbours (``packing``). Its images are
encoded first (``vision``, ``vision_cache``), then the language model runs and each input's last
token is pooled (``backbone``). What ``transformers`` gives the families' modules is replaced in
two places: the attention keeps to the boundaries of the inputs (``attention``), and every linear
layer adds each row's own adapter to the base product (``linear``). Nothing here imports grpc.
"""

from vlm2vec_service.engine.engine import Engine

__all__ = ["Engine"]
