"""Files of vectors: what is written comes back, and nothing half-written stays."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlm2vec_service.errors import StartError
from vlm2vec_service.offline.outputs import WRITERS, open_output

IDS = [
    "a",
    "7",
    "file",
    "a/b",
    "../up",
    "北京 🛕",
    "with space\nand line",
    '"quoted"',
    "x.npy",
    ".",
]
ADAPTERS = [None, "v2"] * 5

Vectors = npt.NDArray[np.float32]


def vectors(count: int) -> Vectors:
    return np.random.default_rng(0).standard_normal((count, 6)).astype(np.float32)


def read(path: Path) -> dict[str, tuple[str | None, Vectors]]:
    """Adapter and vector by id."""
    if path.suffix == ".npz":
        with np.load(path) as archive:
            assert sorted(archive) == ["adapters", "ids", "vectors"]
            assert archive["vectors"].shape[0] == len(archive["ids"])
            adapters = [name or None for name in archive["adapters"].tolist()]
            columns = (archive["ids"].tolist(), adapters, archive["vectors"])
        return {id: (a, vector) for id, a, vector in zip(*columns, strict=True)}
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        rows = pq.read_table(path).to_pylist()
    return {row["id"]: (row["adapter"], np.asarray(row["vector"], np.float32)) for row in rows}


@pytest.mark.parametrize("extension", WRITERS)
def test_ids_adapters_and_vectors_round_trip(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"out{extension}"
    expected = vectors(len(IDS))
    with open_output(path) as write:
        write(IDS[:4], ADAPTERS[:4], expected[:4])
        write(IDS[4:], ADAPTERS[4:], expected[4:])
    found = read(path)
    assert list(found) == IDS
    for id, adapter, vector in zip(IDS, ADAPTERS, expected, strict=True):
        np.testing.assert_array_equal(found[id][1], vector)
        assert found[id][1].dtype == np.float32
        assert found[id][0] == adapter
    assert list(tmp_path.iterdir()) == [path]


def test_parquet_columns_have_their_types_without_rows_too(tmp_path: Path) -> None:
    with open_output(tmp_path / "out.parquet"):
        pass
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.names == ["id", "adapter", "vector"]
    assert schema.field("vector").type == pa.list_(pa.float32())


@pytest.mark.parametrize("extension", WRITERS)
def test_empty_output_is_a_valid_file(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"out{extension}"
    with open_output(path):
        pass
    assert read(path) == {}


@pytest.mark.parametrize("extension", WRITERS)
def test_nothing_is_left_after_an_exception(tmp_path: Path, extension: str) -> None:
    def fail(path: Path) -> None:
        with open_output(path) as write:
            write(IDS, ADAPTERS, vectors(len(IDS)))
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail(tmp_path / f"out{extension}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("extension", WRITERS)
def test_failed_batch_leaves_nothing(tmp_path: Path, extension: str) -> None:
    def fail(path: Path) -> None:
        with open_output(path) as write:
            write(IDS, ADAPTERS, vectors(len(IDS) - 1))

    with pytest.raises(ValueError, match=r".+"):
        fail(tmp_path / f"out{extension}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("extension", WRITERS)
def test_former_file_stays_until_the_new_one_is_whole(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"out{extension}"
    path.write_text("former")
    with open_output(path) as write:
        write(IDS, ADAPTERS, vectors(len(IDS)))
        assert path.read_text() == "former"
    assert list(read(path)) == IDS


@pytest.mark.parametrize("name", ["out.csv", "out", ".npz", "out.npz.gz", "out.NPZ"])
def test_unknown_extension_is_refused_with_those_known(tmp_path: Path, name: str) -> None:
    with (
        pytest.raises(StartError, match=r"none of \.npz, \.jsonl, \.parquet"),
        open_output(tmp_path / name),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    with (
        pytest.raises(StartError, match=f"the folder {folder} does not exist"),
        open_output(folder / "out.npz"),
    ):
        pass
