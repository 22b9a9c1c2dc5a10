"""Preprocessing, within the memory that there is for it: in threads, or at once."""

import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.holding import ByteBudget
from vlm2vec_service.frontend.request import Asked, Caller, Route
from vlm2vec_service.frontend.threads import Threads
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.preprocess import Prepared
from vlm2vec_service.preprocess.messages import modality, parse_input
from vlm2vec_service.preprocess.prepared import most_bytes
from vlm2vec_service.preprocess.sampling import Sampling
from vlm2vec_service.preprocess.stop import Stop
from vlm2vec_service.settings import Limits, ServerSettings

SHORT_BYTES = 16_384
"""Texts that have together no more than these bytes never wait for a picture to be decoded."""
AT_ONCE, AT_ONCE_BYTES = 8, 1_024
"""So few texts, that have together no more than these bytes, are prepared by the event loop itself:
to hand them to a thread and to hear of it takes it about as long."""
MOST_TOGETHER = 32
"""Short texts of one caller that are prepared together."""


@dataclass(frozen=True)
class Bundle:
    """Inputs that are prepared together: short texts of so many ``nbytes``, or one input of any
    other kind. ``modality`` is that of each."""

    inputs: Sequence[Asked]
    modality: str
    is_short: bool = False
    nbytes: int = 0


def bundled(inputs: Iterable[Asked], most: int) -> Iterator[Bundle]:
    """Splits inputs into bundles of at most ``most``, in their order but for that of texts and
    others."""
    most = min(most, MOST_TOGETHER)
    texts: list[Asked] = []
    nbytes = 0
    for asked in inputs:
        kind = modality(asked.message)
        size = asked.message.ByteSize() if kind == "text" else SHORT_BYTES + 1
        if size > SHORT_BYTES:
            yield Bundle([asked], kind)
            continue
        if nbytes + size > SHORT_BYTES or len(texts) == most:
            yield Bundle(texts, "text", True, nbytes)
            texts, nbytes = [], 0
        texts.append(asked)
        nbytes += size
    if texts:
        yield Bundle(texts, "text", True, nbytes)


class Preparation:
    """Turns messages into what the engine takes. Its threads for short texts are not those for
    all else."""

    def __init__(
        self, settings: ServerSettings, limits: Limits, video_frames: int, metrics: Metrics
    ) -> None:
        self.seconds = settings.preprocess_seconds
        self.limits = limits
        self.video_frames = video_frames
        self.metrics = metrics
        self.memory = ByteBudget("max_prepared_bytes", settings.max_prepared_bytes)
        """The bytes of tokens and pixels, from before they are made until their vectors are
        there."""
        self._threads = {
            kind: Threads(kind, settings.preprocess_threads) for kind in ("text", "media")
        }
        for kind, threads in self._threads.items():
            running = metrics.preprocess_running.labels(kind)
            running.set_function(functools.partial(getattr, threads, "taken"))
            waiting = metrics.preprocess_waiting.labels(kind)
            waiting.set_function(functools.partial(getattr, threads, "waiting"))

    def most_bytes(self, bundle: Bundle) -> int:
        """The most that ``bundle`` takes once it is prepared, as far as there may be room."""
        most = len(bundle.inputs) * most_bytes(self.limits.max_tokens, bundle.modality != "text")
        return min(most, self.memory.most // 2)

    async def prepare(
        self, bundle: Bundle, route: Route, caller: Caller
    ) -> list[Prepared | Exception]:
        """Prepares ``bundle``, as soon as its flow has a thread if it needs one: what each input
        became, or what is wrong with it. Raises `ServeError` where it got no thread."""
        stop = Stop(caller.deadline, self.seconds)
        asked = stop.started
        work = functools.partial(self._all, bundle, route, stop)
        if bundle.is_short and len(bundle.inputs) <= AT_ONCE and bundle.nbytes <= AT_ONCE_BYTES:
            prepared = work()
        else:
            threads = self._threads["text" if bundle.is_short else "media"]
            prepared = await threads.run(route.flow(caller), stop, work)
        seconds = time.monotonic() - stop.started
        waited = self.metrics.stage.labels(route.served.model.name, "preprocess_wait")
        worked = self.metrics.stage.labels(route.served.model.name, "preprocess")
        for _ in prepared:
            waited.observe(stop.started - asked)
            worked.observe(seconds / len(prepared))
        return prepared

    def _all(self, bundle: Bundle, route: Route, stop: Stop) -> list[Prepared | Exception]:
        preprocessor, config = route.served.preprocessor, route.version.config
        frames = preprocessor.sampling(config, self.video_frames)
        return [self._outcome(asked, route, frames, stop) for asked in bundle.inputs]

    def _outcome(
        self, asked: Asked, route: Route, frames: Sampling, stop: Stop
    ) -> Prepared | Exception:
        try:
            prepared = self._one(asked.field, asked.message, route, frames, stop)
            self.memory.check(prepared.nbytes, asked.field)
        except Exception as error:  # noqa: BLE001 (the others of the bundle go on)
            return error
        return prepared

    def _one(
        self, field: str, message: pb.Input, route: Route, frames: Sampling, stop: Stop
    ) -> Prepared:
        try:
            stop.check("input")
            request = parse_input(message, self.limits, frames, stop, route.truncate)
            return route.served.preprocessor.prepare(request, route.version.config)
        except InvalidInputError as error:
            raise InvalidInputError(f"{field}.{error.field}", error.problem) from error
