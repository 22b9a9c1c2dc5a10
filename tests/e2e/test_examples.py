"""The notebook and the recipes of examples/, as a reader runs them, on the model that ships."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from tests.e2e.server import Server, running_server

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
MODEL = ROOT / "demo" / "vlm2vec_demo" / "digits" / "model"
BEST = "a-red-seven-above-a-black-three.png"
"""What a search for a red seven above a black three has to find first."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that ``make serve`` starts."""
    flags = ("--model", f"digits={MODEL}/base", "--adapter", f"digits/2={MODEL}/v2")
    with running_server(tmp_path_factory.mktemp("digits"), *flags) as server:
        yield server


def run(server: Server, name: str) -> str:
    """What an example prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        env={**os.environ, "VLM2VEC_SERVER": server.address},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("recipe", ["qdrant", "lancedb", "chroma"])
def test_a_search_in_a_database_in_this_process(digits: Server, recipe: str) -> None:
    package = {"qdrant": "qdrant_client", "chroma": "chromadb"}.get(recipe, recipe)
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is too large for the development environment")
    lines = run(digits, f"search_{recipe}.py").splitlines()
    assert lines[0].split()[1] == BEST
    scores = [float(line.split()[0]) for line in lines]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert 0.7 < scores[0] < 1


def test_the_sql_for_pgvector(digits: Server) -> None:
    *statements, search = run(digits, "search_pgvector.py").splitlines()
    inserted = {}
    for statement in statements:
        if found := re.match(
            r"INSERT INTO pictures VALUES \('(.*)', '\w+', '\[(.*)\]'\)", statement
        ):
            inserted[found[1]] = np.array(found[2].split(","), np.float32)
    assert set(inserted) == {path.name for path in EXAMPLES.glob("digits/*.png")}
    (query, again) = (np.array(found.split(","), np.float32)
                      for found in re.findall(r"'\[(.*?)\]'", search))  # fmt: skip
    np.testing.assert_array_equal(query, again)
    assert f"vector({len(query)})" in "".join(statements)
    assert max(inserted, key=lambda name: float(inserted[name] @ query)) == BEST


def test_the_notebook(digits: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VLM2VEC_SERVER", digits.address)
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    notebook = nbformat.read(EXAMPLES / "search.ipynb", as_version=4)
    stored = [cell.get("outputs") for cell in notebook.cells]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": EXAMPLES}}).execute()
    results = [
        output.data for cell in notebook.cells for output in cell.get("outputs", ())
        if output.output_type == "execute_result"
    ]  # fmt: skip
    *_, found, ranking = results
    assert found["text/plain"].startswith(f"['digits/{BEST}'")
    assert ranking["text/html"].count("<img ") == 4
    assert "a-blue-two-above-a-purple-seven.png" in ranking["text/html"].split("</tr>")[1]
    # A reader of the repository sees what it gives without running it.
    assert [len(outputs or ()) for outputs in stored] == [
        len(cell.get("outputs") or ()) for cell in notebook.cells
    ]
