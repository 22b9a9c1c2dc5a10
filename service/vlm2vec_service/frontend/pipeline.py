"""An input's way through the front end: route, admission, preprocessing, queue, answer.

What the transports in front (gRPC, HTTP) share: it knows messages but no transport, and `answer` is
all that they call.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_registry.snapshot import CHAMPION, SHADOW
from vlm2vec_service.errors import (
    AdapterError,
    Code,
    DeadlineError,
    InvalidInputError,
    ServeError,
    UnavailableError,
)
from vlm2vec_service.frontend.access import current
from vlm2vec_service.frontend.holding import ByteBudget, Holding
from vlm2vec_service.frontend.limits import check_dimensions, check_options, check_parts
from vlm2vec_service.frontend.request import Answer, Caller, Route
from vlm2vec_service.frontend.served import Served
from vlm2vec_service.frontend.threads import Threads
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.preprocess import Prepared
from vlm2vec_service.preprocess.messages import modality, parse_input
from vlm2vec_service.preprocess.prepared import most_bytes
from vlm2vec_service.preprocess.stop import Stop
from vlm2vec_service.processes.member import Member
from vlm2vec_service.processes.siblings import Siblings
from vlm2vec_service.scheduling.batch import BatchInput
from vlm2vec_service.scheduling.fair_queue import Embedded, Flow, QueuedInput
from vlm2vec_service.settings import Limits, ServerSettings
from vlm2vec_service.versions.catalog import Catalog, Version
from vlm2vec_service.versions.residency import State
from vlm2vec_service.versions.shadow import PATIENCE

SHORT_BYTES = 16_384
"""An input of text that has no more than these bytes never waits for a picture to be decoded."""
COMPONENT_BYTES = 32
"""About what a component of a vector takes until it is sent: as float32, in a message, in JSON."""


@dataclass
class Pipeline:
    """Everything that a request needs, built once by `build.build`."""

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
    member: Member | None = None
    """Which of several front-end processes this is; None where it is the only one."""
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    received: ByteBudget = field(init=False)
    """The bytes of requests, from when they come until they are answered."""
    prepared: ByteBudget = field(init=False)
    """The bytes of tokens and pixels, from before they are made until their vectors are there."""

    def __post_init__(self) -> None:
        settings = self.settings
        self.siblings = Siblings(self.member.others) if self.member else None
        self.received = ByteBudget("max_received_bytes", settings.max_received_bytes)
        self.prepared = ByteBudget("max_prepared_bytes", settings.max_prepared_bytes)
        for budget in (self.received, self.prepared):
            held = self.metrics.held_bytes.labels(budget.setting.removeprefix("max_"))
            held.set_function(functools.partial(getattr, budget, "taken"))
        self._threads = {
            kind: Threads(kind, settings.preprocess_threads) for kind in ("text", "media")
        }
        for kind, threads in self._threads.items():
            running = self.metrics.preprocess_running.labels(kind)
            running.set_function(functools.partial(getattr, threads, "taken"))
            waiting = self.metrics.preprocess_waiting.labels(kind)
            waiting.set_function(functools.partial(getattr, threads, "waiting"))

    @property
    def ready(self) -> bool:
        """Whether every model can be embedded with."""
        return not self.draining.is_set() and all(
            served.residency.ready for served in self.served.values()
        )

    async def answer(
        self, inputs: Mapping[str, pb.Input], options: pb.CallOptions, caller: Caller
    ) -> list[Answer]:
        """Embeds ``inputs``, each under the name of its field in the caller's message, a window
        of them at a time.

        The answers are in order; the first error cancels the others, and is raised: any
        `ServeError`.
        """
        route = await self._route(options, caller)
        window = min(len(inputs), self.settings.stream_window)
        async with self._admitted(route, caller, window):
            if len(inputs) == 1:
                ((field, message),) = inputs.items()
                return [await self._embed(message, route, caller, field)]
            answered = len(inputs) * route.served.dimension * COMPONENT_BYTES
            current.get().hold(answered, "inputs")
            answers: dict[str, Answer] = {}
            unread = iter(inputs.items())

            async def embed_next() -> None:
                for field, message in unread:
                    answers[field] = await self._embed(message, route, caller, field)

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(window):
                        group.create_task(embed_next())
            except ExceptionGroup as errors:
                # The others only say that they were cancelled.
                raise errors.exceptions[0] from None
            return [answers[field] for field in inputs]

    async def _route(self, options: pb.CallOptions, caller: Caller) -> Route:
        """Finds the model and version, and loads the version if it is not loaded.

        A call without a routing key is routed by its caller, who so never gets two spaces mixed
        while a canary has its share. Raises `ForbiddenError` for a model that is not the caller's,
        `NotFoundError`, `InvalidInputError`, `AdapterError` for a version that cannot be loaded,
        `DeadlineError`, and `UnavailableError` while starting.
        """
        check_options(options, self.limits.max_tokens)
        ref = options.model
        if ref.name:  # before anything is said about it
            caller.identity.check_model(ref.name)
        model = self.catalog.model(ref.name)
        caller.identity.check_model(model.name)
        served = self.served[model.name]
        if not served.dimension:
            raise UnavailableError(f"model {model.name!r} is starting", retry_after=2.0)
        key = options.routing_key or caller.name
        if ref.space:
            version = await self._in_space(served, ref.space, caller)
        else:
            version = model.choose(ref.alias, ref.version, "", key)
            await self._loaded(served, version, caller)
        check_dimensions(options.output, served.dimension, version.config.dimensions)
        return Route(served, version, options)

    async def _in_space(self, served: Served, space: str, caller: Caller) -> Version:
        """The version that makes vectors of ``space``. What the registry says of a version is found
        out to be wrong when it is loaded: then another that is said to make them is as good."""
        *others, last = served.model.in_space(space)
        for version in others:
            with contextlib.suppress(AdapterError):
                await self._loaded(served, version, caller)
                return version
        await self._loaded(served, last, caller)
        return last

    async def _loaded(self, served: Served, version: Version, caller: Caller) -> None:
        try:
            async with asyncio.timeout(caller.remaining):
                await served.loader.ensure(version)
        except TimeoutError as error:
            raise DeadlineError(f"the deadline passed, version {version.name!r} loads") from error
        found = served.residency.state(version)
        if found.state is State.FAILED:
            raise AdapterError(f"version {version.name!r} could not be loaded: {found.reason}")

    @contextlib.asynccontextmanager
    async def _admitted(self, route: Route, caller: Caller, inputs: int) -> AsyncIterator[None]:
        """Places in the model's queue, until the block ends. A stream waits for them, any other
        caller gets `ExhaustedError` where there are none; both `DeadlineError`."""
        scheduler, flow = route.served.scheduler, Flow(caller.name, route.interactive)
        if caller.streams:
            try:
                async with asyncio.timeout(caller.remaining):
                    await scheduler.wait_for_place(flow, inputs)
            except TimeoutError as error:
                raise DeadlineError("the deadline passed before the queue had a place") from error
        else:
            scheduler.admit(flow, caller.deadline, inputs)
        try:
            yield
        finally:
            scheduler.release(flow, inputs)

    async def _embed(self, message: pb.Input, route: Route, caller: Caller, field: str) -> Answer:
        """One admitted input. Raises `ServeError`."""
        model, version = route.served.model.name, route.version.name
        check_parts(message, self.limits.max_parts, field)
        self.metrics.modalities.labels(modality(message)).inc()
        code = Code.CANCELLED  # if neither an answer nor an error comes
        held = Holding(self.prepared, Flow(caller.name, route.interactive))
        try:
            started = time.monotonic()
            await self._wait_for_memory(held, message, caller)
            prepared = await self._prepare(message, route, caller, field)
            self.prepared.check(prepared.nbytes, field)
            held.keep(prepared.nbytes)
            preprocess = time.monotonic() - started
            await caller.pay(len(prepared))
            async with route.served.loader.using(route.version):
                embedded = await self._run(prepared, route, caller)
            code = Code.OK
        except Exception as error:
            code = (error if isinstance(error, ServeError) else ServeError).code
            raise
        finally:
            held.release()
            self.metrics.inputs.labels(model, version, code.name).inc()
        self._shadow(message, prepared, route, embedded)
        self.metrics.tokens.labels(model, version).inc(len(prepared))
        answer = Answer(
            route, embedded.vector, len(prepared), prepared.truncated, preprocess,
            embedded.queue_seconds, embedded.inference_seconds,
        )  # fmt: skip
        self.metrics.stage.labels(model, "queue").observe(answer.queue_seconds)
        self.metrics.stage.labels(model, "inference").observe(answer.inference_seconds)
        return answer

    def _most_bytes(self, message: pb.Input) -> int:
        """The most that ``message`` takes once it is prepared, as far as there may be room."""
        most = most_bytes(self.limits.max_tokens, modality(message) != "text")
        return min(most, self.prepared.most // 2)

    async def _wait_for_memory(self, held: Holding, message: pb.Input, caller: Caller) -> None:
        """Waits until there is room for whatever ``message`` becomes. Raises `DeadlineError`."""
        try:
            async with asyncio.timeout(caller.remaining):
                await held.wait(self._most_bytes(message))
        except TimeoutError as error:
            raise DeadlineError("the deadline passed before there was memory for it") from error

    def _shadow(
        self, message: pb.Input, prepared: Prepared, route: Route, embedded: Embedded
    ) -> None:
        """Lets the model's shadow compute what its champion just has."""
        served, model = route.served, route.served.model
        champion, shadow = (model.aliases.get(alias) for alias in (CHAMPION, SHADOW))
        if shadow is None or champion is None or route.version.key != champion.key:
            return

        same = shadow.config == route.version.config
        copy = Holding(self.prepared, Flow("", False))
        try:
            copy.take(prepared.nbytes if same else self._most_bytes(message), "input")
        except ServeError:
            self.metrics.shadow_dropped.labels(model.name).inc()
            return

        async def prepare(other: Version = shadow) -> Prepared:
            if same:
                return prepared
            caller = Caller("", time.monotonic() + PATIENCE)
            bulk = pb.CallOptions(priority=pb.PRIORITY_BULK, truncate=route.truncate)
            return await self._prepare(message, Route(served, other, bulk), caller, "input")

        served.shadow.offer(route.version, shadow, embedded.vector, prepare, copy.release)

    async def _prepare(
        self, message: pb.Input, route: Route, caller: Caller, field: str
    ) -> Prepared:
        stop = Stop(caller.deadline, self.settings.preprocess_seconds)

        def work() -> Prepared:
            try:
                stop.check("input")
                parsed = parse_input(message, self.limits, self.video_frames, stop)
                request = replace(parsed, truncate=route.truncate)
                return route.served.preprocessor.prepare(request, route.version.config)
            except InvalidInputError as error:
                raise InvalidInputError(f"{field}.{error.field}", error.problem) from error

        short = modality(message) == "text" and message.ByteSize() <= SHORT_BYTES
        threads = self._threads["text" if short else "media"]
        asked = time.monotonic()
        try:
            async with asyncio.timeout(caller.remaining):
                prepared = await threads.run(Flow(caller.name, route.interactive), stop, work)
        except TimeoutError as error:
            raise DeadlineError("the deadline passed before or in preprocessing") from error
        stage = functools.partial(self.metrics.stage.labels, route.served.model.name)
        stage("preprocess_wait").observe(stop.started - asked)
        stage("preprocess").observe(time.monotonic() - stop.started)
        return prepared

    async def _run(self, prepared: Prepared, route: Route, caller: Caller) -> Embedded:
        queued = QueuedInput(
            BatchInput(prepared, route.version.key, route.normalize),
            interactive=route.interactive,
            caller=caller.name,
            deadline=caller.deadline,
            future=asyncio.get_running_loop().create_future(),
        )
        try:
            async with asyncio.timeout(caller.remaining):
                return await route.served.scheduler.run(queued)
        except TimeoutError as error:
            raise DeadlineError("the deadline passed in the queue") from error
