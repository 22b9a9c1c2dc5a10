"""Workers that are killed or hang, and a shutdown: whatever was accepted is answered."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests.chaos.load import SteadyStream, assert_idle, assert_right, embed_all_cases, request
from tests.chaos.watched import watched_server
from tests.e2e.cases import Golden, assert_golden, case_inputs, options
from tests.e2e.server import NOT_SERVING, SERVING, Server, is_running, wait_until
from vlm2vec.errors import from_rpc
from vlm2vec.v1 import adapters_pb2
from vlm2vec.v1 import embedding_pb2 as pb


@pytest.fixture(scope="module")
def doomed_server(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own, since the last test of this file stops it."""
    with watched_server(checkpoints, tmp_path_factory.mktemp("doomed")) as started:
        yield started


def test_killed_workers_cost_no_answer(server: Server, golden: Golden) -> None:
    """An input is refused after the third worker that dies with it. So after two deaths, of which
    the second may fall on what is tried again, all that was under way is waited for."""
    pairs = 2
    restarts = server.metric("worker_restarts_total")
    moments = random.Random(0)
    # One who stops watching must not take the others' news along.
    watched = health_pb2.HealthCheckRequest()
    first, second = server.health.Watch(watched), server.health.Watch(watched)
    assert next(first).status == next(second).status == SERVING
    first.cancel()

    load = SteadyStream(server, 128)
    for kill in range(2 * pairs):
        server.wait_for(SERVING)
        if kill % 2 == 0:
            load.catch_up()
        time.sleep(moments.random() / 2)
        (worker,) = server.workers
        # Requests under way, or about to be sent by the thread that does.
        wait_until(lambda: load.unanswered >= 64)
        os.kill(worker, signal.SIGKILL)
        assert next(second).status == NOT_SERVING
        assert server.status("liveness") == SERVING
        assert next(second).status == SERVING
    second.cancel()
    load.finish()
    assert load.error is None
    assert Counter(answer.id for answer in load.answers) == Counter(load.sent)
    for answer in load.answers:
        assert_right(answer, golden)
    assert server.metric("worker_restarts_total") == restarts + 2 * pairs
    assert_idle(server)
    embed_all_cases(server, golden)


def test_a_worker_that_hangs_is_replaced(doomed_server: Server, golden: Golden) -> None:
    embed_all_cases(doomed_server, golden)
    load = SteadyStream(doomed_server, 32)
    wait_until(lambda: len(load.answers) > 100)
    (worker,) = doomed_server.workers
    os.kill(worker, signal.SIGSTOP)
    # The limit follows from the batches before: --batch-timeout-seconds is 300.
    doomed_server.wait_for(NOT_SERVING, 60)
    doomed_server.wait_for(SERVING)
    load.finish()
    assert not is_running(worker)
    assert Counter(answer.id for answer in load.answers) == Counter(load.sent)
    for answer in load.answers:
        assert_right(answer, golden)


def test_shutdown_under_load_answers_what_was_accepted(
    doomed_server: Server, golden: Golden
) -> None:
    server = doomed_server
    message = case_inputs("qwen")["text-long"]
    long = pb.EmbedRequest(options=options(), inputs=[message] * 4)
    watch = server.health.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == SERVING
    adapters = server.adapters.WatchAdapters(adapters_pb2.WatchAdaptersRequest())
    assert next(adapters).adapter.version == "lora"
    loads = [SteadyStream(server, window) for window in (200, 1_000)]
    wait_until(lambda: all(len(load.answers) > 100 for load in loads))
    workers = server.workers
    for worker in workers:  # until all have been accepted
        os.kill(worker, signal.SIGSTOP)
    accepted = [server.embedding.Embed.future(long) for _ in range(10)]
    wait_until(lambda: server.metric("requests_in_flight", method="Embed") == len(accepted))
    server.process.send_signal(signal.SIGTERM)
    for worker in workers:
        os.kill(worker, signal.SIGCONT)
    assert next(watch).status == NOT_SERVING

    with server.connect() as channel:
        for stub in (server.embedding, type(server.embedding)(channel)):
            calls: tuple[Any, ...] = (
                stub.Embed.future(long),
                stub.EmbedStream(iter([request(0)])),
                stub.ListModels.future(pb.ListModelsRequest()),
            )
            for call in calls:
                # gRPC itself cancels what reaches a server that has just closed; a client takes
                # that for what it is.
                assert from_rpc(call).code == grpc.StatusCode.UNAVAILABLE
    for call in accepted:
        for embedding in call.result().embeddings:
            assert_golden(embedding, golden, "qwen", "lora", "text-long")
    for load in loads:
        load.finish()
        assert load.error is not None
        assert load.error.code() == grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in (load.error.details() or "")
        # They are read in order: those accepted come before all others.
        numbers = sorted(int(answer.id.split("/")[0]) for answer in load.answers)
        assert numbers == list(range(len(load.answers)))
        for answer in load.answers:
            assert_right(answer, golden)
    assert list(adapters) == []
    assert server.process.wait(60) == 0
    assert not [pid for pid in workers if is_running(pid)]
