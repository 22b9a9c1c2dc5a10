"""Our engine beside plain ``transformers`` + PEFT: same weights, same inputs, one process.

    python -m benchmarks.engine                      # size small, on this machine
    python -m benchmarks.engine --size qwen2-vl-2b --device cuda

Both sides get their best batch size, found in the same run, and take turns. ``transformers`` runs
without its output layer, with SDPA attention, the adapter merged into the weights, inputs padded
in the order in which they come (`padded`), or sorted by length first as an offline job could
(`padded, sorted`). Ours rescales and cuts the pixels as well; theirs gets them ready.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.baseline import Padded
from benchmarks.flops import batch_flops, matmul_rate
from benchmarks.models import SIZES, random_backbone, workload, write_dora
from vlm2vec_service.engine.engine import DTYPES, Engine
from vlm2vec_service.engine.packing import Item, batches
from vlm2vec_service.preprocess.prepared import Prepared
from vlm2vec_service.settings import EngineSettings

ADAPTERS = 8
TOKEN_BUDGETS = (2048, 4096, 8192, 16384)
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--inputs", type=int, default=64, help="inputs per workload")
    parser.add_argument("--rank", type=int, default=8, help="rank of the DoRA adapters")
    parser.add_argument(
        "--rounds", type=int, default=7, help="turns of each variant; the fastest counts"
    )
    parser.add_argument("--workloads", nargs="+", default=["text", "image", "mixed"])
    parser.add_argument("--no-baseline", action="store_true", help="ours only")
    args = parser.parse_args()

    device, dtype = torch.device(args.device), DTYPES[args.dtype]
    rate = matmul_rate(device, dtype)
    print(f"{args.size} {args.dtype} on {device}, torch {torch.__version__}, DoRA rank {args.rank}")
    print(f"matrix products in this run: {rate / 1e9:.0f} GFLOP/s\n")
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / str(i) for i in range(ADAPTERS)]
        backbone = random_backbone(args.size, device, dtype)
        for seed, folder in enumerate(folders):
            write_dora(folder, backbone, args.rank, seed)
        baseline = None
        if args.size != "phi-3.5-v" and not args.no_baseline:
            baseline = Padded(backbone, SIZES[args.size], folders[0])
        # Nothing is merged on its own: the measurements say which adapters are.
        settings = EngineSettings(device=args.device, vision_cache_bytes=0, merged_bytes=0)
        engine = Engine(backbone, settings)
        for index, folder in enumerate(folders):
            engine.load_adapter(str(index), folder)
            engine.load_adapter(f"merged {index}", folder)
            engine.merged.merge(f"merged {index}")
        for name in args.workloads:
            inputs = workload(name, args.size, args.inputs)
            run_workload(name, inputs, engine, baseline, rate, args.rounds)
        load_while_running(engine, workload("mixed", args.size, args.inputs), folders[0])


def run_workload(
    name: str,
    inputs: Sequence[Prepared],
    engine: Engine,
    baseline: Padded | None,
    rate: float,
    rounds: int,
) -> None:
    """Prints the table of one workload."""
    tokens = sum(map(len, inputs))
    flops = batch_flops(engine.backbone, inputs)

    def ours(adapters: Sequence[str | None]) -> Callable[[int], object]:
        pairs = [(item, adapters[i % len(adapters)]) for i, item in enumerate(inputs)]

        def run(budget: int) -> None:
            engine.token_budget = budget
            engine.embed(pairs)

        return run

    low_rank = [str(index) for index in range(ADAPTERS)]
    merged = [f"merged {name}" for name in low_rank]
    variants: dict[str, tuple[Callable[[int], object], Sequence[int]]] = {
        "no adapter": (ours([None]), TOKEN_BUDGETS),
        "one DoRA, merged": (ours(merged[:1]), TOKEN_BUDGETS),
        "8 DoRA mixed, merged": (ours(merged), TOKEN_BUDGETS),
        "one DoRA, low-rank": (ours(low_rank[:1]), TOKEN_BUDGETS),
        "8 DoRA mixed, low-rank": (ours(low_rank), TOKEN_BUDGETS),
    }
    if baseline is not None:
        variants["transformers + PEFT, padded"] = (
            lambda size: baseline.embed(inputs, size), BATCH_SIZES,
        )  # fmt: skip
        variants["transformers + PEFT, padded, sorted"] = (
            lambda size: baseline.embed(sorted(inputs, key=len), size), BATCH_SIZES,
        )  # fmt: skip
    # One token budget for all of ours: adapters do not change which is best.
    budget = fastest(variants["no adapter"][0], TOKEN_BUDGETS)
    best = {
        label: budget if sizes is TOKEN_BUDGETS else fastest(run, sizes)
        for label, (run, sizes) in variants.items()
    }
    seconds: dict[str, list[float]] = {label: [] for label in variants}
    for _ in range(rounds):
        for label, (run, _) in variants.items():
            seconds[label].append(timed(run, best[label]))
    # The least: what else the machine does can only add.
    least = {label: min(times) for label, times in seconds.items()}

    print(f"{name}: {len(inputs)} inputs, {tokens} tokens")
    print(f"  {'':36} {'batch':>6} {'inputs/s':>9} {'tokens/s':>9} {'of rate':>8} {'ratio':>6}")
    for label, elapsed in least.items():
        print(
            f"  {label:36} {best[label]:6d} {len(inputs) / elapsed:9.1f} {tokens / elapsed:9.0f} "
            f"{flops / elapsed / rate:8.2f} {least['no adapter'] / elapsed:6.3f}"
        )
    print("  batch: token budget for ours, inputs for theirs; ratio: to ours without adapter\n")


def timed(run: Callable[[int], object], size: int) -> float:
    """Seconds of ``run(size)``, the device waited for (results come back to the host)."""
    start = time.perf_counter()
    run(size)
    return time.perf_counter() - start


def fastest(run: Callable[[int], object], sizes: Sequence[int]) -> int:
    """The size that takes least; each is tried once to warm up and twice in earnest."""
    times = {}
    for size in sizes:
        try:
            timed(run, size)
            times[size] = min(timed(run, size) for _ in range(2))
        except torch.OutOfMemoryError:
            break
    return min(times, key=lambda size: times[size])


def load_while_running(engine: Engine, inputs: Sequence[Prepared], folder: Path) -> None:
    """How much the slowest batch suffers from adapters that are loaded all the time."""
    items = [Item(item, engine.adapter("0")) for item in inputs]

    def batch_times() -> list[float]:
        times = []
        for indices in batches(items, 2048):
            start = time.perf_counter()
            engine.run([items[index] for index in indices])
            times.append(time.perf_counter() - start)
        return times

    quiet = batch_times()
    stop, loads = threading.Event(), []

    def load() -> None:
        while not stop.is_set():
            start = time.perf_counter()
            engine.load_adapter("loaded", folder)
            loads.append(time.perf_counter() - start)

    thread = threading.Thread(target=load)
    thread.start()
    busy = batch_times()
    stop.set()
    thread.join()
    print(f"loading one adapter after the other while batches run ({len(loads)} loads, median ")
    print(f"  {statistics.median(loads):.3f} s): the slowest batch takes {max(busy):.3f} s, ")
    print(f"  without loading {max(quiet):.3f} s: {max(busy) / max(quiet):.2f} times")


if __name__ == "__main__":
    main()
