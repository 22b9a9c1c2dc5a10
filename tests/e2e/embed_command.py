"""The installed command, the parity cases as lines for ``vlm2vec embed``, and the check of vectors
against the golden ones."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import CASES, case_pictures
from tests.e2e.cases import Golden, Vector, cosine
from tests.e2e.server import COMMAND

ADAPTERS = ("base", "lora", "dora")
Line = dict[str, Any]


def vlm2vec(
    *arguments: str | Path,
    environment: Mapping[str, str | Path] | None = None,
    stdin: str = "",
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs the command. Its environment variables are ``environment`` and nobody else's."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("VLM2VEC")}
    variables.update({key: str(value) for key, value in (environment or {}).items()})
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env=variables,
        input=stdin,
        cwd=folder,
    )


def case_lines(architecture: str, folder: Path) -> dict[str, Line]:
    """The parity cases by id, as lines without id and adapter; their pictures go to ``folder``."""
    lines = {}
    for case in CASES[architecture]:
        line: Line = {"prompt": case["text"]}
        for key in ("images", "video"):
            pictures = case_pictures(case, key)
            names = [f"{case['id']}-{key}-{index}.png" for index in range(len(pictures))]
            for name, picture in zip(names, pictures, strict=True):
                picture.save(folder / name)
            if names:
                line[key] = names
        lines[case["id"]] = line
    return lines


def json_lines(lines: Sequence[Line | str]) -> str:
    """The lines as the text of a file; a string is a line as it stands."""
    return "".join(
        (line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)) + "\n"
        for line in lines
    )


def on_every_adapter(cases: Mapping[str, Line]) -> list[Line]:
    """Each case with each adapter, under the key that it has in the golden file."""
    return [
        {"id": f"{adapter}/{id}", **({} if adapter == "base" else {"adapter": adapter}), **line}
        for id, line in cases.items()
        for adapter in ADAPTERS
    ]


def read_npz(path: Path) -> dict[str, Vector]:
    """The vectors of an .npz file by id."""
    with np.load(path) as file:
        return dict(zip(file["ids"].tolist(), file["vectors"], strict=True))


def assert_golden_vectors(vectors: Mapping[str, Vector], golden: Golden, architecture: str) -> None:
    for id, vector in vectors.items():
        assert vector.dtype == np.float32
        assert cosine(vector, golden[f"{architecture}/{id}"]) > 0.9999, id
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
