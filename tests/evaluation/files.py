"""Files of data sets for tests: pictures, frames and audio of noise, films with both, and rows."""

import csv
import functools
import io
import json
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Row = dict[str, Any]
SIDE = 56


def picture(path: Path) -> None:
    """Draws a picture that is the file's name's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(drawn(path.name))


@functools.cache
def drawn(name: str) -> bytes:
    """Draws a PNG of noise, another one for each name."""
    random = np.random.default_rng(list(name.encode()))
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def sound(path: Path, seconds: float = 0.5, rate: int = 16_000, channels: int = 1) -> None:
    """Writes a WAV of noise, another one for each name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(heard(path.name, seconds, rate, channels))


@functools.cache
def heard(name: str, seconds: float = 0.5, rate: int = 16_000, channels: int = 1) -> bytes:
    """Makes a WAV of noise, another one for each name."""
    random = np.random.default_rng(list(name.encode()))
    samples = random.integers(-8000, 8000, (int(seconds * rate), channels), np.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((channels, 2, rate, 0, "NONE", ""))
        out.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


def film(folder: Path, count: int = 10) -> None:
    for index in range(count):
        picture(folder / f"frame_{index}.png")


def rows(path: Path, found: list[Row]) -> None:
    """Writes rows as the end of ``path`` says; of a pattern the one file; a folder gets parquet."""
    path = path.with_name(path.name.replace("*", "00000-of-00001"))
    if path.suffix not in (".parquet", ".jsonl", ".json", ".csv", ".tsv"):
        path = path / "test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(found), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    elif path.suffix == ".json":
        path.write_text(json.dumps(found))
    else:
        with path.open("w", newline="") as file:
            table = csv.DictWriter(
                file, list(found[0]), delimiter="\t" if path.suffix == ".tsv" else ","
            )
            table.writeheader()
            table.writerows(found)


def moving(path: Path, frames: int = 12, rate: int = 22_050) -> None:
    """Writes an MP4 of noise to see and to hear, 12 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        picture, tone = out.add_stream("mpeg4", 12), out.add_stream("aac", rate)
        picture.width = picture.height = SIDE
        picture.pix_fmt = "yuv420p"
        for index in range(frames):
            shown = Image.open(io.BytesIO(drawn(f"{path.name}{index}")))
            out.mux(picture.encode(av.VideoFrame.from_image(shown)))
        with av.open(io.BytesIO(heard(path.name, frames / 12, rate)), "r") as source:
            for frame in source.decode(audio=0):
                frame.pts = None
                out.mux(tone.encode(frame))
        out.mux(picture.encode(None))
        out.mux(tone.encode(None))
