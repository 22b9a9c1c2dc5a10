"""Prometheus metrics: seconds, ``_total`` on counters, labels from fixed sets only."""

import functools
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import TypeVar

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from vlm2vec_service.errors import Code
from vlm2vec_service.scheduling.batch import PATHS, BatchResult

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
POWERS = tuple(float(2**i) for i in range(15))
COSINES = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94, 0.97, 0.985, 0.99, 0.995, 0.999)
"""None below 0: the client library would leave out the sum, which may fall as well as rise."""
NAMED = ("key:", "certificate:", "jwt:")
"""What the name of a caller with a credential begins with."""
UNNAMED, OTHER, SHADOW = "unnamed", "other", "shadow"
"""Stand for callers without a credential, for those with one that are too many, and for copies that
nobody asked for."""
MODALITIES = (
    "text", "image", "video", "audio", "image_text", "video_text", "audio_text", "image_audio",
    "video_audio", "image_audio_text", "video_audio_text",
)  # fmt: skip

Metric = TypeVar("Metric", Counter, Gauge, Histogram)


def _quick(metric: Metric) -> Metric:
    """Has ``metric`` remember what its labels stand for: to look that up, with a lock, takes the
    client library longer than to count."""
    metric.labels = functools.cache(metric.labels)  # type: ignore[method-assign]
    return metric


class Metrics:
    """Every metric of the front end; one object a process (tests give it their own registry)."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return _quick(Counter(f"vlm2vec_{name}", text, labels, registry=registry))

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return _quick(Gauge(f"vlm2vec_{name}", text, labels, registry=registry))

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            metric = Histogram(f"vlm2vec_{name}", text, labels, buckets=buckets, registry=registry)
            return _quick(metric)

        build = gauge("build_info", "1 for the release that runs.", "version", "python")
        build.labels(metadata.version("vlm2vec-serve"), platform.python_version()).set(1)
        self.requests = counter(
            "requests_total", "Calls by method, model and code.", "method", "model", "code"
        )
        self.seconds = histogram(
            "request_seconds", "Seconds of a unary call.", SECONDS, "method", "model"
        )
        self.in_flight = gauge("requests_in_flight", "Calls and streams under way.", "method")
        self.quota_refusals = counter("quota_refusals_total", "Calls refused for their quota.")
        self.reloads = counter(
            "reloads_total", "Files read again because they changed.", "file", "result"
        )
        self.held_bytes = gauge(
            "held_bytes", "Bytes that requests hold: received_bytes or prepared_bytes.", "budget"
        )
        self.inputs = counter(
            "inputs_total", "Inputs by model, version and gRPC code.", "model", "version", "code"
        )
        self.modalities = counter("modalities_total", "Inputs by modality.", "modality")
        self.tokens = counter("tokens_total", "Tokens embedded.", "model", "version")
        self.audio_seconds = counter("audio_seconds_total", "Seconds of audio embedded.", "model")
        self.stage = histogram(
            "stage_seconds", "Seconds of an input in a stage.", SECONDS, "model", "stage"
        )
        self.preprocess_waiting = gauge(
            "preprocess_waiting", "Inputs that wait for a thread to preprocess them.", "kind"
        )
        self.preprocess_running = gauge(
            "preprocess_running", "Inputs that are being preprocessed, by kind of thread.", "kind"
        )
        self.queue_requests = gauge("queue_requests", "Inputs that wait for a device.", "model")
        self.queue_tokens = gauge("queue_tokens", "Tokens that wait for a device.", "model")
        self.refused = counter(
            "queue_refused_total", "Inputs refused because the queue was full or too long.", "model"
        )
        self.starting_refused = counter(
            "starting_refused_total",
            "Calls and inputs of streams refused because no worker had started yet.", "model",
        )  # fmt: skip
        self.fatal_inputs = counter(
            "fatal_inputs_total", "Inputs refused because they take the worker down.", "model"
        )
        self.pending = gauge("pending_requests", "Inputs admitted and not yet answered.", "model")
        self.batch_inputs = histogram("batch_inputs", "Inputs of a batch.", POWERS, "model")
        self.batch_tokens = histogram("batch_tokens", "Tokens of a batch.", POWERS, "model")
        self.batch_fill = histogram(
            "batch_fill_ratio", "Tokens of a batch over the token budget.",
            tuple(i / 10 for i in range(1, 11)), "model",
        )  # fmt: skip
        self.cache_hits = counter(
            "vision_cache_hits_total", "Media found in the vision cache.", "model", "worker"
        )
        self.cache_misses = counter(
            "vision_cache_misses_total", "Media that had to be encoded.", "model", "worker"
        )
        self._routes: dict[str, list[tuple[str, str, str]]] = {}
        self._cache_seen: dict[tuple[str, str], tuple[int, int]] = {}
        self.most_callers = 0
        """Callers whose cost is counted by their names."""
        self._callers: set[str] = set()
        self.device_memory = gauge(
            "device_memory_bytes", "Device memory in use; 0 where unknown.", "model", "worker"
        )
        self.device_memory_total = gauge(
            "device_memory_total_bytes", "Device memory there is; 0 where unknown.",
            "model", "worker",
        )  # fmt: skip
        self.device_seconds = counter(
            "device_seconds_total", "Seconds that a device ran batches.", "model", "worker"
        )
        self.caller_tokens = counter(
            "caller_tokens_total", "Tokens embedded, by caller.", "model", "caller"
        )
        self.caller_seconds = counter(
            "caller_device_seconds_total",
            "Seconds of devices by caller, who have their share of a batch by their tokens in it.",
            "model", "caller",
        )  # fmt: skip
        self.up = gauge("worker_up", "Whether a worker is ready.", "model", "worker")
        self.restarts = counter("worker_restarts_total", "Restarts of a worker.", "model", "worker")
        self.silence = gauge(
            "worker_silent_seconds",
            "Seconds for which a worker on another host has not answered; 0 where it does.",
            "model", "worker",
        )  # fmt: skip
        self.adapters = gauge("adapters_loaded", "Adapters a worker holds.", "model", "worker")
        self.adapters_merged = gauge(
            "adapters_merged", "Adapters with a merged copy of the weights that they touch.",
            "model", "worker",
        )  # fmt: skip
        self.merged_bytes = gauge(
            "merged_bytes", "Bytes of the merged copies of a worker.", "model", "worker"
        )
        self.path_tokens = counter(
            "path_tokens_total",
            "Tokens by how they passed the linear layers: base, low_rank, merged.",
            "model", "worker", "path",
        )  # fmt: skip
        self.load_seconds = histogram(
            "adapter_load_seconds", "Seconds to fetch, verify, load and warm up a version.",
            SECONDS, "model",
        )  # fmt: skip
        self.load_failures = counter(
            "adapter_load_failures_total", "Versions that could not be loaded.", "model"
        )
        self.registry_success = gauge(
            "registry_last_success_timestamp_seconds", "When the registry last answered.", "model"
        )
        self.registry_errors = counter(
            "registry_errors_total", "Looks at the registry that failed.", "model"
        )
        self.registry_away = gauge(
            "registry_away_seconds",
            "How long the registry had not answered at the last look; 0 while it answers.", "model",
        )  # fmt: skip
        self.state_errors = counter(
            "registry_state_errors_total",
            "Times that the last snapshot could not be read from its file, or written to it.",
            "model",
        )  # fmt: skip
        self.loop_delay = histogram(
            "event_loop_delay_seconds", "How much later than due the event loop ran a timer.",
            SECONDS,
        )  # fmt: skip
        self.loop_idle = counter(
            "event_loop_idle_seconds_total", "Seconds in which the event loop had nothing to do."
        )
        self.member_restarts = counter(
            "front_end_restarts_total", "Front-end processes that ended and were started again."
        )
        self.task_deaths = counter(
            "task_deaths_total", "Times that a task which is to last for ever died.", "task"
        )
        self.model_ready = gauge(
            "model_ready", "Whether a worker answers with the model's champion.", "model"
        )
        self.versions_changed = counter(
            "registry_versions_changed_total",
            "Versions of the registry whose name came to stand for other contents.", "model",
        )  # fmt: skip
        self.route_info = Gauge(  # whose labels are taken away again
            "vlm2vec_route_info", "1 for the version that an alias stands for.",
            ("model", "alias", "version", "space"), registry=registry,
        )  # fmt: skip
        self.canary_share = gauge("canary_share", "Share of the canary, 0 to 1.", "model")
        self.shadow_cosine = histogram(
            "shadow_cosine", "Cosine of the shadow's vector to the champion's, of one input.",
            COSINES, "model",
        )  # fmt: skip
        self.shadow_overlap = histogram(
            "shadow_neighbour_overlap",
            "Share of nearest neighbours that shadow and champion have in common.",
            tuple(i / 10 for i in range(11)), "model",
        )  # fmt: skip
        self.shadow_errors = counter("shadow_errors_total", "Copies that failed.", "model")
        self.shadow_dropped = counter(
            "shadow_dropped_total", "Copies left out because too many waited.", "model"
        )

    def answered(
        self,
        model: str,
        version: str,
        tokens: int,
        audio_seconds: float,
        queue_seconds: float,
        inference_seconds: float,
    ) -> None:
        """Counts an input of so many ``tokens`` and ``audio_seconds`` that was answered, and how
        long it waited and ran."""
        self.inputs.labels(model, version, Code.OK.name).inc()
        self.tokens.labels(model, version).inc(tokens)
        if audio_seconds:
            self.audio_seconds.labels(model).inc(audio_seconds)
        self.stage.labels(model, "queue").observe(queue_seconds)
        self.stage.labels(model, "inference").observe(inference_seconds)

    def failed(self, model: str, version: str, code: Code, inputs: int = 1) -> None:
        """Counts ``inputs`` that ended with ``code``."""
        self.inputs.labels(model, version, code.name).inc(inputs)

    def worker_up(self, model: str, worker: str, up: bool) -> None:
        """A worker got ready, or stopped being it."""
        self.up.labels(model, worker).set(up)
        # Counters start at 0: the first restart is an increase.
        self.restarts.labels(model, worker)
        self.silence.labels(model, worker)
        for path in PATHS:
            self.path_tokens.labels(model, worker, path)
        if not up:
            self.adapters_merged.labels(model, worker).set(0)
            self.merged_bytes.labels(model, worker).set(0)

    def forget_worker(self, model: str, worker: str) -> None:
        """A worker is gone for good: nothing is said of it any more."""
        for metric in (
            self.cache_hits, self.cache_misses, self.device_memory, self.device_memory_total,
            self.device_seconds, self.up, self.restarts, self.silence, self.adapters,
            self.adapters_merged, self.merged_bytes,
        ):  # fmt: skip
            metric.labels.cache_clear()  # type: ignore[union-attr]
            metric.remove(model, worker)
        self.path_tokens.labels.cache_clear()  # type: ignore[attr-defined]
        for path in PATHS:
            self.path_tokens.remove(model, worker, path)
        self._cache_seen.pop((model, worker), None)

    def _shown(self, caller: str) -> str:
        """The name that stands for a caller in a label: its own for the first ``most_callers``
        that have a credential; who has none may come under any number of names."""
        if not caller:
            return SHADOW
        if not caller.startswith(NAMED):
            return UNNAMED
        if caller not in self._callers and len(self._callers) < self.most_callers:
            self._callers.add(caller)
        return caller if caller in self._callers else OTHER

    def route(self, model: str, routes: dict[str, tuple[str, str]], canary_share: float) -> None:
        """What the aliases of ``model`` stand for now: version and space, by alias."""
        for alias, version, space in self._routes.pop(model, []):
            self.route_info.remove(model, alias, version, space)
        self._routes[model] = [(alias, *route) for alias, route in sorted(routes.items())]
        for alias, version, space in self._routes[model]:
            self.route_info.labels(model, alias, version, space).set(1)
        self.canary_share.labels(model).set(canary_share)

    def batch(
        self,
        model: str,
        worker: str,
        callers: Mapping[str, int],
        token_budget: int,
        result: BatchResult,
    ) -> None:
        """Counts a batch that came back from a worker, with so many tokens of each caller, who is
        charged the device's time by them."""
        tokens = sum(callers.values())
        for caller, share in callers.items():
            name = self._shown(caller)
            self.caller_tokens.labels(model, name).inc(share)
            self.caller_seconds.labels(model, name).inc(result.seconds * share / tokens)
        self.batch_inputs.labels(model).observe(len(result.vectors))
        self.batch_tokens.labels(model).observe(tokens)
        self.batch_fill.labels(model).observe(tokens / token_budget)
        hits, misses = self._cache_seen.get((model, worker), (0, 0))
        if result.cache_misses < misses:  # another process, which counts anew
            hits = misses = 0
        self._cache_seen[model, worker] = (result.cache_hits, result.cache_misses)
        self.cache_hits.labels(model, worker).inc(max(0, result.cache_hits - hits))
        self.cache_misses.labels(model, worker).inc(max(0, result.cache_misses - misses))
        self.device_memory.labels(model, worker).set(result.device_memory_bytes)
        self.device_memory_total.labels(model, worker).set(result.device_memory_total_bytes)
        self.device_seconds.labels(model, worker).inc(result.seconds)
        self.adapters_merged.labels(model, worker).set(result.merged_adapters)
        self.merged_bytes.labels(model, worker).set(result.merged_bytes)
        for path, count in result.path_tokens.items():
            self.path_tokens.labels(model, worker, path).inc(count)
