"""Batches of prepared inputs to vectors, whatever the model family.

`Engine` is the way in. It loads a checkpoint (``checkpoint``) and adapters (``adapter``): their
settings (``adapter_config``) mean a placement on the layers (``placement``, ``patterns``), which
their tensors (``adapter_file``) have to fit (``fit``). A batch is one flat sequence of tokens
without padding, in which the inputs of one adapter are neighbours (``packing``). Its media are
encoded first (``media``, ``feature_cache``), then the language model runs and each input's last
token is pooled.

The families' modules come from ``transformers`` (``backbone``), and training runs them as they are.
The engine takes their weights and runs the layers itself, in few, large operations (``decoder``,
``tower``): linear layers that read the same input are one matrix product, in which each row gets
its own adapter (``linear``, ``low_rank``, ``join``, ``stage``), busy adapters by weights of their
own (``merged``, ``merge_plan``); attention keeps to the boundaries of the inputs (``attention``);
what lies between is one operation each (``ops``), on a GPU one kernel (``kernels``). There, small
batches are replayed (``graphs``). Nothing here imports grpc.
"""

from vlm2vec_service.allocator import keeping_for_ever

with keeping_for_ever():
    from vlm2vec_service.engine.engine import Engine

__all__ = ["Engine"]
