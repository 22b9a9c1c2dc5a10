"""The service while things go wrong: killed workers, rude callers, bad inputs, a shutdown."""

import contextlib
import itertools
import os
import random
import re
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests.conftest import adapter_folder
from tests.e2e.bad_inputs import BAD_INPUTS
from tests.e2e.cases import Golden, assert_golden, case_inputs, options, text
from tests.e2e.server import (
    NOT_SERVING,
    SERVING,
    Server,
    is_running,
    memory,
    running_server,
    wait_until,
)
from vlm2vec.errors import from_rpc
from vlm2vec.v1 import adapters_pb2
from vlm2vec.v1 import embedding_pb2 as pb

MEGABYTE = 2**20
INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]
QUICK = ("text", "text-unicode", "image-tiny", "image-two", "video")
"""Cases of few tokens."""


def flags(checkpoints: Path) -> list[str]:
    return [
        f"--model=qwen={checkpoints / 'qwen2_vl'}",
        f"--adapter=qwen/lora={adapter_folder('qwen2_vl', 'lora')}",
        "--dtype=float32",
        # A line for each of so many calls tells nothing.
        "--log-level=WARNING",
    ]


@pytest.fixture(scope="module")
def server(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What survives every test but the last two."""
    with running_server(tmp_path_factory.mktemp("server"), *flags(checkpoints)) as started:
        yield started
    assert_no_surprise(started)


@pytest.fixture(scope="module")
def doomed_server(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One with little patience for its worker, to be stopped by a test."""
    folder = tmp_path_factory.mktemp("doomed")
    with running_server(folder, *flags(checkpoints), "--batch-timeout-seconds=5") as started:
        yield started
    assert_no_surprise(started)


def assert_no_surprise(server: Server) -> None:
    """Its log has no error that nobody handled, of ours, of gRPC's or of asyncio's."""
    log = server.log.read_text()
    assert not re.findall(r".*(?:Traceback|Exception|asyncio|destroyed).*", log)


def request(number: int, case: str = "", version: str = "") -> pb.EmbedStreamRequest:
    """A request whose id says what the answer has to be."""
    case = case or QUICK[number % len(QUICK)]
    version = version or ("lora", "base")[number % 2]
    message = case_inputs("qwen")[case]
    return pb.EmbedStreamRequest(
        id=f"{number}/{version}/{case}", options=options("qwen", version), input=message
    )


def assert_right(answer: pb.EmbedStreamResponse, golden: Golden) -> None:
    assert answer.HasField("embedding"), answer
    _, version, case = answer.id.split("/")
    assert_golden(answer.embedding, golden, "qwen", version, case)


def embed_all_cases(server: Server, golden: Golden) -> None:
    """What any other caller wants, and gets."""
    cases = case_inputs("qwen")
    for version in ("lora", "base"):
        call = pb.EmbedRequest(options=options("qwen", version), inputs=cases.values())
        answers = server.embedding.Embed(call, timeout=60).embeddings
        for case, embedding in zip(cases, answers, strict=True):
            assert_golden(embedding, golden, "qwen", version, case)


def assert_idle(server: Server) -> None:
    """Nothing waits and nothing is under way, after a moment."""
    for name in ("requests_in_flight", "pending_requests", "queue_requests", "queue_tokens"):
        wait_until(lambda name=name: server.metric(name) == 0)  # type: ignore[misc]


class Load:
    """A stream that keeps ``window`` requests unanswered, in a thread, until it is to end or the
    server ends it."""

    def __init__(self, server: Server, window: int) -> None:
        self.sent: list[str] = []
        self.answers: list[pb.EmbedStreamResponse] = []
        self.error: grpc.Call | None = None
        self._stop = threading.Event()
        self._window = threading.Semaphore(window)
        self._channel = server.connect()
        method = type(server.embedding)(self._channel).EmbedStream
        self._call = method(self._requests())
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    @property
    def unanswered(self) -> int:
        return len(self.sent) - len(self.answers)

    def finish(self) -> None:
        """Sends no more and waits for the rest of the answers."""
        self._stop.set()
        self._window.release()
        self._thread.join(120)
        assert not self._thread.is_alive()
        self._channel.close()

    def _requests(self) -> Iterator[pb.EmbedStreamRequest]:
        for number in itertools.count():
            self._window.acquire()
            if self._stop.is_set():
                return
            message = request(number)
            self.sent.append(message.id)
            yield message

    def _read(self) -> None:
        try:
            for answer in self._call:
                self.answers.append(answer)
                self._window.release()
        except grpc.RpcError:
            self.error = self._call
            self._stop.set()
            self._window.release()


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

    before = embed(5_000)
    after = embed(15_000)
    assert answered == 20_000
    growth = [(b - a) / MEGABYTE for a, b in zip(before, after, strict=True)]
    assert max(growth) < 30, growth


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


def frame(kind: int, payload: bytes, flags: int = 0, stream: int = 0) -> bytes:
    """An HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def headers(**fields: str) -> bytes:
    """An HTTP/2 HEADERS frame that opens stream 1."""
    payload = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    return frame(1, payload, flags=4, stream=1)


def rude_bytes() -> list[bytes]:
    """What clients send that are broken, hostile or lost; then they hang."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, b"")
    open_call = preface + headers(
        **{
            ":method": "POST",
            ":scheme": "http",
            ":path": "/vlm2vec.v1.EmbeddingService/Embed",
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
        }
    )
    message = pb.EmbedRequest(options=options(), inputs=[text("a")]).SerializeToString()
    prefixed = b"\0" + struct.pack(">I", len(message)) + message
    noise = random.Random(0).randbytes(4096)
    return [
        b"",
        preface[:10],
        preface,
        preface + noise,
        noise,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise[:200],
        open_call,
        open_call + frame(0, prefixed[:3], stream=1),
        open_call + frame(0, prefixed[:-5], stream=1),
        open_call + frame(0, prefixed, stream=1)[:-5],
        open_call + frame(0, b"\0\xff\xff\xff\xff" + noise, stream=1),
        open_call + frame(0, b"\1" + prefixed[1:], flags=1, stream=1),
        open_call + frame(0, prefixed[:-5], flags=1, stream=1),
        open_call + frame(0, prefixed, stream=99),
        open_call + headers(**{":path": "/"}),
        preface + struct.pack(">I", 2**24 - 1)[1:] + b"\0\0\0\0\0\1",
        preface + frame(6, b"12345678") * 1000,
    ]


def test_half_messages_and_garbage_disturb_nobody(server: Server, golden: Golden) -> None:
    host, _, port = server.address.partition(":")
    with contextlib.ExitStack() as stack:
        for data in rude_bytes() * 5:
            connection = stack.enter_context(socket.create_connection((host, int(port))))
            # The server may hang up on some before they are through.
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
        embed_all_cases(server, golden)
        load = Load(server, 64)
        wait_until(lambda: len(load.answers) > 500)
        load.finish()
        assert load.unanswered == 0
        assert server.status() == SERVING
    for answer in load.answers:
        assert_right(answer, golden)
    assert_idle(server)


def test_callers_that_cancel_leave_nothing_behind(server: Server, golden: Golden) -> None:
    cancelled = server.metric("inputs_total", code="CANCELLED")
    load = Load(server, 16)

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


def test_killed_workers_cost_no_answer(server: Server, golden: Golden) -> None:
    kills = 20
    restarts = server.metric("worker_restarts_total")
    moments = random.Random(0)
    # One who stops watching must not take the others' news along.
    watched = health_pb2.HealthCheckRequest()
    first, second = server.health.Watch(watched), server.health.Watch(watched)
    assert next(first).status == next(second).status == SERVING
    first.cancel()

    load = Load(server, 128)
    for _ in range(kills):
        server.wait_for(SERVING)
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
    assert server.metric("worker_restarts_total") == restarts + kills
    assert_idle(server)
    embed_all_cases(server, golden)


def test_a_worker_that_hangs_is_replaced(doomed_server: Server, golden: Golden) -> None:
    embed_all_cases(doomed_server, golden)
    load = Load(doomed_server, 32)
    wait_until(lambda: len(load.answers) > 100)
    (worker,) = doomed_server.workers
    os.kill(worker, signal.SIGSTOP)
    doomed_server.wait_for(NOT_SERVING)
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
    loads = [Load(server, window) for window in (200, 1_000)]
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
