"""What the metrics make of a worker's answers: merged copies, and tokens by their path."""

import platform
from importlib import metadata

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from vlm2vec_service.metrics import Metrics
from vlm2vec_service.scheduling.batch import PATHS, BatchResult

VECTORS = np.zeros((2, 1), np.float32)
LABELS = {"model": "m", "worker": "w"}


def paths(registry: CollectorRegistry) -> list[float | None]:
    name = "vlm2vec_path_tokens_total"
    return [registry.get_sample_value(name, {**LABELS, "path": path}) for path in PATHS]


def test_merged_copies_and_tokens_by_path() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.worker_up("m", "w", False)
    # Counters start at 0: the first token of a path is an increase.
    assert paths(registry) == [0, 0, 0]
    first = {"base": 5, "low_rank": 7, "merged": 0}
    second = {"base": 0, "low_rank": 1, "merged": 20}
    metrics.batch("m", "w", {"": 12}, 100, BatchResult(VECTORS, 0.1, path_tokens=first))
    result = BatchResult(VECTORS, 0.1, merged_adapters=3, merged_bytes=4096, path_tokens=second)
    metrics.batch("m", "w", {"": 21}, 100, result)
    assert paths(registry) == [5, 8, 20]
    gauges = ("vlm2vec_adapters_merged", "vlm2vec_merged_bytes")
    assert [registry.get_sample_value(name, LABELS) for name in gauges] == [3, 4096]
    # The copies are gone with the process; what was counted stays counted.
    metrics.worker_up("m", "w", False)
    assert [registry.get_sample_value(name, LABELS) for name in gauges] == [0, 0]
    assert paths(registry) == [5, 8, 20]


def test_cost_by_caller_has_few_names() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.most_callers = 2
    # Each has a third of the second, whoever comes first.
    for _ in range(2):
        for callers in (
            {"key:a": 1, "ipv4:10.0.0.1": 1, "": 1},
            {"jwt:b": 1, "key:c": 1, "ipv6:[::1]": 1},
            {"certificate:d": 1, "key:a": 2},
        ):
            metrics.batch("m", "w", callers, 100, BatchResult(VECTORS, 3.0))
    for name, tokens, seconds in (
        ("key:a", 6, 6.0), ("jwt:b", 2, 2.0), ("other", 4, 4.0), ("unnamed", 4, 4.0),
        ("shadow", 2, 2.0),
    ):  # fmt: skip
        labels = {"model": "m", "caller": name}
        assert registry.get_sample_value("vlm2vec_caller_tokens_total", labels) == tokens
        found = registry.get_sample_value("vlm2vec_caller_device_seconds_total", labels)
        assert found == pytest.approx(seconds)
    (family,) = (f for f in registry.collect() if f.name == "vlm2vec_caller_tokens")
    assert len({sample.labels["caller"] for sample in family.samples}) == 5


def test_the_release_is_in_the_metrics() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    labels = {"version": metadata.version("vlm2vec-serve"), "python": platform.python_version()}
    assert registry.get_sample_value("vlm2vec_build_info", labels) == 1
