"""What a recorded batch is given: one array of numbers, whatever the batch."""

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from tests.conftest import adapter_folder
from tests.unit.recorded import Tape, graphs_on_a_cpu
from vlm2vec_service.engine import Engine, graphs, ops
from vlm2vec_service.engine.graphs import PAUSE, DecoderGraphs, Graph, Numbers, size_of
from vlm2vec_service.engine.packing import Item, Merged, PackedBatch, pack
from vlm2vec_service.preprocess.prepared import Prepared
from vlm2vec_service.settings import EngineSettings

LONGEST = 4096


@pytest.fixture(scope="module")
def engine(checkpoints: Path) -> Engine:
    engine = Engine.load(
        checkpoints / "qwen2_vl", EngineSettings(dtype="float32", merged_bytes=10**9)
    )
    for name in ("lora", "dora"):
        engine.load_adapter(name, adapter_folder("qwen2_vl", name))
    return engine


@pytest.fixture
def recording(engine: Engine) -> Iterator[Engine]:
    """The engine, with graphs on a CPU."""
    with graphs_on_a_cpu():
        engine.graphs = DecoderGraphs(engine.backbone, engine.decoder)
        yield engine
        engine.graphs = None


def text(length: int) -> Prepared:
    ids = np.arange(8, 8 + length, dtype=np.int32)
    return Prepared(ids, np.broadcast_to(np.arange(length, dtype=np.int32), (3, length)))


def packed(engine: Engine, *inputs: tuple[int, str | None]) -> PackedBatch:
    return engine.pack(
        [Item(text(length), engine.adapter(name) if name else None) for length, name in inputs]
    )


def test_batches_of_about_a_size_share_a_graph(engine: Engine) -> None:
    size = size_of(packed(engine, (20, None), (21, None), (9, None)), LONGEST)
    assert size is not None
    assert (size.tokens, size.inputs, size.longest, size.adapters, size.rank) == (64, 4, 64, 0, 0)
    assert size.unit
    assert not size.media
    assert size_of(packed(engine, (30, None), (5, None), (1, None)), LONGEST) == size
    assert size_of(packed(engine, (30, None), (35, None)), LONGEST) != size
    assert size_of(packed(engine, (4097, None)), LONGEST) is None
    assert size_of(packed(engine, (30, None)), 29) is None


def test_numbers_are_those_of_the_batch_and_tiles_cover_all_rows(engine: Engine) -> None:
    batch = packed(engine, (20, "dora"), (3, None), (50, "lora"), (9, "dora"))
    size = size_of(batch, LONGEST)
    assert size is not None
    table = batch.token_stage.host_table
    numbers = Numbers(size, len(table))
    array = numbers.of(batch)
    assert array.shape == (numbers.count,)
    ids, positions, last, boundaries, token_tiles, input_tiles, places = (
        part.numpy() for part in numbers.split(torch.from_numpy(array))
    )
    assert ids[:82].tolist() == batch.host_ids.tolist()
    assert not ids[82:].any()
    np.testing.assert_array_equal(positions[:, :82], batch.host_positions)
    assert last.tolist() == batch.host_pooled.tolist()
    assert boundaries.tolist() == [0, *(batch.host_pooled + 1)]
    np.testing.assert_array_equal(places[:, : table.shape[1]], table)
    for tiles, rows, stage in (
        (token_tiles, size.tokens, batch.token_stage),
        (input_tiles, size.inputs, batch.pooled_stage),
    ):
        owner = np.full(rows, -1)
        for slot, start, stop in tiles:
            assert stop - start <= ops.block_rows(rows)
            assert (owner[start:stop] == -1).all()
            owner[start:stop] = slot
        expected = np.full(rows, len(stage.low_rank))
        for slot, group in enumerate(stage.low_rank):
            expected[group.start : group.stop] = slot
        assert owner.tolist() == expected.tolist()


def test_a_merged_copy_has_graphs_of_its_own(engine: Engine) -> None:
    engine.merged.merge("dora")
    size = size_of(packed(engine, (20, "dora")), LONGEST)
    assert size is not None
    assert size.merged == id(engine.merged.choose(engine.adapter("dora"), 20, True))
    assert size.rank == 0
    # Rows of a copy and of the base are several products, which no graph has.
    both = packed(engine, (20, None), *[(60, "dora")] * 3)
    assert both.token_stage.runs
    assert size_of(both, LONGEST) is None
    engine.merged.drop("dora")


def recordings(engine: Engine, batches: list[PackedBatch]) -> int:
    """Runs ``batches`` and counts the graphs that are recorded for them."""
    with mock.patch.object(graphs, "Graph", wraps=Graph) as recorded:
        for batch in batches:
            engine.launch(batch)
    return recorded.call_count


def test_sizes_that_take_each_others_place_are_not_recorded_each_time(
    recording: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "MOST", 2)
    turns = [packed(recording, (length, None)) for length in (10, 20, 40)]
    assert recordings(recording, turns * 2) == 3
    # The first lost its place to the last; each of them waits before it takes another's.
    assert recordings(recording, turns * PAUSE) <= 3
    # One that is busy gets there.
    assert recordings(recording, turns[:1] * 2 * PAUSE) <= 1
    assert recordings(recording, turns[:1] * PAUSE) == 0


def test_a_batch_whose_graph_cannot_be_recorded_runs_without(recording: Engine) -> None:
    batch = packed(recording, (20, "dora"), (30, None))
    expected = recording.launch(batch).vectors()
    full = mock.patch.object(Tape, "__enter__", side_effect=torch.OutOfMemoryError("no memory"))
    streams = mock.patch.object(torch.cuda, "set_stream")
    with full as attempts, streams as back:
        for _ in range(PAUSE):
            np.testing.assert_array_equal(recording.launch(batch).vectors(), expected)
    assert attempts.call_count == 1
    back.assert_called_once_with(torch.cuda.current_stream(batch.segments.device))
    assert recordings(recording, [batch] * 4) == 1
    np.testing.assert_allclose(recording.launch(batch).vectors(), expected, rtol=0, atol=1e-5)


def test_a_copy_that_is_complete_only_then_changes_no_adapters_place(engine: Engine) -> None:
    answers: Iterator[Merged | None] = iter(
        [None, {}]
    )  # for the tokens, and a moment later for the inputs
    items = [Item(text(length), engine.adapter("dora")) for length in (5, 6)]
    batch = pack(items, engine.device, lambda adapter, rows, alone: next(answers))
    assert len(batch.token_stage.low_rank) == len(batch.pooled_stage.low_rank) == 1
