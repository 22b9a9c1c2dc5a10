"""MMEB-train's files, and what is said of those that are not."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.parity.audio_specs import wav
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.preprocess import Request
from vlm2vec_training.data import Example, Side, Subset, read_data
from vlm2vec_training.errors import DataError
from vlm2vec_training.loader import BatchLoader
from vlm2vec_training.sampling import Row, batches

MMEB = {
    "qry": "<|image_1|>\nWhat is it?\n",
    "qry_image_path": "a.png",
    "pos_text": "a square",
    "pos_image_path": "",
    "neg_text": "a disc",
    "neg_image_path": "",
}


def subset(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Subset:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / name).write_text(text + "\n")
    (folder / "train.yaml").write_text(f"one:\n  path: {name}\n")
    (found,) = read_data(folder / "train.yaml")
    return found


SOUND = {
    "rate": 16_000,
    "samples": 1600,
    "format": "int16",
    "channels": [{"kind": "tones", "tones": [[220, 0.4]]}],
}
EXPECTED = Example(Side(MMEB["qry"], "a.png"), Side("a square"), (Side("a disc"),))


def test_mmeb_train_rows_in_json_lines(tmp_path: Path) -> None:
    assert subset(tmp_path, MMEB)[0] == EXPECTED


def test_mmeb_train_rows_in_parquet_under_upstreams_keys(tmp_path: Path) -> None:
    folder = tmp_path / "MMEB-train" / "OK-VQA"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([MMEB] * 3), folder / "original-00000.parquet")
    pq.write_table(pa.Table.from_pylist([MMEB]), folder / "other-00000.parquet")
    (tmp_path / "train.yaml").write_text(
        "OK-VQA:\n  dataset_parser: mmeb\n  dataset_name: MMEB-train\n  subset_name: OK-VQA\n"
        "  dataset_split: original\n  image_dir: MMEB-train\n  num_sample_per_subset: 2\n"
        "  weight: 2\n"
    )
    (found,) = read_data(tmp_path / "train.yaml")
    assert (len(found), found.weight) == (2, 2)
    assert found[1] == EXPECTED
    assert found.images == tmp_path / "MMEB-train"


def test_negatives_may_be_lists(tmp_path: Path) -> None:
    row = {**MMEB, "neg_text": ["x", "<|image_1|>"], "neg_image_path": [None, "b.png"]}
    assert subset(tmp_path, row)[0].negatives == (Side("x"), Side("<|image_1|>", "b.png"))


def test_audios_stand_beside_texts_and_images(tmp_path: Path) -> None:
    row = {
        "qry_audio_path": "a.wav", "qry_inst": "What is heard?", "pos_text": "rain",
        "pos_image_path": "b.png", "neg_text": ["x", None], "neg_audio_path": [None, "c.wav"],
    }  # fmt: skip
    query = Side("", audio="a.wav", instruction="What is heard?")
    negatives = (Side("x"), Side("", audio="c.wav"))
    expected = Example(query, Side("rain", "b.png"), negatives)
    assert subset(tmp_path, row)[0] == expected
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    (tmp_path / "parquet.yaml").write_text("one:\n  path: rows.parquet\n")
    (found,) = read_data(tmp_path / "parquet.yaml")
    assert found[0] == expected
    assert query.content != Side("", image="a.wav", instruction="What is heard?").content


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"rows.jsonl: line 2: Expecting"),
        ("[1]", r"rows.jsonl: line 2: expected a JSON object"),
        (
            {**MMEB, "qry": None, "qry_image_path": ""},
            "line 2: qry_text, qry_image_path, qry_audio_path are all empty",
        ),
        ({**MMEB, "pos_text": ""}, "line 2: pos_text, pos_image_path, pos_audio_path are all"),
        ({**MMEB, "pos_text": 3}, "line 2: pos_text: expected a string, got int"),
        ({**MMEB, "neg_text": [3]}, "line 2: neg_text: expected a string or a list"),
        (
            {**MMEB, "neg_text": ["x", "y"], "neg_image_path": ["z.png"]},
            "neg_text has 2 and neg_image_path has 1: as many",
        ),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path: Path, row: Any, message: str) -> None:
    found = subset(tmp_path, MMEB, row)
    with pytest.raises(DataError, match=message):
        found[1]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("", "expected a mapping of subsets"),
        ("one: 3", "one: expected a mapping with a path"),
        ("one:\n  weight: 1", "one: path is missing"),
        ("one:\n  path: rows.jsonl\n  wieght: 1", "one: unknown key wieght; known are path"),
        ("one:\n  path: rows.jsonl\n  weight: 0", "one: weight: expected a positive number"),
        ("one:\n  path: nowhere", "subset one: .*nowhere: no .parquet or .jsonl"),
        ("one:\n  dataset_parser: vidore", "dataset_parser: 'vidore' is not known"),
        ("{", "train.yaml"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, yaml: str, message: str) -> None:
    subset(tmp_path, MMEB)
    (tmp_path / "train.yaml").write_text(yaml)
    with pytest.raises(DataError, match=message):
        read_data(tmp_path / "train.yaml")


def loader(base: Path, found: Subset) -> BatchLoader:
    return BatchLoader([found], load_preprocessor(base), EmbeddingConfig(backbone="qwen2_vl"), 1)


def test_an_unreadable_image_is_named_with_its_line(checkpoints: Path, tmp_path: Path) -> None:
    reader = loader(checkpoints / "qwen2_vl", subset(tmp_path, MMEB, MMEB))
    with pytest.raises(DataError, match=r"rows.jsonl: line 2: query image: .*a.png: No such file"):
        reader.batch([Row(0, 1)])
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(DataError, match=r"line 1: query image .*a.png: no JPEG, PNG"):
        reader.batch([Row(0, 0)])


def test_audios_are_read_for_models_that_take_them(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(SOUND))
    rows = [{"qry_audio_path": name, "qry_inst": "", "pos_text": "b"} for name in ("a.wav", "b")]
    reader = loader(checkpoints / "qwen2_vl", subset(tmp_path, *rows))
    with pytest.raises(DataError, match=r"line 1: query .*: the model takes no audio"):
        reader.batch([Row(0, 0)])
    with pytest.raises(DataError, match=r"line 2: query audio: .*b: No such file"):
        reader.batch([Row(0, 1)])


def test_tokens_and_pixels_are_those_of_serving(checkpoints: Path, tmp_path: Path) -> None:
    base = checkpoints / "qwen2_vl"
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 90, 3), np.uint8))
    picture.save(tmp_path / "a.png")
    own = {
        "qry_inst": "What is it?",
        "qry_text": "Say.",
        "qry_image_path": "a.png",
        "pos_text": "x",
    }
    batch = loader(base, subset(tmp_path, MMEB, own)).batch([Row(0, 0), Row(0, 1)])
    serving = load_preprocessor(base)
    for got, request in (
        (batch.queries[0], Request(prompt="<|image_pad|>\nWhat is it?\n", images=(picture,))),
        (batch.queries[1], Request(instruction="What is it?", text="Say.", images=(picture,))),
        (batch.targets[0], Request(prompt="a square")),
        (batch.targets[2], Request(prompt="a disc")),
    ):
        wanted = serving.prepare(request, EmbeddingConfig())
        assert got.token_ids.tolist() == wanted.token_ids.tolist()
        assert [m.values.tobytes() for m in got.media] == [m.values.tobytes() for m in wanted.media]


def test_sub_batches_are_of_one_subset_and_weights_decide_how_often() -> None:
    found = list(islice(batches([30, 50], [1.0, 3.0], 10, 4, seed=1), 400))
    for batch in found:
        assert len(batch) == 10
        for start in (0, 4, 8):
            assert len({row.subset for row in batch[start : start + 4]}) == 1
    rows = [row for batch in found for row in batch]
    assert 0.7 < np.mean([row.subset for row in rows]) < 0.8
    # A subset's rows all come before any comes again.
    first = [row.row for row in rows if row.subset == 0][:60]
    assert sorted(first[:30]) == sorted(first[30:]) == list(range(30))
    assert first[:30] != first[30:]


def test_batches_are_the_same_again() -> None:
    once, again = (list(islice(batches([9, 5], [1, 1], 8, 4, seed=3), 5)) for _ in range(2))
    assert once == again
    assert once != list(islice(batches([9, 5], [1, 1], 8, 4, seed=4), 5))
