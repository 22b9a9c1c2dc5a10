"""One input's way through the front end: admission, preprocessing, queue, answer.

What the skins in front (gRPC, later HTTP) share; it knows messages but no transport.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.catalog import Catalog, Model, Version
from vlm2vec_service.errors import (
    AdapterError,
    DeadlineError,
    InvalidInputError,
    UnavailableError,
    Vlm2vecError,
)
from vlm2vec_service.frontend.parsing import check_dimensions, check_options, modality, parse_input
from vlm2vec_service.frontend.vectors import encode_vector
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.preprocess import Prepared, Preprocessor
from vlm2vec_service.scheduling.fair_queue import Done, Work
from vlm2vec_service.scheduling.scheduler import Scheduler
from vlm2vec_service.settings import Limits, ServerSettings
from vlm2vec_service.worker.supervisor import Worker


@dataclass
class Served:
    """A model with what serves it."""

    model: Model
    preprocessor: Preprocessor
    scheduler: Scheduler
    workers: list[Worker]

    @property
    def ready(self) -> bool:
        """Whether a worker has the base and its adapters."""
        return any(worker.ready for worker in self.workers)

    @property
    def dimension(self) -> int:
        """Components of a vector; 0 until a worker has said so."""
        return max((worker.dimension for worker in self.workers), default=0)


@dataclass(frozen=True)
class Caller:
    """Who asks, and until when an answer is of use (in the time of ``time.monotonic``)."""

    name: str
    deadline: float


@dataclass(frozen=True)
class Target:
    """What a request's options mean here and now."""

    served: Served
    version: Version
    options: pb.CallOptions

    @property
    def interactive(self) -> bool:
        """Whether somebody waits."""
        return bool(self.options.priority != pb.PRIORITY_BULK)

    @property
    def normalize(self) -> bool | None:
        """As the caller wants it; None leaves it to the adapter."""
        output = self.options.output
        return output.normalize if output.HasField("normalize") else None

    @property
    def unit(self) -> bool:
        """Whether vectors are to have length 1."""
        wanted = self.normalize
        return self.version.embedding.normalize if wanted is None else wanted


@dataclass
class Service:
    """Everything a request needs, built once by `server.build`."""

    catalog: Catalog
    served: dict[str, Served]
    settings: ServerSettings
    limits: Limits
    video_frames: int
    metrics: Metrics
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        threads = self.settings.preprocess_threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="preprocess")
        # Bulk work holds no more of the pool than it has threads, so a query never waits for more
        # than what is being decoded.
        self._bulk = asyncio.Semaphore(threads)

    @property
    def ready(self) -> bool:
        """Whether every model can be embedded with."""
        return not self.draining.is_set() and all(s.ready for s in self.served.values())

    def target(self, options: pb.CallOptions) -> Target:
        """Finds the model and version. Raises `NotFoundError`, `InvalidInputError`,
        `AdapterError` for a version that no worker could load, `UnavailableError` while starting."""
        check_options(options)
        ref = options.model
        model = self.catalog.model(ref.name)
        version = model.version(ref.alias, ref.version, ref.space)
        served = self.served[model.name]
        if not served.dimension:
            raise UnavailableError(f"model {model.name!r} is starting", retry_after=2.0)
        reasons = [w.failed_adapters[version.name] for w in served.workers
                   if version.name in w.failed_adapters]  # fmt: skip
        if reasons and len(reasons) == sum(worker.ready for worker in served.workers):
            raise AdapterError(f"version {version.name!r} could not be loaded: {reasons[0]}")
        if version.folder and not any(version.name in w.wanted for w in served.workers):
            raise AdapterError(f"version {version.name!r} is not loaded; preload it")
        check_dimensions(options.output, served.dimension)
        return Target(served, version, options)

    @contextlib.contextmanager
    def admitted(self, target: Target, caller: Caller, inputs: int = 1) -> Iterator[None]:
        """Places in the model's queue, until the block ends. Raises `ExhaustedError`."""
        scheduler = target.served.scheduler
        scheduler.admit(caller.deadline, inputs)
        try:
            yield
        finally:
            scheduler.release(inputs)

    async def room(self, target: Target) -> None:
        """Waits until the model's queue has room: a stream is read more slowly, not refused."""
        await target.served.scheduler.room()

    async def embed(
        self, message: pb.Input, target: Target, caller: Caller, field: str
    ) -> pb.Embedding:
        """The answer to one admitted input. Raises `Vlm2vecError`."""
        model, version = target.served.model.name, target.version.name
        self.metrics.modalities.labels(modality(message)).inc()
        code = 1  # CANCELLED, if neither an answer nor an error comes
        try:
            started = time.monotonic()
            prepared = await self._prepare(message, target, caller, field)
            preprocess = time.monotonic() - started
            done = await self._run(prepared, target, caller)
            code = 0
        except Exception as error:
            code = (error if isinstance(error, Vlm2vecError) else Vlm2vecError).grpc_code
            raise
        finally:
            self.metrics.inputs.labels(model, version, str(code)).inc()
        self.metrics.tokens.labels(model, version).inc(len(prepared))
        for stage, seconds in (
            ("preprocess", preprocess), ("queue", done.queue_seconds),
            ("inference", done.inference_seconds),
        ):  # fmt: skip
            self.metrics.stage.labels(model, stage).observe(seconds)
        return pb.Embedding(
            vector=encode_vector(done.vector, target.options.output, target.unit),
            model=model,
            version=version,
            space=target.version.space,
            tokens=len(prepared),
            timings=pb.Timings(
                preprocess_seconds=preprocess,
                queue_seconds=done.queue_seconds,
                inference_seconds=done.inference_seconds,
            ),
        )

    async def _prepare(
        self, message: pb.Input, target: Target, caller: Caller, field: str
    ) -> Prepared:
        def work() -> Prepared:
            if time.monotonic() >= caller.deadline:
                raise DeadlineError("the deadline passed before preprocessing")
            request = parse_input(message, self.limits, self.video_frames, field)
            try:
                return target.served.preprocessor.prepare(request, target.version.embedding)
            except InvalidInputError as error:
                raise InvalidInputError(f"{field}.{error.field}", error.problem) from error

        return await self._in_pool(work, target.interactive)

    async def _in_pool(self, work: Callable[[], Prepared], interactive: bool) -> Prepared:
        loop = asyncio.get_running_loop()
        if interactive:
            return await loop.run_in_executor(self._pool, work)
        async with self._bulk:
            return await loop.run_in_executor(self._pool, work)

    async def _run(self, prepared: Prepared, target: Target, caller: Caller) -> Done:
        folder = target.version.folder
        work = Work(
            prepared=prepared,
            adapter=target.version.name if folder else "",
            normalize=target.normalize,
            interactive=target.interactive,
            caller=caller.name,
            deadline=caller.deadline,
            future=asyncio.get_running_loop().create_future(),
        )
        timeout = caller.deadline - time.monotonic()
        try:
            async with asyncio.timeout(timeout if timeout < 1e9 else None):
                return await target.served.scheduler.run(work)
        except TimeoutError as error:
            raise DeadlineError("the deadline passed in the queue") from error
