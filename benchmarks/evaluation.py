"""What evaluating costs beside embedding: ``python -m benchmarks.evaluation``.

``ranking`` ranks 10,000 queries against 400,000 candidates of 1,536 dimensions, and takes the same
matrix product alone; of both it prints the seconds of the cores too, which other work on the
machine does not lengthen. ``suite`` scores all of MMEB-V2 at its real sizes with a stand-in for the
embedder. Both print the peak of the memory that they held.
"""

import os
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from vlm2vec.inputs import InputLike
from vlm2vec_evaluation import evaluate
from vlm2vec_evaluation.ranking import BLOCK, TILE, rank
from vlm2vec_evaluation.suite import DataSet, read_suite
from vlm2vec_evaluation.task import PoolTask, Query
from vlm2vec_evaluation.vector_file import open_vectors

Matrix = npt.NDArray[np.float32]
POOLS = {"classification": 200, "vqa": 1000, "retrieval": 1000, "grounding": 1000,
         "video_cls": 300, "video_qa": 5, "video_mret": 10}  # fmt: skip
"""Candidates of a query, by meta-task; of the others all are in one pool."""
SIZES = {
    "Breakfast": 433, "MVBench": 4000, "Video-MME": 2700, "NExTQA": 8564, "EgoSchema": 500,
    "DiDeMo": 1004, "MSVD": 670, "VATEX": 4478, "YouCook2": 3179, "QVHighlight": 1083,
    "Charades-STA": 727, "MomentSeeker": 1602, "ViDoRe_tatdqa": 1646, "ViDoSeek-page": 1142,
    "ViDoSeek-doc": 1142, "MMLongBench-page": 838, "MMLongBench-doc": 838,
}  # fmt: skip
"""Queries of the data sets that have not 1,000."""
PAGES = 6000
"""Pages of a data set of documents; the largest have about so many."""


class OnDisk:
    """A pool of random unit vectors in a file, of which only what is asked for is in memory."""

    def __init__(self, path: Path, count: int, dim: int) -> None:
        self._count, self._dim = count, dim
        random = np.random.default_rng(0)
        with path.open("wb") as file:
            for start in range(0, count, BLOCK):
                block = random.standard_normal((min(BLOCK, count - start), dim), np.float32)
                file.write((block / np.linalg.norm(block, axis=1)[:, None]).tobytes())
        self._file = os.open(path, os.O_RDONLY)

    def __len__(self) -> int:
        return self._count

    def take(self, indices: npt.NDArray[np.int64]) -> Matrix:
        first, count, row = int(indices[0]), len(indices), 4 * self._dim
        if count == indices[-1] - first + 1:
            data = os.pread(self._file, count * row, first * row)
        else:
            data = b"".join(os.pread(self._file, row, int(index) * row) for index in indices)
        return np.frombuffer(data, np.float32).reshape(count, self._dim)


@click.group()
def main() -> None:
    """What evaluating costs beside embedding."""


@main.command()
@click.option("--queries", default=10_000, show_default=True)
@click.option("--candidates", default=400_000, show_default=True)
@click.option("--dim", default=1536, show_default=True)
def ranking(queries: int, candidates: int, dim: int) -> None:
    """Rank beside the bare matrix product."""
    random = np.random.default_rng(1)
    asked = random.standard_normal((queries, dim), np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    right = [random.integers(0, candidates, 1) for _ in range(queries)]
    with tempfile.TemporaryDirectory() as folder:
        pool = OnDisk(Path(folder) / "pool", candidates, dim)
        began = now()
        for start in range(0, candidates, BLOCK):
            vectors = pool.take(np.arange(start, min(start + BLOCK, candidates)))
            for tile in range(0, queries, TILE):
                asked[tile : tile + TILE] @ vectors.T
        product = now() - began
        began = now()
        rank(asked, pool, right)
        ours = now() - began
    for name, alone, whole in zip(("", " of cores"), product, ours, strict=True):
        click.echo(f"product {alone:.1f} s{name}, ranking {whole:.1f} s: {whole / alone:.2f} times")
    click.echo(f"peak {peak():.2f} GB")


def now() -> npt.NDArray[np.float64]:
    """The seconds of the clock, and those that this process had of the cores."""
    return np.array([time.perf_counter(), time.process_time()])


@main.command()
@click.option("--dim", default=1536, show_default=True)
def suite(dim: int) -> None:
    """Score MMEB-V2 at its real sizes, with vectors drawn from the inputs' keys."""
    whole = read_suite("mmeb_v2", Path())
    began = time.perf_counter()
    embedded = 0

    def embed(items: Iterable[tuple[bytes, InputLike]]) -> Iterator[tuple[bytes, Matrix]]:
        nonlocal embedded
        for key, _ in items:
            embedded += 1
            random = np.random.default_rng(int.from_bytes(key[:8], "little"))
            yield key, random.standard_normal(dim, np.float32)

    with (
        tempfile.TemporaryDirectory() as folder,
        open_vectors(Path(folder), "stand-in") as vectors,
    ):
        found = evaluate(embed, map(_task, whole.data_sets), vectors=vectors)
    seconds = time.perf_counter() - began
    queries = sum(row.queries for row in found.data_sets.values())
    click.echo(f"{len(found.data_sets)} data sets, {queries} queries, {embedded} inputs")
    click.echo(f"{seconds:.0f} s, peak {peak():.2f} GB")


def _task(data_set: DataSet) -> PoolTask:
    """Makes a data set of texts, of the real one's size."""
    name, own = data_set.name, POOLS.get(data_set.meta_task)
    queries = SIZES.get(name, 1000)
    pool = PAGES if data_set.modality == "visdoc" else max(queries, own or 0)

    def among(number: int) -> list[str] | None:
        if own is None or data_set.layout == "video_classes":
            return None
        return [str((number + step) % pool) for step in range(own)]

    return PoolTask(
        name, data_set.meta_task,
        lambda: (
            Query(f"{name} query {number}", {str(number % pool): 1.0}, among(number))
            for number in range(queries)
        ),
        lambda: ((str(number), f"{name} candidate {number}") for number in range(pool)),
        metric=data_set.metric,
    )  # fmt: skip


def peak() -> float:
    """The most gigabytes that this process held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
