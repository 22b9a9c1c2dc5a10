"""Small training data: coloured squares and their names, in MMEB-train's format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {
    "red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 70, 220), "black": (20, 20, 20),
    "white": (240, 240, 240), "yellow": (230, 220, 40),
}  # fmt: skip


def write_data(folder: Path, rows: int = 24, negatives: bool = True) -> Path:
    """Two subsets, one of images to captions and one of questions to answers; the YAML's path."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    names = list(COLOURS)
    caption_rows: list[dict[str, Any]] = []
    question_rows: list[dict[str, Any]] = []
    for number in range(rows):
        colour, size = names[number % len(names)], int(rng.integers(56, 120))
        noise = rng.integers(-12, 12, (56, size, 3))
        pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
        path = f"images/{number}.png"
        Image.fromarray(pixels).save(folder / path)
        caption_rows.append(
            {
                "qry": "<|image_1|>\nFind a caption for the image.\n",
                "qry_image_path": path,
                "pos_text": f"a {colour} area {size} wide",
                "pos_image_path": "",
            }
        )
        row = {
            "qry": f"Find an image of {colour}, number {number}.\n",
            "qry_image_path": "",
            "pos_text": "<|image_1|>\nRepresent the given image.\n",
            "pos_image_path": path,
        }
        if negatives:
            row |= {
                "neg_text": "<|image_1|>\nRepresent the given image.\n",
                "neg_image_path": f"images/{(number + 1) % rows}.png",
            }
        question_rows.append(row)
    for name, written in (("captions", caption_rows), ("questions", question_rows)):
        lines = "".join(json.dumps(row) + "\n" for row in written)
        (folder / f"{name}.jsonl").write_text(lines)
    yaml = folder / "train.yaml"
    yaml.write_text("captions:\n  path: captions.jsonl\nquestions:\n  path: questions.jsonl\n")
    return yaml
