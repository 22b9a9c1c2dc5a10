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
from vlm2vec_registry.store import CHAMPION, SHADOW
from vlm2vec_service.errors import (
    AdapterError,
    Code,
    DeadlineError,
    InvalidInputError,
    ServeError,
    UnavailableError,
)
from vlm2vec_service.frontend.auth.identity import ANYONE, Identity
from vlm2vec_service.frontend.auth.quota import UNLIMITED, Quota
from vlm2vec_service.frontend.vectors import encode_vector
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.preprocess import Prepared, Preprocessor
from vlm2vec_service.preprocess.messages import (
    check_dimensions,
    check_options,
    modality,
    parse_input,
)
from vlm2vec_service.scheduling.fair_queue import Done, Work
from vlm2vec_service.scheduling.scheduler import Scheduler
from vlm2vec_service.settings import Limits, ServerSettings
from vlm2vec_service.supervision.process import Worker
from vlm2vec_service.versions.catalog import Catalog, Model, Version
from vlm2vec_service.versions.follower import Follower
from vlm2vec_service.versions.loader import Loader
from vlm2vec_service.versions.shadow import PATIENCE, Shadow


@dataclass
class Served:
    """A model with what serves it. ``rollout`` is None where no registry is followed."""

    model: Model
    preprocessor: Preprocessor
    scheduler: Scheduler
    workers: list[Worker]
    loader: Loader
    shadow: Shadow
    follower: Follower | None = None

    @property
    def ready(self) -> bool:
        """Whether a worker has the base and its adapters, and it is known which one answers."""
        return CHAMPION in self.model.aliases and any(worker.ready for worker in self.workers)

    @property
    def dimension(self) -> int:
        """Components of a vector; 0 until a worker has said so."""
        return max((worker.dimension for worker in self.workers), default=0)


@dataclass(frozen=True)
class Caller:
    """Who asks, and until when an answer is of use (in the time of ``time.monotonic``). One that
    streams waits where its quota is spent."""

    name: str
    deadline: float
    identity: Identity = ANYONE
    quota: Quota = UNLIMITED
    streams: bool = False

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline; None for one that lies too far ahead for a timer."""
        seconds = self.deadline - time.monotonic()
        return seconds if seconds < 1e9 else None

    async def pay(self, tokens: int) -> None:
        """Takes what an input costs from the quota. Raises `DeadlineError`."""
        if self.quota is UNLIMITED:
            return
        try:
            async with asyncio.timeout(self.remaining):
                await self.quota.pay(tokens, self.streams)
        except TimeoutError as error:
            raise DeadlineError("the deadline passed while the token quota was spent") from error


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
class Pipeline:
    """Everything a request needs, built once by `server.build`."""

    catalog: Catalog
    served: dict[str, Served]
    settings: ServerSettings
    limits: Limits
    video_frames: int
    metrics: Metrics
    read_only: bool = False
    """Whether callers may not load and unload adapters."""
    webhook_secret_file: str = ""
    """Where the secret of the registry's webhooks is; empty takes none."""
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

    async def target(self, options: pb.CallOptions, caller: Caller) -> Target:
        """Finds the model and version, and loads the version if it is not loaded.

        A call without a routing key is routed by its caller, who so never gets two spaces mixed
        while a canary has its share. Raises `ForbiddenError` for a model that is not the caller's,
        `NotFoundError`, `InvalidInputError`, `AdapterError` for a version that cannot be loaded,
        `DeadlineError`, and `UnavailableError` while starting.
        """
        check_options(options)
        ref = options.model
        if ref.name:  # before anything is said about it
            caller.identity.check_model(ref.name)
        model = self.catalog.model(ref.name)
        caller.identity.check_model(model.name)
        served = self.served[model.name]
        if not served.dimension:
            raise UnavailableError(f"model {model.name!r} is starting", retry_after=2.0)
        key = options.routing_key or caller.name
        version = model.choose(ref.alias, ref.version, ref.space, key)
        try:
            async with asyncio.timeout(caller.remaining):
                await served.loader.ensure(version)
        except TimeoutError as error:
            raise DeadlineError(f"the deadline passed, version {version.name!r} loads") from error
        reasons = [w.failed_adapters[version.name] for w in served.workers
                   if version.name in w.failed_adapters]  # fmt: skip
        if reasons and len(reasons) == sum(worker.ready for worker in served.workers):
            raise AdapterError(f"version {version.name!r} could not be loaded: {reasons[0]}")
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
        """The answer to one admitted input. Raises `ServeError`."""
        model, version = target.served.model.name, target.version.name
        self.metrics.modalities.labels(modality(message)).inc()
        code = Code.CANCELLED  # if neither an answer nor an error comes
        try:
            started = time.monotonic()
            prepared = await self._prepare(message, target, caller, field)
            preprocess = time.monotonic() - started
            await caller.pay(len(prepared))
            async with target.served.loader.using(target.version):
                done = await self._run(prepared, target, caller)
            code = Code.OK
        except Exception as error:
            code = (error if isinstance(error, ServeError) else ServeError).code
            raise
        finally:
            self.metrics.inputs.labels(model, version, code.name).inc()
        self._shadow(message, prepared, target, done)
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

    def _shadow(self, message: pb.Input, prepared: Prepared, target: Target, done: Done) -> None:
        """Lets the model's shadow compute what its champion just has."""
        served, model = target.served, target.served.model
        shadow = model.versions.get(model.aliases.get(SHADOW, ""))
        if shadow is None or target.version.name != model.aliases.get(CHAMPION):
            return
        other = shadow

        async def prepare() -> Prepared:
            if other.embedding == target.version.embedding:
                return prepared
            caller = Caller("", time.monotonic() + PATIENCE)
            bulk = pb.CallOptions(priority=pb.PRIORITY_BULK)
            return await self._prepare(message, Target(served, other, bulk), caller, "input")

        served.shadow.offer(target.version, other, done.vector, prepare)

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
        work = Work(
            prepared=prepared,
            adapter="" if target.version.is_base else target.version.name,
            normalize=target.normalize,
            interactive=target.interactive,
            caller=caller.name,
            deadline=caller.deadline,
            future=asyncio.get_running_loop().create_future(),
        )
        try:
            async with asyncio.timeout(caller.remaining):
                return await target.served.scheduler.run(work)
        except TimeoutError as error:
            raise DeadlineError("the deadline passed in the queue") from error
