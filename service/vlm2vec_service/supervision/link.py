"""The connection to one worker, which speaks its gRPC and raises our own errors."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import grpc

from vlm2vec.worker.v1 import worker_pb2, worker_pb2_grpc
from vlm2vec_registry import artifact
from vlm2vec_service import tracing
from vlm2vec_service.errors import (
    AdapterError,
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    ServeError,
    WorkerLostError,
)
from vlm2vec_service.scheduling.batch import PATHS, BatchInput, BatchResult
from vlm2vec_service.worker.codec import CHANNEL_OPTIONS, decode_vectors, encode_batch
from vlm2vec_service.worker.pixel_file import PixelFiles, UnmappedError, aligned

log = logging.getLogger(__name__)

MAPPED_FROM = 1 << 16
"""Bytes of pixels from which a file costs less than the way through a socket."""
AT_ONCE_BYTES = 1 << 22
"""So many bytes of pixels the event loop itself writes: to hand them to a thread takes as long."""
CLIENT_OPTIONS = (*CHANNEL_OPTIONS, ("grpc.max_reconnect_backoff_ms", 200))
"""By default a worker that got ready would go unnoticed for seconds."""
RUN_BATCH = f"/{worker_pb2.DESCRIPTOR.services_by_name['WorkerService'].full_name}/RunBatch"


@dataclass(frozen=True)
class WorkerStatus:
    """What a worker says of itself: tokens of a batch, components of a vector, the name of its
    device, the adapters it holds, and of the base it runs the digest of its files (empty if it does
    not say), the type of its weights, and the version of the engine's arithmetic."""

    token_budget: int
    dimension: int
    device: str
    adapters: frozenset[str]
    base_digest: bytes = b""
    dtype: str = ""
    arithmetic: int = 0


class Link:
    """Calls to the worker at ``address``. ``holder`` is what this front end goes by where others
    use the worker, too. Every call raises `WorkerLostError` where the worker is gone.

    A worker on this host maps pixels, one that cannot gets them in its messages.
    """

    def __init__(self, channel: grpc.aio.Channel, address: str, holder: str = "") -> None:
        self._address = address
        self._holder = holder
        self._process = 0
        self.files = PixelFiles()
        self._maps_files = False
        self._stub: worker_pb2_grpc.WorkerServiceAsyncStub
        self._stub = worker_pb2_grpc.WorkerServiceStub(channel)
        self._run_batch: grpc.aio.UnaryUnaryMultiCallable[bytes, worker_pb2.RunBatchResponse]
        self._run_batch = channel.unary_unary(
            RUN_BATCH, None, worker_pb2.RunBatchResponse.FromString
        )

    async def status(self, timeout: float | None = None) -> WorkerStatus:
        """Asks the worker what it is and holds. With a ``timeout``, in seconds, it has to answer by
        then, or `DeadlineError` is raised; without one this waits until the worker is there."""
        with _our_errors():
            status = await self._stub.GetStatus(
                worker_pb2.GetStatusRequest(holder=self._holder),
                wait_for_ready=timeout is None,
                timeout=timeout,
            )
        if not self._process:
            self._process = _listener(self._address)
            self._maps_files = bool(self._process) and status.maps_files
        return WorkerStatus(
            status.token_budget,
            status.dimension,
            status.device,
            frozenset(status.adapters),
            status.base_digest,
            status.dtype,
            status.arithmetic,
        )

    def kill(self) -> None:
        """Kills the process that gave its `status`, if it is known: one that listens on a socket of
        this host."""
        if self._process:
            with contextlib.suppress(OSError):  # it is gone, or not ours to kill
                os.kill(self._process, signal.SIGKILL)

    async def run(
        self,
        inputs: Sequence[BatchInput],
        interactive: bool,
        callers: Mapping[str, int] = MappingProxyType({}),
        begun: Callable[[], None] = lambda: None,
        timeout: float | None = None,
    ) -> BatchResult:
        """Runs a batch of so many tokens by caller; calls ``begun`` when the device begins with it,
        unless it has ended by then. Raises `DeadlineError` after ``timeout`` seconds,
        `InvalidInputError` where the device's memory does not hold an input, `NotFoundError` for an
        adapter that is not loaded, and `ServeError` for any other fault of the worker."""
        rest = worker_pb2.RunBatchRequest(interactive=interactive, caller_tokens=callers)
        encode = functools.partial(
            encode_batch, rest, [(one.prepared, one.adapter, one.normalize) for one in inputs]
        )
        nbytes = sum(aligned(one.values.nbytes) for each in inputs for one in each.prepared.media)
        response = None
        if self._maps_files and nbytes >= MAPPED_FROM:
            try:
                with self.files.lent(nbytes) as file:
                    if nbytes <= AT_ONCE_BYTES:
                        request = encode(file)
                    else:
                        request = await asyncio.to_thread(encode, file)
                    response = await self._answer(request, begun, timeout)
            except UnmappedError as error:
                log.warning("worker %s gets pixels in its messages: %s", self._address, error)
                self._maps_files = False
        if response is None:
            response = await self._answer(encode(), begun, timeout)
        return BatchResult(
            decode_vectors(response, len(inputs)),
            response.inference_seconds,
            response.cache_hits,
            response.cache_misses,
            response.device_memory_bytes,
            response.device_memory_total_bytes,
            response.merged_adapters,
            response.merged_bytes,
            {path: getattr(response, f"{path}_tokens") for path in PATHS},
        )

    async def _answer(
        self, request: bytes, begun: Callable[[], None], timeout: float | None
    ) -> worker_pb2.RunBatchResponse:
        with _our_errors():
            call = self._run_batch(request, timeout=timeout)
            try:
                await call.initial_metadata()
                if not call.done():
                    begun()
                return await call
            except asyncio.CancelledError:
                call.cancel()
                raise

    async def load_adapter(self, name: str, folder: Path, with_files: bool, timeout: float) -> None:
        """Has the worker load the PEFT folder ``folder`` as ``name``; ``with_files`` sends it the
        files, for a worker that does not see this host's disk. Raises `AdapterError` with the
        worker's reason if it refuses, and `DeadlineError` after ``timeout`` seconds."""
        request = await asyncio.to_thread(_load_request, name, folder, with_files)
        request.holder = self._holder
        with _our_errors():
            await self._stub.LoadAdapter(request, timeout=timeout)

    async def unload_adapter(self, name: str) -> None:
        """Has the worker forget an adapter, once no other front end wants it. Raises
        `NotFoundError` if it does not have it."""
        request = worker_pb2.UnloadAdapterRequest(name=name, holder=self._holder)
        with _our_errors():
            await self._stub.UnloadAdapter(request)


@contextlib.asynccontextmanager
async def open_link(address: str, holder: str = "") -> AsyncIterator[Link]:
    """Gives the link to the worker at ``address``, ``unix:PATH`` or HOST:PORT, for the front end
    ``holder``; the worker does not have to be there yet."""
    async with grpc.aio.insecure_channel(
        address, options=CLIENT_OPTIONS, interceptors=tracing.channel_interceptors()
    ) as channel:
        link = Link(channel, address, holder)
        try:
            yield link
        finally:
            link.files.close()


def _listener(address: str) -> int:
    """The id of the process that listens on ``unix:PATH``; 0 where the system does not say, and for
    any other address."""
    scheme, _, path = address.partition(":")
    credentials = getattr(socket, "SO_PEERCRED", None)  # Linux has it
    if scheme != "unix" or credentials is None:
        return 0
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)  # full of others who connect, it may be asked later
        asking.connect(path)
        process, _, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, credentials, 12))
        return int(process)
    return 0


def _load_request(name: str, folder: Path, with_files: bool) -> worker_pb2.LoadAdapterRequest:
    if not with_files:
        return worker_pb2.LoadAdapterRequest(name=name, folder=str(folder))
    # What is missing is for the worker to say.
    paths = (folder / file for file in artifact.FILES)
    files = {path.name: path.read_bytes() for path in paths if path.is_file()}
    return worker_pb2.LoadAdapterRequest(name=name, folder=str(folder), files=files)


@contextlib.contextmanager
def _our_errors() -> Iterator[None]:
    """Turns gRPC's errors into ours. When a channel is closed, gRPC cancels whoever awaits a call
    on it, who would take that for the end of its own task."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise WorkerLostError("the worker is gone") from error
    except grpc.aio.UsageError as error:  # the channel was closed before the call began
        raise WorkerLostError("the worker is gone") from error
    except grpc.aio.AioRpcError as error:
        raise _ours(error.code(), error.details() or error.code().name) from error


def _ours(code: grpc.StatusCode, details: str) -> ServeError:
    match code:
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return WorkerLostError(details)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineError(details)
        case grpc.StatusCode.INVALID_ARGUMENT:
            return InvalidInputError("input", details)
        case grpc.StatusCode.NOT_FOUND:
            return NotFoundError(details)
        case grpc.StatusCode.FAILED_PRECONDITION:
            return AdapterError(details)
        case grpc.StatusCode.UNIMPLEMENTED:
            return UnmappedError(details)
    return ServeError(f"the worker failed: {details}")
