"""A corpus from one version's space into another's, on a real server."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.conftest import CASES, case_pictures
from tests.e2e.cases import Golden, cosine
from tests.e2e.server import Server
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_registry.space_ready import read_ready


def reembed(server: Server, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    given = {key: value for key, value in os.environ.items() if not key.startswith("VLM2VEC")}
    return subprocess.run(
        [sys.executable, "-m", "vlm2vec", "reembed", "--server", server.address, *arguments],
        cwd=folder,
        env=given,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def write_cases(folder: Path) -> list[str]:
    """The parity cases of Qwen2-VL as a corpus, ``in.parquet``, and their ids."""
    rows = []
    for case in CASES["qwen2_vl"]:
        row: dict[str, Any] = {"id": case["id"], "prompt": case["text"]}
        for key in ("images", "video"):
            pictures = case_pictures(case, key)
            row[key] = [f"{case['id']}-{key}-{index}.png" for index in range(len(pictures))] or None
            for name, picture in zip(row[key] or (), pictures, strict=True):
                picture.save(folder / name)
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), folder / "in.parquet")
    return [row["id"] for row in rows]


def test_into_the_canary_and_on(server: Server, golden: Golden, tmp_path: Path) -> None:
    models = server.embedding.ListModels(pb.ListModelsRequest()).models
    spaces = {
        version.version: version.space
        for model in models
        if model.name == "qwen"
        for version in model.versions
    }
    ids = write_cases(tmp_path)
    common = ["--model=qwen", "--input=in.parquet", "--part-rows=4"]
    before = spaces["dora"]
    # The server's canary is lora; and then from there to a version, into one file.
    for target, output, version in (
        ("alias:canary", "canary", "lora"),
        ("version:dora", "dora.parquet", "dora"),
    ):
        done = reembed(
            server,
            tmp_path,
            *common,
            f"--from-space={before}",
            f"--to={target}",
            "--output",
            output,
        )
        assert done.returncode == 0, done.stderr
        table = pq.read_table(tmp_path / output)
        assert table.column("id").to_pylist() == ids
        assert table.schema.metadata[b"vlm2vec.space"].decode() == spaces[version]
        for id, vector in zip(ids, table.column("vector").to_numpy(), strict=True):
            assert cosine(vector, golden[f"qwen2_vl/{version}/{id}"]) > 0.9999, id
        name = "dora.parquet.ready.json" if version == "dora" else "canary/_ready.json"
        ready = read_ready(tmp_path / name)
        assert (ready["model"], ready["version"]) == ("qwen", version)
        assert (ready["from_space"], ready["space"]) == (before, spaces[version])
        assert (ready["rows"], ready["failed"]) == (len(ids), 0)
        before = spaces[version]


def test_what_is_refused(server: Server, tmp_path: Path) -> None:
    write_cases(tmp_path)
    given = ["--model=qwen", "--input=in.parquet", "--output=out"]
    space = server.embedding.Embed(
        pb.EmbedRequest(
            options=pb.CallOptions(model=pb.ModelRef(name="qwen", version="lora")),
            inputs=[pb.Input(parts=[pb.Part(text="a")])],
        )
    )
    there = space.embeddings[0].space
    for target, origin, problem in (
        ("alias:canary", there, "already, which --to alias:canary is"),
        ("space:" + "0" * 32, there, "0" * 32),
        ("version:7", there, "7"),
        ("alias:none", there, "none"),
    ):
        done = reembed(server, tmp_path, *given, f"--to={target}", f"--from-space={origin}")
        assert done.returncode == 2
        assert problem in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()
