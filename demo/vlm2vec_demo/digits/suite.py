"""Writes the evaluation tasks as files that ``vlm2vec evaluate`` reads.

They are a suite, a parquet file of rows for each task, and PNG images.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from vlm2vec import Input
from vlm2vec_demo.digits.tasks import tasks
from vlm2vec_evaluation.task import Record, Task


def write_suite(folder: Path, **sizes: int) -> Path:
    """Writes all tasks to ``folder``; ``sizes`` are those of `tasks`. Returns the suite's file."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    data_sets = []
    for task in tasks(**sizes):
        rows = _rows(task, images)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{task.name}.parquet")
        data_sets.append(
            {
                "name": task.name,
                "path": f"{task.name}.parquet",
                "meta_task": task.meta_task,
                "split": task.split,
            }
        )
    values = {"name": "digits", "images": "images", "prompts": "template", "data_sets": data_sets}
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def _rows(task: Task, images: Path) -> list[dict[str, object]]:
    names: dict[int, str] = {}  # candidates are shared objects: each is written once

    def image(item: Input) -> str:
        if id(item) not in names:
            names[id(item)] = _write_image(item, images)
        return names[id(item)]

    rows: list[dict[str, object]] = []
    for record in task.records:
        query, candidates = _inputs(record)
        rows.append(
            {
                "qry_inst": query.instruction or "",
                "qry_text": query.text or "",
                "qry_img_path": image(query),
                "tgt_inst": candidates[0].instruction or "",
                "tgt_text": [item.text or "" for item in candidates],
                "tgt_img_path": [image(item) for item in candidates],
                "tgt_right": len(record.right),
            }
        )
    return rows


def _inputs(record: Record) -> tuple[Input, Sequence[Input]]:
    """The query, and the candidates with those that are right first."""
    items = [item for item in (record.query, *record.candidates) if isinstance(item, Input)]
    query, *candidates = items
    order = sorted(range(len(candidates)), key=lambda at: at not in record.right)
    return query, [candidates[at] for at in order]


def _write_image(item: Input, folder: Path) -> str:
    for image in item.images:
        assert isinstance(image, bytes)
        name = f"{hashlib.blake2b(image, digest_size=8).hexdigest()}.png"
        (folder / name).write_bytes(image)
        return name
    return ""
