"""Every snippet of the docs is run as it stands there, or says why not and is checked."""

import ast
import asyncio
import inspect
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import vlm2vec
from tests.docs.snippets import EVERY, Snippet, commands, unknown_flags
from tests.e2e.server import COMMAND, Server, running_server
from tests.unit.test_docs import DOCS, ROOT
from vlm2vec_demo.digits import MODEL

REASONS = [
    "another test runs it",
    "fetches packages, models or data",
    "needs a cluster, or builds an image",
    "takes hours, or a GPU",
    "names versions, files or servers of yours",
    "leaves parts out",
]
"""Why a snippet may stay unrun: ``<!-- not run: REASON -->`` before its fence."""
CODE = [
    one
    for one in EVERY
    if one.language in ("sh", "python") and one.path.name != "from-zero.md"  # has its own test
]
RUN = [one for one in CODE if not one.note]
NOT_RUN = [one for one in CODE if one.note]
PROJECTS = {".": "vlm2vec-serve", "./clients/python": "vlm2vec-client"}
EXTRAS = {
    name: tomllib.loads((ROOT / path / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for path, name in PROJECTS.items()
}


@dataclass(frozen=True)
class Stage:
    """A folder with what the docs name, and a server that serves what they ask for."""

    folder: Path
    server: Server

    def text(self, snippet: Snippet) -> str:
        """The snippet, with the addresses that things have here."""
        text = snippet.text.replace(".venv/bin/", "")
        text = text.replace("localhost:50051", self.server.address)
        return text.replace("localhost:8080", self.server.http_address)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("docs")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "photos").mkdir()
    for name in ("cat.jpg", "dog.jpg", "photos/a.jpg", "photos/b.jpg"):
        Image.new("RGB", (56, 56), "orange").save(folder / name)
    rows = [{"id": 1, "text": "a cat"}, {"id": 2, "text": "a dog"}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "corpus.parquet")
    flags = ["--model", f"v2={MODEL / 'base'}", "--alias", "v2@canary=1"]
    for version in ("1", "2"):
        flags += ["--adapter", f"v2/{version}={MODEL / f'v{version}'}"]
    with running_server(folder, *flags) as server:
        yield Stage(folder, server)


@pytest.mark.parametrize("snippet", [one for one in RUN if one.language == "sh"], ids=str)
def test_what_is_for_a_shell_runs(snippet: Snippet, stage: Stage) -> None:
    path = f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", stage.text(snippet)],
        cwd=stage.folder, env={**os.environ, "PATH": path, "VLM2VEC_SERVER": stage.server.address},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"error"' not in done.stdout
    if shown := shown_after(snippet):
        assert words(done.stdout) == words(shown)


def shown_after(snippet: Snippet) -> str:
    """The output that the docs show for ``snippet``, if they do: the next fence, without a language
    and with nothing between."""
    following = EVERY[EVERY.index(snippet) + 1 :][:1]
    lines = snippet.text.count("\n")
    return "".join(
        one.text
        for one in following
        if not one.language and one.path == snippet.path and one.line == snippet.line + lines + 3
    )


def words(output: str) -> list[str]:
    """What is no number, which may differ in its last digits between machines."""
    return [word for word in output.split() if not re.fullmatch(r"[\d.-]+", word)]


class Index:
    """What the docs call an index."""

    def __init__(self) -> None:
        self.ids: list[object] = []

    def add(self, id: object, vector: object) -> None:
        self.ids.append(id)


@pytest.mark.parametrize("snippet", [one for one in RUN if one.language == "python"], ids=str)
def test_what_is_python_runs(
    snippet: Snippet, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stage.folder)
    code = compile(stage.text(snippet), str(snippet), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with vlm2vec.Client(stage.server.address) as client:
        names = {
            "vlm2vec": vlm2vec, "Path": Path, "client": client, "index": Index(),
            "items": [("a", "a cat"), ("b", Path("cat.jpg"))], "dogs": [Path("dog.jpg")],
        }  # fmt: skip
        result = eval(code, names)
        if inspect.iscoroutine(result):
            asyncio.run(result)


@pytest.mark.parametrize("snippet", NOT_RUN, ids=lambda one: f"{one}: {one.note}")
def test_what_is_not_run_says_why_and_is_well_formed(snippet: Snippet) -> None:
    assert snippet.note.removeprefix("not run: ") in REASONS
    if snippet.language == "python":
        compile(snippet.text, str(snippet), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        return
    done = subprocess.run(
        ["bash", "-n", "-c", snippet.text], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [flag for command in commands(snippet.text) for flag in unknown_flags(command)] == []


def test_what_is_neither_shell_nor_python_parses() -> None:
    for snippet in EVERY:
        assert snippet.language in ("sh", "python", "yaml", "json", ""), snippet
        if snippet.language == "yaml":
            yaml.safe_load(snippet.text)
        elif snippet.language == "json":
            json.loads(snippet.text)


def test_most_are_run() -> None:
    assert len(RUN) >= 12


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("vlm2vec serve --model a=b --modle c", ["--modle"]),
        ("torchrun -m vlm2vec_cli train \\\n  --base b --bass=c ...", ["--bass"]),
        ("cat a | python3 .venv/bin/vlm2vec-client embed --text a --txt b | grep --all", ["--txt"]),
        ("vlm2vec adapters promote v2 --share 5%  # --all", ["--share"]),
        ("vlm2vec keys new --name a >> b --all", []),
    ],
)
def test_a_flag_that_is_not_there_is_found(text: str, unknown: list[str]) -> None:
    assert [flag for command in commands(text) for flag in unknown_flags(command)] == unknown


def test_the_extras_that_the_docs_name_are_there() -> None:
    """What ``pip install`` is given: a folder of this checkout, or what is installed then."""
    seen = 0
    for line in (line for path in DOCS for line in path.read_text().splitlines()):
        for name, extras in re.findall(r"'?(\.|\./clients/python|vlm2vec-\w+)\[([\w,]+)\]", line):
            assert set(extras.split(",")) <= EXTRAS[PROJECTS.get(name, name)].keys(), line
            seen += 1
    assert seen >= 5
