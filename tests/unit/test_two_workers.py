"""A version that one of two workers refuses: admission, readiness and AdapterService agree."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from tests.unit.scripted_worker import ScriptedWorker
from tests.unit.tiny_adapter import write_adapter
from vlm2vec.v1 import adapters_pb2, embedding_pb2
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.errors import AdapterError
from vlm2vec_service.frontend import calls
from vlm2vec_service.frontend.access import Call, current
from vlm2vec_service.frontend.grpc.adapters import AdapterServicer
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.frontend.request import Caller
from vlm2vec_service.frontend.served import Served
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.preprocess import Prepared, Request
from vlm2vec_service.preprocess.sampling import FrameCount
from vlm2vec_service.scheduling.scheduler import Scheduler
from vlm2vec_service.settings import Limits, RegistrySettings, ServerSettings
from vlm2vec_service.supervision.process import Worker
from vlm2vec_service.versions.catalog import BASE_VERSION, Catalog, ServedModel, read_version
from vlm2vec_service.versions.fetching import VersionFiles
from vlm2vec_service.versions.loader import Loader
from vlm2vec_service.versions.residency import Residency
from vlm2vec_service.versions.shadow import Shadow

LOADED, FAILED = adapters_pb2.ADAPTER_STATE_LOADED, adapters_pb2.ADAPTER_STATE_FAILED


class FirstByte:
    """A preprocessor whose one token is the text's first byte."""

    def sampling(self, embedding: EmbeddingConfig, frames: int) -> FrameCount:
        return FrameCount(frames)

    def prepare(self, request: Request, embedding: EmbeddingConfig) -> Prepared:
        token = ("".join(request.texts) or "\0").encode()[0]
        return Prepared(np.array([token], np.int32), np.zeros((3, 1), np.int32))


class TwoWorkers:
    """A model m with the champion 1, on two workers, as the front end has it."""

    def __init__(self, folder: Path) -> None:
        adapter = write_adapter(folder)
        (adapter / "embedding.json").write_text('{"normalize": false}')
        champion = read_version("1", adapter, b"")
        base = read_version(BASE_VERSION, None, b"")
        versions = {BASE_VERSION: base, "1": champion}
        model = ServedModel("m", folder, "toy", b"", versions, {"champion": champion})
        self.workers = [ScriptedWorker(name="first"), ScriptedWorker(name="second")]
        metrics = Metrics(CollectorRegistry())
        scheduler = Scheduler("m", 100, 100, metrics)
        self.lanes = [scheduler.add_worker(worker) for worker in self.workers]
        self.residency = Residency(model, self.workers)
        files, settings = VersionFiles(b""), RegistrySettings()
        loader = Loader(self.residency, files, self.workers, FirstByte(), settings, metrics)
        served = Served(
            FirstByte(), scheduler, cast(list[Worker], self.workers), self.residency, loader,
            Shadow("m", scheduler, metrics),
        )  # fmt: skip
        self.pipeline = Pipeline(
            Catalog({"m": model}), {"m": served}, ServerSettings(), Limits(), 8, metrics
        )
        current.set(Call("Embed", "unix:", "id"))

    async def embed(self, text: str) -> float:
        """The vector's only component: what the worker has for the text's first byte."""
        message = embedding_pb2.Input(parts=[embedding_pb2.Part(text=text)])
        request = embedding_pb2.EmbedRequest(inputs=[message])
        caller = Caller.of_current_call(time.monotonic() + 60)
        (embedding,) = (
            await calls.embed(self.pipeline, request.inputs, request.options, caller)
        ).embeddings
        return float(np.frombuffer(embedding.vector.data, "<f4")[0])

    async def described(self) -> adapters_pb2.Adapter:
        """What AdapterService says of the champion."""
        request = adapters_pb2.DescribeAdapterRequest(model="m", version="1")
        context = cast(Any, None)
        return (await AdapterServicer(self.pipeline).DescribeAdapter(request, context)).adapter

    def listed_ready(self) -> bool:
        """What ListModels says of the model."""
        (model,) = calls.list_models(self.pipeline, Caller.of_current_call(0.0)).models
        return bool(model.ready)


def run(folder: Path, check: Callable[[TwoWorkers], Coroutine[Any, Any, None]]) -> None:
    async def scene() -> None:
        async with asyncio.timeout(10):
            await check(TwoWorkers(folder))

    asyncio.run(scene())


def test_the_other_answers_and_everybody_says_so(tmp_path: Path) -> None:
    async def check(two: TwoWorkers) -> None:
        first, second = two.workers
        first.unloadable.add("1")
        answers = await asyncio.gather(*(two.embed(chr(65 + i)) for i in range(20)))
        assert answers == [65.0 + i for i in range(20)]
        assert first.batches == []
        assert sorted(number for batch in second.batches[1:] for number in batch) == answers
        adapter = await two.described()
        assert (adapter.state, adapter.reason) == (LOADED, "worker first: no")
        assert all(two.pipeline.ready.values())
        assert two.listed_ready()

    run(tmp_path, check)


def test_when_the_other_is_gone_nobody_says_that_it_is_there(tmp_path: Path) -> None:
    async def check(two: TwoWorkers) -> None:
        first, second = two.workers
        first.unloadable.add("1")
        await two.embed("A")
        second.ready = False
        adapter = await two.described()
        assert (adapter.state, adapter.reason) == (FAILED, "no")
        assert not any(two.pipeline.ready.values())
        assert not two.listed_ready()
        with pytest.raises(AdapterError, match="version '1' could not be loaded: no"):
            await two.embed("A")
        second.ready = True
        two.lanes[1].wake.set()
        assert await two.embed("B") == 66.0
        assert all(two.pipeline.ready.values())

    run(tmp_path, check)


def test_what_both_refuse_is_failed_everywhere(tmp_path: Path) -> None:
    async def check(two: TwoWorkers) -> None:
        for worker in two.workers:
            worker.unloadable.add("1")
        with pytest.raises(AdapterError, match="version '1' could not be loaded: no"):
            await two.embed("A")
        adapter = await two.described()
        assert (adapter.state, adapter.reason) == (FAILED, "no")
        assert not any(two.pipeline.ready.values())
        assert not two.listed_ready()

    run(tmp_path, check)
