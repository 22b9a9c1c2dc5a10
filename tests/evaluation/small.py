"""A suite of four small data sets, one of each meta-task, with the pictures of scikit-learn."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image
from sklearn.datasets import load_sample_images

Row = dict[str, Any]
CROPS = 6


def write_suite(folder: Path, *, name: str = "small", **keys: Any) -> Path:
    """Writes rows, pictures and the suite file, and returns the file."""
    (folder / "pictures").mkdir(parents=True)
    photos = [Image.fromarray(array) for array in load_sample_images().images]
    for index in range(CROPS):
        left = 60 * index
        crop = photos[index % 2].crop((left, 40, left + 112, 152))
        crop.save(folder / "pictures" / f"{index}.png")
    # JSON lines, parquet and a folder of parquet, as MMEB-eval has them.
    lines(folder / "classes.jsonl", classification())
    parquet(folder / "questions.parquet", questions())
    lines(folder / "retrieval.jsonl", retrieval())
    (folder / "grounding").mkdir()
    parquet(folder / "grounding" / "test-00000-of-00001.parquet", grounding())
    data_sets = [
        {"name": "classes", "path": "classes.jsonl", "meta_task": "classification"},
        {"name": "questions", "path": "questions.parquet", "meta_task": "vqa", "split": "ood"},
        {"name": "captions", "path": "retrieval.jsonl", "meta_task": "retrieval"},
        {"name": "crops", "path": "grounding", "meta_task": "grounding", "split": "ood"},
    ]
    path = folder / "suite.yaml"
    path.write_text(
        yaml.safe_dump({"name": name, "images": "pictures", "data_sets": data_sets, **keys})
    )
    return path


def lines(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def parquet(path: Path, rows: list[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def classification() -> list[Row]:
    names = ["temple", "flower", "boat"]
    return [
        {
            "qry_inst": "<|image_1|> Represent the given image for classification",
            "qry_text": "",
            "qry_img_path": f"{index}.png",
            "tgt_text": names[index % 2 :] + names[: index % 2],
        }
        for index in range(CROPS)
    ]


def questions() -> list[Row]:
    return [
        {
            "qry_text": f"<|image_1|>\nRepresent the given image with the question: {question}?\n",
            "qry_img_path": f"{index}.png",
            "tgt_text": answers,
            "tgt_img_path": ["", "", ""],
        }
        for index, (question, answers) in enumerate(
            [("What colour is it", ["red", "green", "blue"]), ("Where", ["China", "a pond", "red"])]
        )
    ]


def retrieval() -> list[Row]:
    return [
        {
            "qry_inst": "Find me an everyday image that matches the given caption:",
            "qry_text": caption,
            "qry_img_path": "",
            "tgt_inst": "<|image_1|> Represent the given image.",
            "tgt_text": [" "] * CROPS,
            "tgt_img_path": [f"{(index + start) % CROPS}.png" for index in range(CROPS)],
        }
        for start, caption in enumerate(["a temple", "a pink flower", "a roof"])
    ]


def grounding() -> list[Row]:
    return [
        {
            "qry_inst": "<|image_1|>\nSelect the portion of the image that isolates the object:",
            "qry_text": name,
            "qry_img_path": "0.png",
            "tgt_inst": "<|image_1|>\nRepresent the given cropped image of the object.",
            "tgt_text": [""] * 4,
            "tgt_img_path": [f"{(index + start) % CROPS}.png" for index in range(4)],
        }
        for start, name in enumerate(["temple", "leaf"])
    ]
