"""Tables of pandas, polars, pyarrow and ``datasets`` as inputs, and vectors as their columns."""

import io
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image

from tests.client.server import Service
from tests.client.vectors import DIMENSION, text, vector_of
from vlm2vec.v1 import embedding_pb2 as pb


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


ROWS = 150
COLUMNS: dict[str, list[Any]] = {
    "id": [f"row {index}" for index in range(ROWS)],
    "text": [None if index % 3 == 0 else f"text {index}" for index in range(ROWS)],
    "image": [png(index) if index % 3 < 2 else None for index in range(ROWS)],
}
MAKERS: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
    "record batch": lambda columns: pa.record_batch(columns),
    "datasets": datasets.Dataset.from_dict,
}


def message(index: int) -> pb.Input:
    """What is sent for a row of `COLUMNS`."""
    parts = []
    if COLUMNS["image"][index] is not None:
        parts.append(pb.Part(image=COLUMNS["image"][index]))
    if COLUMNS["text"][index] is not None:
        parts.append(pb.Part(text=COLUMNS["text"][index]))
    return pb.Input(parts=parts)


@pytest.mark.parametrize("kind", MAKERS)
def test_rows_of_a_table(client: Any, kind: str) -> None:
    table = MAKERS[kind](COLUMNS)
    expected = [vector_of(message(index)) for index in range(ROWS)]
    np.testing.assert_array_equal(client.embed(table), expected)
    streamed = dict(client.stream(table))
    assert list(streamed) == COLUMNS["id"]
    np.testing.assert_array_equal(list(streamed.values()), expected)
    ranking = client.rank("query", table, top_k=2)
    best = ranking.candidates[0]
    assert best.candidate["id"] == COLUMNS["id"][best.index]


@pytest.mark.parametrize("kind", MAKERS)
def test_other_columns_are_refused_by_name(client: Any, service: Service, kind: str) -> None:
    table = MAKERS[kind]({"text": ["a", "b"], "price": [1, 2]})
    with pytest.raises(TypeError, match="has the key price: a row has id, text, "):
        client.embed(table)
    assert not service.calls


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["a", "b"]),
        pl.Series(["a", "b"]),
        pa.chunked_array([["a"], ["b"]]),
        pa.array(["a", "b"]),
        datasets.Dataset.from_dict({"text": ["a", "b"]})["text"],
    ],
    ids=["pandas", "polars", "chunked array", "array", "datasets"],
)
def test_columns_of_texts(client: Any, column: Any) -> None:
    expected = [vector_of(text("a")), vector_of(text("b"))]
    np.testing.assert_array_equal(client.embed(column), expected)


def test_rows_of_pandas_by_themselves(client: Any) -> None:
    frame = pd.DataFrame(COLUMNS)[:3]
    expected = [vector_of(message(index)) for index in range(3)]
    np.testing.assert_array_equal(client.embed(frame.iloc[0]), expected[0])
    np.testing.assert_array_equal(client.embed([row for _, row in frame.iterrows()]), expected)
    assert client.embed(pd.Series([], dtype=str)).shape == (0, 0)
    assert client.embed(frame.set_index("id")["text"][1:]).shape == (2, DIMENSION)


def test_lists_of_pictures_as_parquet_has_them(client: Any, service: Service) -> None:
    pictures = [[png(1), png(2)], [png(3)]]
    for table in (
        pa.table({"images": pictures}).to_pandas(),
        pl.DataFrame({"images": pictures}),
        datasets.Dataset.from_dict({"image": [{"bytes": png(4), "path": None}]}).cast_column(
            "image", datasets.Image(decode=False)
        ),
        datasets.Dataset.from_dict({"image": [Image.new("RGB", (8, 8))]}),
    ):
        client.embed(table)
    sent = [list(call.inputs) for call, _ in service.calls]
    assert [len(message.parts) for message in sent[0]] == [2, 1]
    assert sent[0] == sent[1]
    assert sent[2][0].parts[0].image == png(4)
    assert Image.open(io.BytesIO(sent[3][0].parts[0].image)).size == (8, 8)


def test_audios_as_tables_have_them(client: Any, service: Service) -> None:
    samples = [{"array": [0.0, 0.5], "sampling_rate": 8000}]
    for table in (
        pa.table({"audios": [[b"A", b"B"]]}).to_pandas(),
        pl.DataFrame({"audio": [b"A"], "text": ["heard"]}),
        datasets.Dataset.from_dict({"audio": [{"bytes": b"A", "path": None}]}).cast_column(
            "audio", datasets.Audio(decode=False)
        ),
        pa.table({"audio": samples}),
    ):
        client.embed(table)
    lists, rows, files, numbers = (call.inputs[0].parts for call, _ in service.calls)
    assert [part.audio.file for part in lists] == [b"A", b"B"]
    assert list(rows) == [pb.Part(audio=pb.Audio(file=b"A")), pb.Part(text="heard")]
    assert files[0].audio.file == b"A"
    assert np.frombuffer(numbers[0].audio.samples.data, "<f4").tolist() == [0, 0.5]


def test_parts_as_tables_have_them(client: Any, service: Service) -> None:
    parts = [[{"text": "see ", "image": None}, {"text": None, "image": b"A"}], [{"text": "b"}]]
    for table in (
        pa.table({"parts": parts}),
        pa.table({"parts": parts}).to_pandas(),
        pl.DataFrame({"parts": parts}),
    ):
        client.embed(table)
    sent = [list(call.inputs) for call, _ in service.calls]
    both = pb.Input(parts=[pb.Part(text="see "), pb.Part(image=b"A")])
    assert sent == [[both, text("b")]] * 3


def test_vectors_become_columns(client: Any) -> None:
    vectors = client.embed(["a", "b"])
    column = pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1])
    assert column.type == pa.list_(pa.float32(), DIMENSION)
    np.testing.assert_array_equal(column.flatten().to_numpy(), vectors.ravel())
    frame = pd.DataFrame({"text": ["a", "b"]})
    frame["vector"] = list(vectors)
    np.testing.assert_array_equal(np.stack(frame["vector"]), vectors)
    polar = pl.DataFrame({"text": ["a", "b"]}).with_columns(pl.Series("vector", vectors))
    assert polar.schema["vector"] == pl.Array(pl.Float32, DIMENSION)
    np.testing.assert_array_equal(polar["vector"].to_numpy(), vectors)
