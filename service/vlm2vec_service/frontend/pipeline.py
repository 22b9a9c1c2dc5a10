"""An input's way through the front end: route, admission, preprocessing, queue, answer.

What the transports in front (gRPC, HTTP) share: it knows messages but no transport, and `answer` is
all that they call.
"""

import asyncio
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_registry.snapshot import CHAMPION, SHADOW
from vlm2vec_service.errors import Code, InvalidInputError, ServeError
from vlm2vec_service.frontend.access import current
from vlm2vec_service.frontend.holding import ByteBudget, Holding
from vlm2vec_service.frontend.joining import Joining
from vlm2vec_service.frontend.limits import check_parts
from vlm2vec_service.frontend.preparation import Bundle, Preparation, bundled
from vlm2vec_service.frontend.request import Answer, Asked, Caller, Deadline, Route
from vlm2vec_service.frontend.routing import Router
from vlm2vec_service.frontend.served import Served
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.preprocess import Prepared
from vlm2vec_service.processes.member import Member
from vlm2vec_service.processes.siblings import Siblings
from vlm2vec_service.scheduling.batch import BatchInput
from vlm2vec_service.scheduling.fair_queue import Embedded, Flow, QueuedInput
from vlm2vec_service.settings import Limits, ServerSettings
from vlm2vec_service.versions.catalog import Catalog, Version
from vlm2vec_service.versions.shadow import PATIENCE

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
    webhook_peers: str = ""
    """The URL of the servers that a webhook's notice is passed on to; empty passes none on."""
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    received: ByteBudget = field(init=False)
    """The bytes of requests, from when they come until they are answered."""
    preparation: Preparation = field(init=False)
    router: Router = field(init=False)
    joining: Joining = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.siblings = Siblings(self.member.others) if self.member else None
        self.received = ByteBudget("max_received_bytes", settings.max_received_bytes)
        self.router = Router(self.catalog, self.served, self.limits.max_tokens, self.metrics)
        self.joining = Joining(self._embed)
        self.preparation = Preparation(settings, self.limits, self.video_frames, self.metrics)
        for budget in (self.received, self.preparation.memory):
            held = self.metrics.held_bytes.labels(budget.setting.removeprefix("max_"))
            held.set_function(functools.partial(getattr, budget, "taken"))

    @property
    def ready(self) -> dict[str, bool]:
        """Whether it can be embedded with, of each model."""
        draining = self.draining.is_set()
        return {
            name: not draining and served.residency.ready for name, served in self.served.items()
        }

    @property
    def started(self) -> bool:
        """Whether no model is starting any more: each is ready, or is known not to get so."""
        models = self.served.values()
        return not (self.draining.is_set() or any(one.residency.starting for one in models))

    async def answer(
        self, inputs: Mapping[str, pb.Input], options: pb.CallOptions, caller: Caller
    ) -> list[Answer]:
        """Embeds the ``inputs`` of a call, each under the name of its field in the caller's
        message, a window of them at a time.

        The answers are in order; the first error cancels the others, and is raised: any
        `ServeError`.
        """
        route = await self.router.route(options, caller)
        caller.asks(route.served.model.name, route.version.name, len(inputs))
        answers: dict[str, Answer] = {}

        def give(name: str, outcome: Answer | Exception) -> None:
            if isinstance(outcome, Exception):
                raise outcome
            answers[name] = outcome

        asked = []
        for name, message in inputs.items():
            check_parts(message, self.limits.max_parts, name)
            asked.append(Asked(name, message, functools.partial(give, name)))
        # A call's answers come many at a time, and others wait while they are looked after.
        window = min(len(inputs), max(1, self.settings.stream_window // 2))
        bundles = list(bundled(asked, window))
        await self._admit(route, caller, window)
        try:
            if len(inputs) > 1:
                answered = len(inputs) * route.served.dimension * COMPONENT_BYTES
                current.get().hold(answered, "inputs")
            if len(bundles) == 1 and self.joining.takes(bundles[0]):
                await self.joining.answer(bundles[0], route, caller)
            elif len(bundles) == 1:
                await self._embed(bundles[0], route, caller)
            else:
                await self._embed_all(bundles, window, route, caller)
        finally:
            route.served.scheduler.release(route.flow(caller), window)
        return [answers[name] for name in inputs]

    async def answer_bundle(self, bundle: Bundle, options: pb.CallOptions, caller: Caller) -> None:
        """Embeds inputs of a stream, and gives each its outcome. Raises the `ServeError` of all
        that have none by then."""
        route = await self.router.route(options, caller)
        caller.asks(route.served.model.name, route.version.name, len(bundle.inputs))
        await self._admit(route, caller, len(bundle.inputs))
        try:
            await self._embed(bundle, route, caller)
        finally:
            route.served.scheduler.release(route.flow(caller), len(bundle.inputs))

    async def _embed_all(
        self,
        bundles: Sequence[Bundle],
        window: int,
        route: Route,
        caller: Caller,
    ) -> None:
        """Answers all of ``bundles``, with about ``window`` inputs under way at a time. Raises the
        first error, a `ServeError`."""
        unread = iter(bundles)

        async def embed_next() -> None:
            for bundle in unread:
                await self._embed(bundle, route, caller)

        largest = max(len(bundle.inputs) for bundle in bundles)
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(max(1, window // largest)):
                    tasks.create_task(embed_next())
        except ExceptionGroup as errors:
            # The others only say that they were cancelled.
            raise errors.exceptions[0] from None

    async def _admit(self, route: Route, caller: Caller, inputs: int) -> None:
        """Takes places in the model's queue. A stream waits for them, any other caller gets
        `ExhaustedError` where there are none; both `DeadlineError`."""
        scheduler, flow = route.served.scheduler, route.flow(caller)
        if not caller.streams:
            scheduler.admit(flow, caller.deadline, inputs)
        elif not scheduler.places.take_if_free(flow, inputs):
            async with Deadline(caller, "before the queue had a place"):
                await scheduler.wait_for_place(flow, inputs)

    async def _embed(self, bundle: Bundle, route: Route, caller: Caller) -> None:
        """Gives admitted inputs their outcomes. Raises the `ServeError` of all that have none by
        then, and what is raised by who takes one."""
        model, version = route.served.model.name, route.version.name
        self.metrics.modalities.labels(bundle.modality).inc(len(bundle.inputs))
        left, last = len(bundle.inputs), None

        def give(asked: Asked, outcome: Answer | BaseException) -> None:
            nonlocal left, last
            left, last = left - 1, outcome
            if isinstance(outcome, BaseException):
                self.metrics.failed(model, version, _code(outcome))
            if isinstance(outcome, Answer | Exception):  # else nobody waits for it
                asked.give(outcome)

        try:
            with Holding(self.preparation.memory, route.flow(caller)) as held:
                await self._run(bundle, route, caller, held, give)
        except BaseException as error:
            # One that failed gives up the others of its call.
            code = Code.CANCELLED if error is last else _code(error)
            self.metrics.failed(model, version, code, left)
            raise

    async def _run(
        self,
        bundle: Bundle,
        route: Route,
        caller: Caller,
        held: Holding,
        give: Callable[[Asked, Answer | BaseException], None],
    ) -> None:
        started = time.monotonic()
        async with Deadline(caller, "before there was memory for it") as deadline:
            await held.wait(self.preparation.most_bytes(bundle))
            deadline.passed = "before or in preprocessing"
            prepared = await self.preparation.prepare(bundle, route, caller)
            preprocess = time.monotonic() - started
            queue: dict[QueuedInput, Asked] = {}
            for asked, one in zip(bundle.inputs, prepared, strict=True):
                if isinstance(one, Prepared):
                    queue[self._queued(one, route, caller)] = asked
                else:
                    give(asked, one)
            held.keep(sum(one.input.prepared.nbytes for one in queue))

            def answered(queued: QueuedInput) -> None:
                asked = queue[queued]
                outcome: Answer | BaseException
                try:
                    outcome = self._answer(asked, queued, route, preprocess)
                except InvalidInputError as error:  # a worker has no name for it
                    outcome = InvalidInputError(asked.field, error.problem)
                # The others of the bundle go on.
                except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
                    outcome = error
                give(asked, outcome)

            scheduler = route.served.scheduler
            for queued, asked in queue.items():
                if asked.waiter is not None:
                    asked.waiter.add_done_callback(functools.partial(scheduler.withdraw, queued))
            unpaid = list(queue)
            while unpaid:
                deadline.passed = "while the token quota was spent"
                count = await caller.pay([one.tokens for one in unpaid])
                paid, unpaid = unpaid[:count], unpaid[count:]
                deadline.passed = "in the queue"
                async with route.served.loader.using(route.version):
                    await scheduler.run_all(paid, answered)

    def _shadow(
        self, message: pb.Input, prepared: Prepared, route: Route, embedded: Embedded
    ) -> None:
        """Lets the model's shadow compute what its champion just has."""
        served, model = route.served, route.served.model
        champion, shadow = (model.aliases.get(alias) for alias in (CHAMPION, SHADOW))
        if shadow is None or champion is None or route.version.key != champion.key:
            return

        same = shadow.config == route.version.config
        (bundle,) = bundled([Asked("input", message, lambda _: None)], 1)
        copy = Holding(self.preparation.memory, Flow("", False))
        try:
            copy.take(prepared.nbytes if same else self.preparation.most_bytes(bundle), "input")
        except ServeError:
            self.metrics.shadow_dropped.labels(model.name).inc()
            return

        async def prepare(other: Version = shadow) -> Prepared:
            if same:
                return prepared
            caller = Caller("", time.monotonic() + PATIENCE)
            bulk = pb.CallOptions(priority=pb.PRIORITY_BULK, truncate=route.truncate)
            async with Deadline(caller, "before or in preprocessing"):
                (one,) = await self.preparation.prepare(bundle, Route(served, other, bulk), caller)
            if isinstance(one, Exception):
                raise one
            return one

        served.shadow.offer(route.version, shadow, embedded.vector, prepare, copy.release)

    def _queued(self, prepared: Prepared, route: Route, caller: Caller) -> QueuedInput:
        return QueuedInput(
            BatchInput(prepared, route.version.key, route.unit),
            interactive=route.interactive,
            caller=caller.name,
            deadline=caller.deadline,
            future=asyncio.get_running_loop().create_future(),
        )

    def _answer(self, asked: Asked, queued: QueuedInput, route: Route, preprocess: float) -> Answer:
        """The answer to an input that came out of the queue, whose vector the model's shadow may
        compute, too. Raises what went wrong there."""
        prepared, found = queued.input.prepared, queued.future.result()
        self._shadow(asked.message, prepared, route, found)
        self.metrics.answered(
            route.served.model.name, route.version.name, len(prepared), prepared.audio_seconds,
            found.queue_seconds, found.inference_seconds,
        )  # fmt: skip
        return Answer(
            route, found.vector, len(prepared), prepared.truncated, preprocess,
            found.queue_seconds, found.inference_seconds,
        )  # fmt: skip


def _code(error: BaseException) -> Code:
    """What an input ended with that has no answer."""
    if not isinstance(error, Exception):
        return Code.CANCELLED
    return (error if isinstance(error, ServeError) else ServeError).code
