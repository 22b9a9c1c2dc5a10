"""What a batch would cost a GPU, from its operations alone: no GPU, no weights.

    python -m benchmarks.roofline --size qwen2-vl-2b --workload text --adapters 8

The engine runs on the meta device, and every operation is charged (`charge`) the longest of a
launch, its arithmetic and its bytes, at the rates of an H100. That flatters: nothing is charged
for Python, for the bus from the host, or for products of a shape that a GPU does not like.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.charge import H100, Card, Charge, Cost
from benchmarks.models import SIZES, WORKLOADS, batch_of, shape_of
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.engine.adapter import Adapter
from vlm2vec_service.engine.engine import Engine
from vlm2vec_service.engine.low_rank import LowRank
from vlm2vec_service.engine.packing import Item, batches
from vlm2vec_service.preprocess.prepared import Prepared
from vlm2vec_service.settings import EngineSettings

META = torch.device("meta")
PATHS = ("merged", "low-rank", "mixed")
RANK = 16
"""The rank of every adapter on every layer: VLM2Vec-V2.0's."""
MERGED = 8
"""Adapters that have merged copies where nothing else is said."""


@dataclass(frozen=True)
class Prediction:
    """What ``inputs`` with ``tokens`` tokens cost ``card``, by stage, kind and operation."""

    card: Card
    inputs: int
    tokens: int
    costs: dict[tuple[str, str, str], Cost]

    @property
    def seconds(self) -> float:
        """Adds up the time of all operations."""
        return sum(cost.seconds for cost in self.costs.values())

    @property
    def launches(self) -> int:
        """Counts the operations that start a kernel."""
        return sum(cost.launches for cost in self.costs.values())

    @property
    def of_rate(self) -> float:
        """Computes the share of the card's rate of matrix products that the model's own reach."""
        flops = sum(cost.flops for (_, kind, _), cost in self.costs.items() if kind == "product")
        return flops / self.seconds / self.card.flops


def predict(
    size: str,
    inputs: Sequence[Prepared],
    adapters: int = 0,
    path: str = "",
    card: Card = H100,
    token_budget: int = 0,
) -> Prediction:
    """Runs ``inputs`` through the engine on the meta device and adds up what they cost ``card``.

    They take the ``adapters``, DoRA on every layer of the language model, in turn, or none if that
    is 0. ``path`` is one of `PATHS`: all of them have a merged copy, none has, or every second one.
    Empty is what the engine would do once they have traffic: up to `MERGED` have. A group of rows
    that is too small for its copy goes the other way, as ever. ``token_budget`` 0 is one batch.
    """
    engine = Engine(shape_of(size).to(torch.bfloat16), EngineSettings(vision_cache_bytes=0))
    held = [_adapter(engine, index) for index in range(adapters)]
    for index, adapter in enumerate(held):
        if _merged(path, adapters, index):
            engine.merged.add(adapter)
            engine.merged.merge(adapter.name)
    items = [
        Item(prepared, held[index % adapters] if adapters else None)
        for index, prepared in enumerate(inputs)
    ]
    charge = Charge(card)
    tokens = sum(map(len, inputs))
    vision = charge.stage("vision")(engine.backbone.encode)
    engine.backbone.encode = vision  # type: ignore[method-assign]
    with charge, charge.stage("language"):
        for indices in batches(items, token_budget or tokens):
            engine.launch(engine.pack([items[index] for index in indices]))
    return Prediction(card, len(inputs), tokens, charge.costs)


def _merged(path: str, adapters: int, index: int) -> bool:
    if not path:
        return adapters <= MERGED
    return path == "merged" or (path == "mixed" and index % 2 == 0)


def _adapter(engine: Engine, index: int) -> Adapter:
    """Makes the shapes of an adapter on every layer of the language model."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, device=META, dtype=torch.bfloat16)

    added = {}
    for product in engine.products:
        if product.name.startswith(engine.backbone.media_prefixes):
            continue
        rank, out = RANK * len(product.parts), product.out_features
        shift = None if product.bias is None else empty(out)
        a, b = empty(rank, product.in_features), empty(out, rank)
        added[product.name] = LowRank(a, b, empty(out), shift)
    pointers = np.zeros((len(engine.products), 5), np.int64)
    return Adapter(str(index), added, {}, {}, pointers, b"", EmbeddingConfig())


def main() -> None:
    """Prints the prediction for one batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="qwen2-vl-2b")
    parser.add_argument("--workload", choices=WORKLOADS, default="text")
    parser.add_argument("--adapters", type=int, default=0, help="DoRA adapters, in turn")
    parser.add_argument(
        "--path",
        choices=PATHS,
        default="",
        help=f"how adapters run; by default merged if there are up to {MERGED}, as the engine "
        "would once they have traffic, and low-rank if there are more",
    )
    parser.add_argument("--tokens", type=int, default=16_384, help="tokens of the batch, at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    inputs = batch_of(args.workload, args.size, args.tokens)
    found = predict(args.size, inputs, args.adapters, args.path)
    if args.json:
        print(json.dumps(summary(found)))
        return
    print(
        f"{args.size} {args.workload}, {args.adapters} adapters, {found.tokens} tokens: "
        f"{found.seconds * 1e3:.1f} ms, {found.inputs / found.seconds:.0f} inputs/s, "
        f"{found.of_rate:.2f} of the product rate, {found.launches} launches"
    )
    for line in details(found):
        print(f"  {line}")


def summary(found: Prediction) -> dict[str, float]:
    """Lists what is predicted; ``ms`` is that of all inputs together."""
    return {
        "ms": round(found.seconds * 1e3, 3),
        "of_rate": round(found.of_rate, 4),
        "launches": found.launches,
        "inputs": found.inputs,
        "tokens": found.tokens,
        "inputs_per_s": round(found.inputs / found.seconds, 1),
    }


def details(found: Prediction) -> list[str]:
    """Says what takes the time in each stage, the most expensive operations first."""
    lines = []
    for stage in ("vision", "language"):
        mine = [(key, cost) for key, cost in found.costs.items() if key[0] == stage]
        kinds: dict[str, float] = {}
        for (_, kind, _), cost in mine:
            kinds[kind] = kinds.get(kind, 0) + cost.seconds
        if not mine:
            continue
        lines.append(
            f"{stage}: " + ", ".join(f"{kind} {s * 1e3:.1f} ms" for kind, s in kinds.items())
        )
        for (_, _, name), cost in sorted(mine, key=lambda each: -each[1].seconds)[:8]:
            lines.append(
                f"  {name:28} {cost.launches:6} times {cost.seconds * 1e3:8.2f} ms "
                f"{cost.nbytes / 1e9:8.1f} GB"
            )
    return lines


if __name__ == "__main__":
    main()
