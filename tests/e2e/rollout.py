"""A server that follows MLflow, and traffic whose every answer is checked."""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import grpc

from tests.e2e.cases import Golden, case_inputs, cosine, unpack
from tests.e2e.mlflow_server import Mlflow
from tests.e2e.server import Server, wait_until
from vlm2vec.v1 import adapters_pb2
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_registry import traffic
from vlm2vec_registry.snapshot import PublishedVersion
from vlm2vec_registry.store import Registry

MODEL = "qwen"
ADAPTERS = {"1": "lora", "2": "dora", "3": "base"}
"""The parity adapter behind each version; the last one is the base itself."""
CASES = ("text", "text-long", "image")
"""The parity cases that the traffic is made of."""
FAILED = adapters_pb2.ADAPTER_STATE_FAILED


@dataclass
class Rollout:
    """An MLflow server, its registry, and a server that follows it."""

    mlflow: Mlflow
    registry: Registry
    server: Server
    flags: list[str]
    versions: dict[str, PublishedVersion]

    def champion(self) -> str:
        """The version that the server says is champion."""
        return next((v for v, aliases in self.aliases().items() if "champion" in aliases), "")

    def aliases(self) -> dict[str, list[str]]:
        """Aliases of every version, as the server says."""
        (model,) = self.server.embedding.ListModels(pb.ListModelsRequest()).models
        return {version.version: list(version.aliases) for version in model.versions}

    def promote(self, version: str) -> None:
        """Makes a version the champion, and waits until the server has followed."""
        traffic.promote(self.registry, MODEL, version)
        wait_until(lambda: self.champion() == version, pause=0.01)

    def describe(self, version: str) -> adapters_pb2.Adapter:
        """What AdapterService says of a version."""
        request = adapters_pb2.DescribeAdapterRequest(model=MODEL, version=version)
        return self.server.adapters.DescribeAdapter(request).adapter

    def has_failed(self, version: str) -> bool:
        """Whether a version could not be loaded."""
        return self.describe(version).state == FAILED


class Traffic:
    """A stream of requests until it is told to end; checks every answer against the golden one."""

    def __init__(self, rollout: Rollout, golden: Golden, options: pb.CallOptions) -> None:
        self.rollout, self.golden, self.options = rollout, golden, options
        self.answers: Counter[str] = Counter()
        self.errors: list[Any] = []
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._room = threading.Semaphore(128)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self.total or self.errors)
        return self

    def __exit__(self, *error: object) -> None:
        self._enough.set()
        self._thread.join()

    @property
    def total(self) -> int:
        return sum(self.answers.values())

    def reach(self, count: int) -> None:
        """Waits for so many answers."""
        wait_until(lambda: self.total >= count or self.errors, 250)

    def _requests(self) -> Iterator[pb.EmbedStreamRequest]:
        inputs, number = case_inputs("qwen"), 0
        while not self._enough.is_set():
            self._room.acquire()
            case = CASES[number % len(CASES)] if number % 64 == 0 else "text"
            options = pb.CallOptions()
            options.CopyFrom(self.options)
            options.routing_key = str(number)
            yield pb.EmbedStreamRequest(id=f"{number}/{case}", options=options, input=inputs[case])
            number += 1

    def _run(self) -> None:
        try:
            for answer in self.rollout.server.embedding.EmbedStream(self._requests()):
                self._room.release()
                self._check(answer)
        except grpc.RpcError as error:
            self.errors.append(error)

    def _check(self, answer: pb.EmbedStreamResponse) -> None:
        if answer.HasField("error"):
            self.errors.append(answer.error)
            return
        embedding, case = answer.embedding, answer.id.partition("/")[2]
        version = self.rollout.versions[embedding.version]
        key = f"qwen2_vl/{ADAPTERS[version.name]}/{case}"
        if embedding.space != version.space:
            self.errors.append(f"{answer.id}: version {version.name}, space {embedding.space}")
        if cosine(unpack(embedding.vector), self.golden[key]) < 0.9999:
            self.errors.append(f"{answer.id}: not the vector of version {version.name}")
        self.answers[version.name] += 1
