"""The init container's script, run with the real `hf` against a mirror of the hub here."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chart.rendering import config, containers, render

FILES: dict[str, dict[str, bytes]] = {}
"""By ORG/NAME@REVISION, what the mirror has."""
BASE = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickle",
    "modeling.py": b"code",
    "onnx/model.safetensors": b"for somebody else",
}
WHOLE = {"base@main/config.json": b"{}", "base@main/model.safetensors": b"weights"}
"""What a pod has of it, below its organisation."""
OLD = ["org/base@first", "org/base@second", "org/base@third", "org/base@fourth"]


def commit_of(source: str) -> str:
    return hashlib.sha1(source.encode()).hexdigest()


class Mirror(http.server.BaseHTTPRequestHandler):
    """Answers what the hub's client asks to download a repository."""

    paths: list[str] = []  # noqa: RUF012 (of all requests)
    missing: set[str] | None = set()  # noqa: RUF012
    """Names of files that it does not send; None is a mirror that is down."""

    def do_GET(self) -> None:
        """What there is of a repository, its list of files, or one of them."""
        self.paths.append(self.path)
        path = urllib.parse.unquote(self.path.partition("?")[0])
        parts = path.removeprefix("/api/models").split("/")
        repository = "/".join(parts[1:3])
        revision = "/".join(parts[4:]) if "/api/" in path else parts[4]
        found = [source for source in FILES if source.startswith(f"{repository}@")
                 and revision in (source.partition("@")[2], commit_of(source))]  # fmt: skip
        if self.missing is None:
            self.send_error(503)
            return
        if not found or parts[-1] in self.missing:
            self.send_error(404)
            return
        (source,), files = found, FILES[found[0]]
        if "/tree/" in self.path:
            tree = [
                {"type": "file", "path": file, "size": len(data), "oid": commit_of(file)}
                for file, data in files.items()
            ]
            self._send(source, json.dumps(tree).encode())
        elif self.path.startswith("/api/models/"):
            answer = {"id": repository, "sha": commit_of(source), "siblings": []}
            self._send(source, json.dumps(answer).encode())
        else:
            data = files[parts[-1]]
            self._send(source, data, etag=f'"{hashlib.sha1(data).hexdigest()}"')

    do_HEAD = do_GET

    def _send(self, source: str, body: bytes, etag: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", commit_of(source))
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def mirror() -> Iterator[str]:
    Mirror.paths.clear()
    Mirror.missing = set()
    FILES.clear()
    FILES["org/base@main"] = BASE
    FILES["org/adapter@main"] = {"adapter_model.safetensors": b"adapter"}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@dataclass
class Pod:
    """A pod whose models are those of ``sources``, ORG/NAME@REVISION each, on a volume."""

    models: Path
    mirror: str
    sources: Sequence[str]
    programs: Path = Path(sys.executable).parent
    """What is found there comes before all other programs."""

    def start(self) -> "subprocess.Popen[str]":
        """Starts its init container."""
        values = {
            "models": [
                {"name": f"m{i}", "repository": source.partition("@")[0],
                 "revision": source.partition("@")[2]}
                for i, source in enumerate(self.sources)
            ],
            "modelCache": {
                "mountPath": str(self.models),
                "download": {"endpoint": self.mirror, "keepRevisions": 2},
            },
        }  # fmt: skip
        self.documents = render(values)
        (init,) = [c for name, c in containers(self.documents) if name.endswith("/download")]
        environment = {item["name"]: item["value"] for item in init["env"]}
        environment |= {
            "PATH": f"{self.programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.models.parent),
        }
        return subprocess.Popen(
            [*init["command"], *init["args"]],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self) -> str:
        """Runs it, which has to go well; what it said."""
        process = self.start()
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said + repr(Mirror.paths)
        return said

    @property
    def folders(self) -> list[Path]:
        """Where the server that starts then looks for its models."""
        return [Path(item.partition("=")[2]) for item in config(self.documents)["model"]]


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def test_models_are_downloaded_once_and_nothing_that_runs(mirror: str, models: Path) -> None:
    pod = Pod(models, mirror, ["org/base@main", "org/adapter@main"])
    pod.run()
    assert files_in(models / "org") == WHOLE | {
        "adapter@main/adapter_model.safetensors": b"adapter"
    }
    Mirror.paths.clear()
    assert "there already" in pod.run()
    assert not Mirror.paths


def test_a_model_that_is_rolled_back_has_the_weights_that_it_had(mirror: str, models: Path) -> None:
    for revision in ("first", "refs/second"):
        FILES[f"org/base@{revision}"] = BASE | {"model.safetensors": revision.encode()}
    FILES[f"org/base@{commit_of('third')}"] = BASE
    old = Pod(models, mirror, ["org/base@first"])
    old.run()
    (before,) = old.folders
    new = Pod(models, mirror, [f"org/base@{commit_of('third')}"])
    new.run()
    (after,) = new.folders
    # A pod of the old release reads on, and so does one that starts when all go back.
    assert before != after
    assert (before / "model.safetensors").read_bytes() == b"first"
    assert (after / "model.safetensors").read_bytes() == b"weights"
    Mirror.paths.clear()
    old.run()
    assert not Mirror.paths
    assert (before / "model.safetensors").read_bytes() == b"first"


def test_of_pods_that_start_together_one_downloads(mirror: str, models: Path) -> None:
    pods = [Pod(models, mirror, ["org/base@main"]) for _ in range(3)]
    processes = [pod.start() for pod in pods]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert sum("there already" in told for told in said) == 2
    assert files_in(models / "org") == WHOLE
    assert len([path for path in Mirror.paths if "model.safetensors" in path]) <= 2  # HEAD, GET


@pytest.mark.parametrize(
    ("code", "said"), [(65, "Downloaded"), (1, "another pod has been downloading it for")]
)
def test_a_volume_without_locks_is_used_and_one_that_stays_locked_is_told(
    mirror: str, models: Path, code: int, said: str
) -> None:
    pod = Pod(models, mirror, ["org/base@main"])
    # What `flock` ends with: 1 when it has waited in vain, more when it cannot lock at all.
    pod.programs = models.parent / "programs"
    pod.programs.mkdir()
    (pod.programs / "flock").write_text(f"#!/bin/sh\nexit {code}\n")
    (pod.programs / "flock").chmod(0o755)
    process = pod.start()
    told, _ = process.communicate(timeout=120)
    assert said in told
    assert process.returncode == (1 if code == 1 else 0)


def test_what_is_not_whole_has_no_name_yet(mirror: str, models: Path) -> None:
    pod = Pod(models, mirror, ["org/base@main", "org/none@main"])
    process = pod.start()
    process.communicate(timeout=120)
    assert process.returncode != 0
    whole, missing = pod.folders
    assert whole.is_dir()
    assert not missing.exists()
    FILES["org/none@main"] = BASE
    pod.run()
    assert (missing / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("begun", ["begun by hf", "of unknown origin"])
def test_what_was_begun_is_not_whole_because_the_hub_is_down(
    mirror: str, models: Path, begun: str
) -> None:
    """By itself `hf` takes the files that it finds for the whole when it cannot ask."""
    pod = Pod(models, mirror, ["org/base@main"])
    part = models / ".downloading" / "org+base@main"
    if begun == "begun by hf":
        Mirror.missing = {"model.safetensors"}
        assert pod.start().wait(120) != 0
        assert part.is_dir()
    else:
        part.mkdir(parents=True)
        (part / "config.json").write_bytes(b"{")
    Mirror.missing = None
    process = pod.start()
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0, said
    assert not any(folder.exists() for folder in pod.folders)
    Mirror.missing = set()
    pod.run()
    assert files_in(models / "org") == WHOLE


def test_a_model_without_safetensors_is_refused(mirror: str, models: Path) -> None:
    FILES["org/base@main"] = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    process = Pod(models, mirror, ["org/base@main"]).start()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "org/base@main: has no safetensors" in said


def test_revisions_that_nobody_needs_any_more_are_removed(mirror: str, models: Path) -> None:
    """Two stay, by when a pod last started with them, and whatever is younger than a week."""
    pod = Pod(models, mirror, ["org/base@main"])
    for age, source in enumerate([*OLD, "org/other@first", ".downloading/org+base@cut"], 8):
        folder = models / source
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"old")
        days_ago = time.time() - age * 86_400
        os.utime(folder, (days_ago, days_ago))
    os.utime(models / OLD[1], None)
    said = pod.run()
    left = {str(path.parent.relative_to(models)) for path in models.rglob("*.safetensors")}
    # The newest beside the one that is needed is the one that was used today.
    assert left == {"org/base@main", OLD[1], "org/other@first"}
    assert f"{models / OLD[0]}: not used for a week, removed" in said
    now = [f"org/base@{n}" for n in ("first", "main")]
    FILES["org/base@first"] = BASE
    for source in OLD[1:]:
        (models / source).mkdir(exist_ok=True)
    Pod(models, mirror, now).run()
    assert {path.name for path in (models / "org").iterdir()} >= {
        "base@main", "base@first", "base@second", "base@third", "base@fourth",
    }  # fmt: skip


def test_a_volume_that_nobody_can_write_is_said_to_be_one(mirror: str, models: Path) -> None:
    (models / ".downloading").write_text("no folder can be made here")
    process = Pod(models, mirror, ["org/base@main"]).start()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"{models}: user {os.getuid()} cannot write here" in said
    assert not Mirror.paths
