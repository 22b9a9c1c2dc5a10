"""docs/from-zero.md does what it says, snippet by snippet."""

import contextlib
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import vlm2vec
from tests.docs.snippets import Snippet, snippets
from tests.e2e.mlflow_server import QUIET
from tests.e2e.server import COMMAND, free_ports, wait_until
from tests.unit.test_docs import ROOT

PAGE = ROOT / "docs" / "from-zero.md"
START_SECONDS = 180.0


@contextlib.contextmanager
def running(
    snippet: Snippet, folder: Path, environment: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs what goes on until it is stopped; its log is in ``folder``."""
    assert snippet.note == "runs until you stop it"
    with (folder / f"{snippet.line}.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", snippet.text.replace("http://localhost:5000", environment["MLFLOW"])],
            cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_version_goes_from_the_registry_to_all_calls_and_back(tmp_path: Path) -> None:
    for name in ("demo", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    mlflow, grpc, http, metrics = (f"127.0.0.1:{port}" for port in free_ports(4))
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("VLM2VEC")},
        **QUIET,
        "PATH": f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        "MLFLOW": f"http://{mlflow}", "MLFLOW_PORT": mlflow.partition(":")[2],
        "VLM2VEC_SERVER": grpc, "VLM2VEC_SERVE_LISTEN": grpc, "VLM2VEC_SERVE_HTTP_LISTEN": http,
        "VLM2VEC_SERVE_METRICS_LISTEN": metrics,
    }  # fmt: skip
    install, registry, publish, server, ask, canary, promote, back = snippets(PAGE)
    assert install.note.startswith("not run")
    exports = "".join(f"{line}\n" for line in publish.text.splitlines() if line[:7] == "export ")

    def run(snippet: Snippet) -> str:
        assert not snippet.note
        text = (exports + snippet.text).replace("http://localhost:5000", environment["MLFLOW"])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def health() -> bool:
        try:
            with urllib.request.urlopen(f"{environment['MLFLOW']}/health", timeout=5) as page:
                return bool(page.status == 200)
        except OSError:
            return False

    def aliases() -> dict[str, str]:
        (model,) = client.models()
        return {alias: one.version for one in model.versions for alias in one.aliases}

    with contextlib.ExitStack() as stack:
        stack.enter_context(running(registry, tmp_path, environment))
        wait_until(health, START_SECONDS)
        run(publish)
        stack.enter_context(running(server, tmp_path, environment))
        client = stack.enter_context(vlm2vec.Client(grpc, max_retries=0))
        wait_until(lambda: ready(client), START_SECONDS)
        assert "champion" in (asked := run(ask))
        assert "a-red-seven-above-a-black-three.png" in asked
        run(canary)
        wait_until(lambda: aliases() == {"champion": "1", "canary": "2"})
        run(promote)
        wait_until(lambda: aliases()["champion"] == "2")
        assert "2" in run(back)
        wait_until(lambda: aliases()["champion"] == "1")


def ready(client: vlm2vec.Client) -> bool:
    """Whether the server answers, and a worker is ready."""
    try:
        return all(model.ready for model in client.models())
    except vlm2vec.VLM2VecError:
        return False
