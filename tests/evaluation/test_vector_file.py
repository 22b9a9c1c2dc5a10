"""The file of vectors: what a kill, a damaged disk or a second process does to it."""

from pathlib import Path

import numpy as np
import pytest

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.vector_file import HEADER, open_vectors

DIM = 3
RECORD = 32 + 4 + 4 * DIM
KEYS = [bytes([index]) * 32 for index in range(4)]
VECTORS = np.arange(4 * DIM, dtype=np.float32).reshape(4, DIM)


def fill(folder: Path, count: int = 3) -> Path:
    with open_vectors(folder, "space") as vectors:
        for key, vector in zip(KEYS[:count], VECTORS[:count], strict=True):
            vectors[key] = vector
    return folder / "space.vectors"


def read(folder: Path) -> dict[bytes, list[float]]:
    with open_vectors(folder, "space") as vectors:
        return {key: vectors[key].tolist() for key in KEYS if key in vectors}


def expected(*indices: int) -> dict[bytes, list[float]]:
    return {KEYS[index]: VECTORS[index].tolist() for index in indices}


def test_what_was_written_is_read_again_and_added_to(tmp_path: Path) -> None:
    fill(tmp_path / "new", 2)
    assert read(tmp_path / "new") == expected(0, 1)
    with open_vectors(tmp_path / "new", "space") as vectors:
        vectors[KEYS[3]] = VECTORS[3]
        assert vectors[KEYS[3]].tolist() == VECTORS[3].tolist()
        assert vectors[KEYS[0]].tolist() == VECTORS[0].tolist()
    assert read(tmp_path / "new") == expected(0, 1, 3)
    with open_vectors(tmp_path / "new", "another") as vectors:
        assert len(vectors) == 0


def test_a_write_torn_at_any_byte_costs_that_vector_alone(tmp_path: Path) -> None:
    whole = fill(tmp_path).read_bytes()
    assert len(whole) == HEADER.size + 3 * RECORD
    for size in range(len(whole)):
        (tmp_path / "space.vectors").write_bytes(whole[:size])
        kept = max(0, size - HEADER.size) // RECORD
        assert read(tmp_path) == expected(*range(kept))
        with open_vectors(tmp_path, "space") as vectors:
            vectors[KEYS[3]] = VECTORS[3]
        assert read(tmp_path) == expected(*range(kept), 3)


def test_a_damaged_vector_is_forgotten(tmp_path: Path) -> None:
    path = fill(tmp_path)
    data = bytearray(path.read_bytes())
    data[HEADER.size + RECORD + 40] ^= 1
    path.write_bytes(data)
    assert read(tmp_path) == expected(0, 2)
    with open_vectors(tmp_path, "space") as vectors:
        vectors[KEYS[1]] = VECTORS[1]
    assert read(tmp_path) == expected(0, 1, 2)


def test_refusals(tmp_path: Path) -> None:
    fill(tmp_path)
    with open_vectors(tmp_path, "space") as vectors:
        with pytest.raises(EvaluationError, match="has vectors of 3 dimensions, not 4"):
            vectors[KEYS[3]] = np.ones(4, np.float32)
        with (
            pytest.raises(EvaluationError, match="another evaluation uses it"),
            open_vectors(tmp_path, "space"),
        ):
            pass
    (tmp_path / "other.vectors").write_text("something that somebody else wrote")
    with (
        pytest.raises(EvaluationError, match="no file of vectors; delete it"),
        open_vectors(tmp_path, "other"),
    ):
        pass
    (tmp_path / "file").touch()
    with (
        pytest.raises(EvaluationError, match="give another --cache"),
        open_vectors(tmp_path / "file", "space"),
    ):
        pass
