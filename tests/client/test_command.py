"""``python -m vlm2vec`` as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.client.conftest import DATA
from tests.client.server import Service
from tests.client.vectors import DIMENSION, text, vector_of
from vlm2vec.v1 import embedding_pb2 as pb


def run(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Runs the command in ``folder``."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("VLM2VEC_")}
    return subprocess.run(
        [sys.executable, "-m", "vlm2vec", *arguments],
        cwd=folder,
        env={**given, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three pictures, one of them below another folder."""
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for shade, name in enumerate(["b.png", "a.png", "more/c [1].png"]):
        Image.new("RGB", (8, 8), (shade * 40, 0, 0)).save(tmp_path / "photos" / name)
    return tmp_path


def image(path: Path, instruction: str = "") -> pb.Input:
    return pb.Input(instruction=instruction, parts=[pb.Part(image=path.read_bytes())])


def test_embed(photos: Path, service: Service) -> None:
    (photos / "rain.wav").write_bytes(b"RIFF")
    done = run(
        photos, "embed", "photos/**/*.png", "photos/more/c [1].png",
        "--text", "a cat", "--text=dog", "--audio", "*.wav",
        "--server", service.address, "--output", "out.npz", "--instruction", "Represent.",
        "--model", "m", "--model-version", "3", "--progress", "--truncate", "0",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "7/7" in done.stderr
    names = ["photos/a.png", "photos/b.png", *["photos/more/c [1].png"] * 2]
    names += ["rain.wav", "a cat", "dog"]
    rain = pb.Input(instruction="Represent.", parts=[pb.Part(audio=pb.Audio(file=b"RIFF"))])
    with np.load(photos / "out.npz") as file:
        assert file["ids"].tolist() == names
        assert (str(file["model"]), str(file["space"])) == ("made-up", "space-1")
        assert file["truncated"].tolist() == [True] * len(names)
        np.testing.assert_array_equal(
            file["vectors"],
            [vector_of(image(photos / name, "Represent.")) for name in names[:4]]
            + [vector_of(rain)]
            + [vector_of(text(name, "Represent.")) for name in names[5:]],
        )
    options = service.stream_requests[0].options
    assert options.model == pb.ModelRef(name="m", version="3")
    assert options.priority == pb.PRIORITY_BULK
    assert (options.HasField("truncate"), options.truncate) == (True, 0)
    assert sorted(os.listdir(photos)) == ["out.npz", "photos", "rain.wav"]


@pytest.mark.parametrize("extension", [".jsonl", ".parquet"])
def test_embed_to_other_formats(photos: Path, service: Service, extension: str) -> None:
    output = photos / f"out{extension}"
    given = ("--text", "a cat", "--text", "dog", "--output", str(output))
    done = run(photos, "embed", *given, "--server", service.address)
    assert done.returncode == 0, done.stderr
    if extension == ".jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        assert {(row["model"], row["space"]) for row in rows} == {("made-up", "space-1")}
    else:
        table = pq.read_table(output)
        assert table.schema.field("vector").type == pa.list_(pa.float32(), DIMENSION)
        assert table.schema.metadata == {
            b"vlm2vec.model": b"made-up", b"vlm2vec.space": b"space-1",
        }  # fmt: skip
        rows = table.to_pylist()
    assert [row["id"] for row in rows] == ["a cat", "dog"]
    assert [row["truncated"] for row in rows] == [False, False]
    for row in rows:
        np.testing.assert_allclose(row["vector"], vector_of(text(row["id"])), rtol=1e-6)


def test_flags_from_the_environment(photos: Path, service: Service) -> None:
    variables = {
        "VLM2VEC_SERVER": service.address,
        "VLM2VEC_OUTPUT": "out.npz",
        "VLM2VEC_TEXT": "one\ntwo",
        "VLM2VEC_PRIORITY": "interactive",
        "VLM2VEC_API_KEY": "secret",
        "VLM2VEC_NORMALIZE": "0",
        "VLM2VEC_DIMENSIONS": "4",
        "VLM2VEC_WINDOW": "7",
        "VLM2VEC_TRUNCATE": "300",
    }
    done = run(photos, "embed", "--dimensions", "6", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    with np.load(photos / "out.npz") as file:
        assert file["ids"].tolist() == ["one", "two"]
        assert file["vectors"].shape == (2, 6)
    options = service.stream_requests[0].options
    assert options.priority == pb.PRIORITY_INTERACTIVE
    assert options.output.HasField("normalize")
    assert not options.output.normalize
    assert options.truncate == 300
    assert service.streams[0]["authorization"] == "Bearer secret"


def test_what_fails_is_reported_and_the_rest_written(photos: Path, service: Service) -> None:
    service.behaviour.item_error = lambda id: (
        pb.Error(code=3, message="input.parts[0].image: no image") if id == "1" else None
    )
    done = run(photos, "embed", "photos/*.png", "--server", service.address, "--output", "o.npz")
    assert done.returncode == 1
    assert done.stderr == "photos/b.png: input.parts[0].image: no image\n"
    with np.load(photos / "o.npz") as file:
        assert file["ids"].tolist() == ["photos/a.png"]
        assert file["vectors"].shape == (1, DIMENSION)


def test_rank(photos: Path, service: Service) -> None:
    done = run(
        photos, "rank", "--query", "red", "photos/*.png", "--text", "words", "--top-k", "2",
        "--server", service.address, "--instruction", "q", "--candidate-instruction", "c",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    query = vector_of(text("red", "q"))
    scores = {
        "words": query @ vector_of(text("words", "c")),
        **{
            f"photos/{name}": query @ vector_of(image(photos / "photos" / name, "c"))
            for name in ("a.png", "b.png")
        },
    }
    best = sorted(scores.items(), key=lambda item: -item[1])[:2]
    assert done.stdout.splitlines() == [
        "rank    score  candidate",
        *[f"   {place}  {score:7.4f}  {name}" for place, (name, score) in enumerate(best, 1)],
    ]


def test_mutual_tls(photos: Path, secure: Service) -> None:
    flags = [f"--tls-ca={DATA}/ca.pem", f"--tls-cert={DATA}/client.pem"]
    key = f"--tls-key={DATA}/client.key"
    ranking = ["rank", "--query=q", "--text=t", f"--server={secure.address}"]
    assert run(photos, *ranking, *flags, key).returncode == 0
    done = run(photos, *ranking, *flags)
    assert (done.returncode, done.stderr) == (
        2, "vlm2vec-client: error: --tls-cert and --tls-key go together\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["embed", "--output", "o.npz"], "give images, --audio or --text"),
        (["embed", "none/*.jpg", "--output", "o.npz"], "no file matches 'none/*.jpg'"),
        (["embed", "--text", "a"], "--output"),
        (["embed", "--text", "a", "--output", "no/o.npz"], "the folder no does not exist"),
        (["embed", "--text", "a", "--output", "o.csv"], "o.csv: the extension is none of .npz, "),
        (["embed", "--text", "a", "--output", "o"], "o: the extension is none of .npz, .jsonl, "),
        (["rank", "--text", "a"], "--query"),
        (["embed", "--text", "a", "--output", "o", "--dtype", "int4"], "'int4' is not one of"),
        (["rank", "--query", "q", "--text", "a", "--alias=a", "--space=s"], "at most one of"),
        (["embed", "--text", "a", "--output", "o.npz", "--server=localhost:1"], "client: error:"),
        ([], "COMMAND"),
    ],
)
def test_usage_errors(tmp_path: Path, arguments: list[str], problem: str) -> None:
    done = run(tmp_path, *arguments, VLM2VEC_MAX_RETRIES="0")
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("variable", "value"), [("PRIORITY", "high"), ("PROGRESS", "maybe"), ("WINDOW", "many")]
)
def test_bad_environment(tmp_path: Path, variable: str, value: str) -> None:
    variables = {f"VLM2VEC_{variable}": value}
    done = run(tmp_path, "embed", "--text", "a", "--output", "o.npz", **variables)
    assert done.returncode == 2
    assert value in done.stderr
    assert "Traceback" not in done.stderr


def test_help(tmp_path: Path) -> None:
    for command in ("embed", "rank"):
        done = run(tmp_path, command, "--help")
        assert done.returncode == 0
        assert "VLM2VEC_SERVER; default localhost:50051" in done.stdout
    assert run(tmp_path, "--version").stdout.strip()
