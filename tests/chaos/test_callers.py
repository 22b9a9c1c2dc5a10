"""Callers that send a lot, never read, send garbage, cancel or are wrong: memory stays flat, and
the others notice nothing."""

import contextlib
import itertools
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from tests.chaos.load import (
    QUICK,
    SteadyStream,
    assert_idle,
    assert_right,
    embed_all_cases,
    request,
)
from tests.chaos.rude_bytes import rude_bytes
from tests.e2e.bad_inputs import BAD_INPUTS
from tests.e2e.cases import Golden, options, text
from tests.e2e.server import SERVING, Server, memory, wait_until
from vlm2vec.v1 import embedding_pb2 as pb

MEGABYTE = 2**20
INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_memory_stays_flat_over_many_requests(server: Server) -> None:
    processes = [server.process.pid, *server.workers]
    answered = 0

    def embed(count: int) -> list[int]:
        nonlocal answered
        requests = (
            pb.EmbedStreamRequest(id=str(i), options=options(), input=text(f"picture number {i}"))
            for i in range(count)
        )
        for answer in server.embedding.EmbedStream(requests):
            answered += answer.HasField("embedding")
        return [memory(pid) for pid in processes]

    before = embed(2_000)
    after = embed(6_000)
    assert answered == 8_000
    growth = [(b - a) / MEGABYTE for a, b in zip(before, after, strict=True)]
    assert max(growth) < 15, growth


def test_caller_that_never_reads_is_read_no_further(server: Server, golden: Golden) -> None:
    before = [memory(pid) for pid in (server.process.pid, *server.workers)]
    sent = 0

    def requests() -> Iterator[pb.EmbedStreamRequest]:
        nonlocal sent
        for number in range(5_000):
            # Half a gigabyte in all.
            yield request(number, "image" if number % 10 == 0 else "text")
            sent += 1

    # By default, gRPC would soon take megabytes of answers that nobody reads.
    with server.connect(("grpc.http2.bdp_probe", 0)) as channel:
        call = type(server.embedding)(channel).EmbedStream(requests())
        wait_until(lambda: sent > 200)
        seen = -1
        while seen != sent:
            seen = sent
            embed_all_cases(server, golden)
        assert sent < 5_000
        after = [memory(pid) for pid in (server.process.pid, *server.workers)]
        growth = [(b - a) / MEGABYTE for a, b in zip(before, after, strict=True)]
        assert max(growth) < 200, growth
        assert server.metric("requests_in_flight", method="EmbedStream") == 1
        call.cancel()
    assert_idle(server)
    embed_all_cases(server, golden)


def test_half_messages_and_garbage_disturb_nobody(server: Server, golden: Golden) -> None:
    host, _, port = server.address.partition(":")
    with contextlib.ExitStack() as stack:
        for data in rude_bytes() * 5:
            connection = stack.enter_context(socket.create_connection((host, int(port))))
            # The server may hang up on some before they are through.
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
        embed_all_cases(server, golden)
        load = SteadyStream(server, 64)
        wait_until(lambda: len(load.answers) > 500)
        load.finish()
        assert load.unanswered == 0
        assert server.status() == SERVING
    for answer in load.answers:
        assert_right(answer, golden)
    assert_idle(server)


def test_callers_that_cancel_leave_nothing_behind(server: Server, golden: Golden) -> None:
    cancelled = server.metric("inputs_total", code="CANCELLED")
    load = SteadyStream(server, 16)

    def start_and_cancel(number: int) -> None:
        moments = random.Random(number)
        with server.connect() as channel:
            stub = type(server.embedding)(channel)
            case = moments.choice([*QUICK, "text-long", "image"])
            call: Any
            if number % 2:
                messages = [request(number, case).input] * moments.randint(1, 20)
                call = stub.Embed.future(pb.EmbedRequest(options=options(), inputs=messages))
            else:
                call = stub.EmbedStream(request(i, case) for i in range(50))
            # Some at once, most while they are decoded, wait or run.
            time.sleep(moments.choice([0, 0.5]) * moments.random())
            if number % 3:
                call.cancel()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(start_and_cancel, range(300)))
    load.finish()
    assert load.unanswered == 0
    for answer in load.answers:
        assert_right(answer, golden)
    assert_idle(server)
    assert server.metric("inputs_total", code="CANCELLED") > cancelled
    embed_all_cases(server, golden)


def test_malformed_inputs_in_a_stream_are_told_and_cost_the_others_nothing(
    server: Server, golden: Golden
) -> None:
    kinds = itertools.cycle(BAD_INPUTS)

    def requests() -> Iterator[pb.EmbedStreamRequest]:
        for number in range(1_000):
            bad = next(kinds)
            yield pb.EmbedStreamRequest(
                id=f"bad/{number}/{bad.name}", options=bad.options, input=bad.input
            )
            yield request(number)

    fields: dict[str, set[str]] = {}
    answers: Counter[str] = Counter()
    for answer in server.embedding.EmbedStream(requests()):
        answers[answer.id] += 1
        if answer.id.startswith("bad/"):
            assert answer.error.code == INVALID, answer
            assert answer.error.message
            fields.setdefault(answer.id.split("/")[2], set()).add(answer.error.field)
        else:
            assert_right(answer, golden)
    assert len(answers) == answers.total() == 2_000
    assert len(fields) == len(BAD_INPUTS) >= 30
    assert all(len(named) == 1 and "" not in named for named in fields.values()), fields
    assert_idle(server)
