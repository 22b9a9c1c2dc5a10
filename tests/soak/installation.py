"""A checkpoint, an MLflow server with versions for it, and a server that follows it, each of which
can be stopped and started again where it was."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc

from tests.conftest import adapter_folder
from tests.e2e.cases import options, text
from tests.e2e.mlflow_server import running_mlflow
from tests.e2e.remote_worker import running_worker
from tests.e2e.server import Server, free_ports, is_running, running_server, wait_until
from tests.parity.make_checkpoints import write_all
from tests.soak.expected import variant
from tests.soak.samples import MODEL
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_registry import traffic
from vlm2vec_registry.store import Registry

VERSIONS = ("1", "2", "3", "4")
"""The versions that aliases may stand for, as many as there is room for at a time."""
RARE = "5"
"""One more, which few ask for and another has to leave for."""
HEAL_SECONDS = 90.0
"""How long anything may take to be whole again, on a machine that does other things as well."""


class Installation:
    """All processes of a soak and their files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        """Publishes the versions, makes the first the champion, and starts everything."""
        self.folder = folder
        write_all(folder / "checkpoints")
        self.base = folder / "checkpoints" / "qwen2_vl"
        lora, dora = (adapter_folder("qwen2_vl", name) for name in ("lora", "dora"))
        self.adapters: dict[str, Path] = {
            "1": lora,
            "2": dora,
            "3": variant(lora, folder / "lora-variant", -1.5),
            "4": variant(dora, folder / "dora-variant", -0.7),
            RARE: variant(lora, folder / "rare-variant", 0.4),
        }
        self.cache = folder / "cache"
        self.logs: list[Path] = []
        self._mlflow_port, *ports = free_ports(4)
        self._ports = tuple(ports)
        self._mlflow, self._server = contextlib.ExitStack(), contextlib.ExitStack()
        self.start_mlflow()
        self.registry = Registry(self.registry_url)
        self._worker_flags: list[str] = []
        self._publish(list(self.adapters), "1", "2")
        self.server = self.start_server()
        wait_until(lambda: set(self._listed()) == {"base", *VERSIONS, RARE})
        self.spaces = self.listed_spaces()

    @property
    def registry_url(self) -> str:
        """Where MLflow is."""
        return f"http://127.0.0.1:{self._mlflow_port}"

    def _publish(self, contents: Sequence[str], champion: str, nightly: str) -> None:
        for name in contents:
            self.registry.publish(MODEL, self.adapters[name], base=self.base)
        traffic.promote(self.registry, MODEL, champion)
        self.registry.set_alias(MODEL, "nightly", nightly)

    def publish_anew(self, contents: Sequence[str], champion: str, nightly: str) -> None:
        """Deletes the model, and publishes another under its name, whose versions 1, 2 and so on
        have the ``contents``."""
        self.registry.client.delete_registered_model(MODEL)
        self._publish(contents, champion, nightly)

    def start_mlflow(self) -> None:
        """Starts MLflow on its port, with what it had."""
        self._mlflow.enter_context(running_mlflow(self.folder / "mlflow", self._mlflow_port))

    def stop_mlflow(self) -> None:
        """An outage."""
        self._mlflow.close()

    def start_server(self) -> Server:
        """Starts the server on its ports, and returns once it is ready."""
        folder = self.folder / f"server-{len(self.logs)}"
        folder.mkdir()
        self.logs.append(folder / "server.log")
        self.server = self._server.enter_context(
            running_server(
                folder, "--model", f"{MODEL}={self.base}", "--dtype", "float32",
                "--registry", self.registry_url, "--poll-seconds", "0.2",
                "--cache-dir", self.cache, "--max-adapters", str(len(VERSIONS)),
                "--drain-seconds", "5", "--log-level", "WARNING", *self._worker_flags,
                ports=self._ports,
            )
        )  # fmt: skip
        return self.server

    def stop_server(self) -> None:
        """SIGTERM; fails unless the server ends well within its time and takes its worker along."""
        self._server.close()

    def kill_server(self) -> None:
        """SIGKILL; fails if a worker is left behind."""
        workers = self.server.workers
        self.server.process.kill()
        self.server.process.wait()
        self._server.close()
        wait_until(lambda: not any(map(is_running, workers)), HEAL_SECONDS)

    @contextlib.contextmanager
    def worker_elsewhere(self) -> Iterator[Callable[[], None]]:
        """Runs a worker by itself, as on another host, for servers that are started in the block.
        Gives what kills it and starts it again."""
        address = f"127.0.0.1:{free_ports(1)[0]}"
        log = self.folder / f"worker-{len(self.logs)}.log"
        self.logs.append(log)
        with contextlib.ExitStack() as worker:

            def start() -> None:
                worker.close()
                worker.enter_context(running_worker(self.base, address, log))

            start()
            self._worker_flags = ["--worker", f"{MODEL}={address}"]
            try:
                yield start
            finally:
                self._worker_flags = []

    def close(self) -> None:
        """Ends everything."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._mlflow.close)
            stack.callback(self._server.close)

    def signal_worker(self, number: signal.Signals) -> None:
        """Sends a signal to the worker, if there is one."""
        for pid in self.server.workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def aliases(self) -> dict[str, str]:
        """The version of each alias, as the server says."""
        return {
            alias: name for name, version in self._listed().items() for alias in version.aliases
        }

    def listed_spaces(self) -> dict[str, str]:
        """The space of each version, as the server says."""
        return {name: version.space for name, version in self._listed().items()}

    def wait_until_whole(self, versions: tuple[str, ...] = VERSIONS) -> None:
        """Until the server is ready and each of ``versions`` answers; fails if that takes longer
        than `HEAL_SECONDS`, with what was wrong last."""
        deadline = time.monotonic() + HEAL_SECONDS
        problem = "never asked"
        for version in versions:
            while problem := self._problem_of(version):
                if time.monotonic() > deadline:
                    raise AssertionError(f"version {version} does not answer again: {problem}")
                time.sleep(0.1)

    def _problem_of(self, version: str) -> str:
        """Why a version does not answer; empty if it does."""
        request = pb.EmbedRequest(inputs=[text("whole?")], options=options(MODEL, version))
        try:
            self.server.embedding.Embed(request, timeout=30)
        except grpc.RpcError as error:
            return f"{error.code().name} {error.details()}"
        return ""

    def _listed(self) -> dict[str, Any]:
        models = self.server.embedding.ListModels(pb.ListModelsRequest(), timeout=30).models
        return {version.version: version for version in models[0].versions}
