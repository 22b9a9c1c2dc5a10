"""Writes files of vectors, whose extension is the format: .npz, .jsonl or .parquet."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlm2vec.files import whole
from vlm2vec.results import Embedding

FORMATS = (".npz", ".jsonl", ".parquet")


def check(path: Path) -> None:
    """Refuses a file that `write` could not write, before anything is embedded.

    Raises ValueError for another extension or a folder that is not there, and ImportError for
    .parquet without pyarrow.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"--output {path}: the extension is none of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise ValueError(f"--output {path}: the folder {path.parent} does not exist")
    if path.suffix == ".parquet":
        import vlm2vec.reembed.arrow  # noqa: F401


def write(path: Path, ids: Sequence[str], embeddings: Sequence[Embedding]) -> None:
    """Writes ``ids`` and as many embeddings, at least one, all of one space.

    The file appears whole or not at all. Raises OSError where it cannot be written.
    """
    with whole(path) as partial:
        match path.suffix:
            case ".npz":
                _write_npz(partial, ids, embeddings)
            case ".jsonl":
                _write_lines(partial, ids, embeddings)
            case ".parquet":
                _write_parquet(partial, ids, embeddings)


def _write_npz(path: Path, ids: Sequence[str], embeddings: Sequence[Embedding]) -> None:
    # Given a path, savez would append .npz to the name of a partial file.
    with path.open("wb") as file:
        np.savez(
            file,
            ids=np.array(ids),
            vectors=np.stack([embedding.vector for embedding in embeddings]),
            truncated=np.array([embedding.truncated for embedding in embeddings]),
            model=np.array(embeddings[0].model),
            space=np.array(embeddings[0].space),
        )


def _write_lines(path: Path, ids: Sequence[str], embeddings: Sequence[Embedding]) -> None:
    with path.open("w") as file:
        for id, embedding in zip(ids, embeddings, strict=True):
            record = {
                "id": id,
                "vector": embedding.vector.tolist(),
                "truncated": embedding.truncated,
                "model": embedding.model,
                "space": embedding.space,
            }
            file.write(json.dumps(record) + "\n")


def _write_parquet(path: Path, ids: Sequence[str], embeddings: Sequence[Embedding]) -> None:
    from vlm2vec.reembed.arrow import pa, pq

    first = embeddings[0]
    flat = pa.array(np.concatenate([embedding.vector for embedding in embeddings]))
    columns = {
        "id": pa.array(ids),
        "vector": pa.FixedSizeListArray.from_arrays(flat, len(first.vector)),
        "truncated": pa.array([embedding.truncated for embedding in embeddings]),
    }
    metadata = {"vlm2vec.model": first.model, "vlm2vec.space": first.space}
    pq.write_table(pa.table(columns, metadata=metadata), path)
