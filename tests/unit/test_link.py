"""Pixels on their way to a worker: by a file where it can map one, in messages where it cannot."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import grpc
import numpy as np
import pytest

from tests.unit.test_codec import NOISE, prepared
from vlm2vec.worker.v1 import worker_pb2, worker_pb2_grpc
from vlm2vec_service.errors import InvalidInputError, ServeError, UnavailableError
from vlm2vec_service.preprocess.prepared import Media, Prepared
from vlm2vec_service.scheduling.batch import BatchInput
from vlm2vec_service.supervision.link import AT_ONCE_BYTES, Link, open_link
from vlm2vec_service.worker.codec import CHANNEL_OPTIONS, decode_batch
from vlm2vec_service.worker.pixel_file import UnmappedError
from vlm2vec_service.worker.servicer import Context, our_errors

FAULTS = {
    InvalidInputError: InvalidInputError("text", "too long"),
    UnavailableError: UnavailableError("gone"),
    ServeError: RuntimeError("broken"),
}


class Worker(worker_pb2_grpc.WorkerServiceServicer):
    """Answers with the sums of the pixels of each input, and ``refuses`` batches with a file."""

    def __init__(self, maps_files: bool = True) -> None:
        self.maps_files = maps_files
        self.by_file: list[bool] = []
        self.refuses: Exception | None = None
        self.began = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def GetStatus(
        self, request: worker_pb2.GetStatusRequest, context: object
    ) -> worker_pb2.GetStatusResponse:
        return worker_pb2.GetStatusResponse(maps_files=self.maps_files)

    @our_errors
    async def RunBatch(
        self, request: worker_pb2.RunBatchRequest, context: Context
    ) -> worker_pb2.RunBatchResponse:
        self.by_file.append(request.HasField("file"))
        self.began.set()
        await self.gate.wait()
        if self.refuses and self.by_file[-1]:
            raise self.refuses
        sums = [sum(int(one.values.sum()) for one in each.media) for each in decode_batch(request)]
        return worker_pb2.RunBatchResponse(vectors=np.array(sums, np.float32).tobytes())

    async def LoadAdapter(self, request: object, context: object) -> NoReturn:
        raise NotImplementedError

    async def UnloadAdapter(self, request: object, context: object) -> NoReturn:
        raise NotImplementedError


@contextlib.asynccontextmanager
async def linked(worker: Worker, address: str) -> AsyncIterator[Link]:
    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        async with open_link(address.replace(":0", f":{port}")) as link:
            await link.status()
            yield link
    finally:
        await server.stop(None)


def pictures(side: int, count: int = 2) -> Prepared:
    pixels = NOISE.integers(0, 2, (count, 1, side, side, 3), dtype=np.uint8)
    return prepared(9, *(Media.of("image", one, 1, 4) for one in pixels))


async def check(link: Link, *inputs: Prepared) -> None:
    """The worker sees the pixels of ``inputs``."""
    found = await link.run([BatchInput(one, "", None) for one in inputs], True, timeout=60)
    sums = [[sum(int(media.values.sum()) for media in one.media)] for one in inputs]
    assert found.vectors.tolist() == sums


def files() -> int:
    """How many pixel files this process has open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += "memfd:pixels" in os.readlink(f"/proc/self/fd/{name}")
    return found


SMALL, LARGE = pictures(28), pictures(300)
HUGE = pictures(1200)
assert sum(media.values.nbytes for media in HUGE.media) > AT_ONCE_BYTES


def test_a_worker_on_this_host_maps_what_is_large(tmp_path: Path) -> None:
    async def talk() -> None:
        worker, before = Worker(), files()
        async with linked(worker, f"unix:{tmp_path}/socket") as link:
            await check(link, SMALL, prepared(3))
            assert worker.by_file == [False]
            for batch in ([LARGE], [SMALL, LARGE, prepared(3)], [HUGE, SMALL], [LARGE]):
                await check(link, *batch)
            await asyncio.gather(*(check(link, one) for one in [LARGE, HUGE, pictures(400)]))
            assert worker.by_file[1:] == [True] * 7
            assert files() > before
        assert files() == before

    asyncio.run(talk())


@pytest.mark.parametrize("kind", ["another host", "an older release"])
def test_other_workers_get_pixels_in_messages(kind: str, tmp_path: Path) -> None:
    async def talk() -> None:
        worker = Worker(maps_files=kind == "another host")
        address = "127.0.0.1:0" if kind == "another host" else f"unix:{tmp_path}/socket"
        async with linked(worker, address) as link:
            await check(link, LARGE)
            assert worker.by_file == [False]

    asyncio.run(talk())


@pytest.mark.parametrize("where", ["worker", "front end"])
def test_where_no_file_can_be_shared_pixels_go_into_messages_from_then_on(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    async def talk() -> None:
        worker = Worker()
        if where == "worker":
            worker.refuses = UnmappedError("cannot open the file of pixels")
        else:
            monkeypatch.setattr(os, "memfd_create", refuse)
        async with linked(worker, f"unix:{tmp_path}/socket") as link:
            for _ in range(2):
                await check(link, LARGE)
            assert worker.by_file == [True] * (where == "worker") + [False] * 2

    asyncio.run(talk())


@pytest.mark.parametrize("error", FAULTS)
def test_a_batch_that_fails_is_not_sent_again_and_leaves_no_file(
    error: type[ServeError], tmp_path: Path
) -> None:
    async def talk() -> None:
        worker = Worker()
        worker.refuses = FAULTS[error]
        async with linked(worker, f"unix:{tmp_path}/socket") as link:
            before = files()
            with pytest.raises(error, match=r"too long|gone|broken"):
                await check(link, LARGE)
            assert (worker.by_file, files()) == ([True], before)
            worker.refuses = None
            await check(link, LARGE)
            assert worker.by_file == [True, True]

    asyncio.run(talk())


def test_a_batch_that_is_given_up_leaves_no_file(tmp_path: Path) -> None:
    async def talk() -> None:
        worker = Worker()
        worker.gate.clear()
        async with linked(worker, f"unix:{tmp_path}/socket") as link:
            before = files()
            batch = asyncio.create_task(check(link, LARGE))
            await worker.began.wait()
            assert files() > before
            batch.cancel()
            with pytest.raises(asyncio.CancelledError):
                await batch
            assert files() == before

    asyncio.run(talk())
