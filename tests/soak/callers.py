"""Callers of every kind, each a loop in a thread that asks, waits and reports to the ledger."""

import base64
import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
import httpx
import numpy as np

from tests.e2e.cases import unpack
from tests.e2e.server import UNLIMITED
from tests.soak.installation import RARE, VERSIONS, Installation
from tests.soak.ledger import Asked, Ledger, Selector
from tests.soak.samples import MODEL, Sample
from vlm2vec import Client, Embedding, Input, Options, VLM2VecError
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.v1 import embedding_pb2_grpc

DTYPES = (pb.DTYPE_FLOAT32, pb.DTYPE_FLOAT32, pb.DTYPE_FLOAT16, pb.DTYPE_INT8)
AGAIN = 0.5
"""Seconds before who was refused comes again."""
PAUSE = 0.03
"""Seconds between a caller's calls: a soak is no benchmark."""
DEADLINE = 300.0
PATIENCE = 330.0
"""Seconds that the callers get to finish in the end."""


@dataclass
class Load:
    """What all callers share."""

    site: Installation
    ledger: Ledger
    samples: list[Sample]
    seed: int

    def __post_init__(self) -> None:
        self.stopping = threading.Event()
        # One connection for all, as a caller keeps it over restarts of the server.
        again = (
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 1000),
        )
        self.channel = grpc.insecure_channel(self.site.server.address, (*UNLIMITED, *again))
        self.embedding = embedding_pb2_grpc.EmbeddingServiceStub(self.channel)

    def target(self, choose: random.Random) -> Selector:
        """Whose vectors to ask for."""
        version = RARE if choose.random() < 0.02 else choose.choice(("base", *VERSIONS))
        return choose.choice((
            Selector(), Selector(), Selector(), Selector("alias", "champion"),
            Selector("alias", "nightly"), Selector("version", version),
            Selector("space", self.ledger.spaces[version]),
        ))  # fmt: skip

    def ask(self, path: str, choose: random.Random, target: Selector) -> Asked:
        """A question about one of the samples."""
        return self.ledger.ask(path, choose.choice(self.samples), target)


Step = Callable[[Load, random.Random], None]


def unary(load: Load, choose: random.Random) -> None:
    """One call of Embed with a few inputs."""
    target = load.target(choose)
    asked = [load.ask("gRPC unary", choose, target) for _ in range(choose.choice((1, 1, 2, 5)))]
    given = _options(target, choose)
    request = pb.EmbedRequest(options=given, inputs=[item.sample.message() for item in asked])
    try:
        answer = load.embedding.Embed(request, timeout=DEADLINE)
    except grpc.RpcError as error:
        _all_failed(load, asked, error)
        return
    # As many answers as inputs, in their order; those without one are lost.
    for question, embedding in zip(asked, answer.embeddings, strict=False):
        _answered(load, question, embedding)


def stream(load: Load, choose: random.Random) -> None:
    """One call of EmbedStream with inputs for several versions; answers come in any order."""
    asked: dict[str, Asked] = {}
    room = threading.Semaphore(choose.choice((4, 16, 64)))
    asking, over = threading.Lock(), threading.Event()

    def requests() -> Iterator[pb.EmbedStreamRequest]:
        for number in range(choose.randint(1, 100)):
            room.acquire()
            target = load.target(choose)
            with asking:
                if over.is_set() or load.stopping.is_set():
                    return
                question = asked[str(number)] = load.ask("gRPC stream", choose, target)
            yield pb.EmbedStreamRequest(
                id=str(number), options=_options(target, choose), input=question.sample.message()
            )
            time.sleep(PAUSE / 2)

    try:
        for answer in load.embedding.EmbedStream(requests()):
            room.release()
            if answer.id not in asked:
                load.ledger.fault("unexpected", f"an answer to {answer.id!r}, never asked")
            elif answer.HasField("error"):
                code = next(c for c in grpc.StatusCode if c.value[0] == answer.error.code)
                load.ledger.failed(asked[answer.id], code.name, answer.error.message)
                load.stopping.wait(AGAIN / 5)
            else:
                _answered(load, asked[answer.id], answer.embedding)
    except grpc.RpcError as error:
        with asking:
            over.set()
        room.release()
        _all_failed(load, [item for item in asked.values() if not item.outcomes], error)


def client_stream(load: Load, choose: random.Random) -> None:
    """One stream of the Python client, which resumes whatever happens to the connection."""
    target = load.target(choose)
    asked: dict[int | str, Asked] = {}

    def items() -> Iterator[tuple[int, Input]]:
        for number in range(choose.randint(1, 100)):
            if load.stopping.is_set():
                return
            asked[number] = load.ask("client stream", choose, target)
            yield number, asked[number].sample.for_client()
            time.sleep(PAUSE / 2)

    # It has to outlast a restart of the server.
    with Client(load.site.server.address, max_retries=100) as client:
        try:
            for id, result in client.stream(
                items(), window=32, details=True, on_error="yield", timeout=DEADLINE,
                **_client_options(target, choose),
            ):  # fmt: skip
                if isinstance(result, VLM2VecError):
                    load.ledger.failed(asked[id], result.code.name, result.message)
                else:
                    _client_answered(load, asked[id], result)
        except VLM2VecError as error:
            for question in [item for item in asked.values() if not item.outcomes]:
                load.ledger.failed(question, error.code.name, error.message)


def client_calls(load: Load, choose: random.Random) -> None:
    """Unary calls of the Python client, which tries again what may be tried again."""
    with Client(load.site.server.address, max_retries=100, timeout=DEADLINE) as client:
        for _ in range(choose.randint(1, 20)):
            if load.stopping.wait(PAUSE):
                return
            target = load.target(choose)
            question = load.ask("client unary", choose, target)
            try:
                given = _client_options(target, choose)
                result = client.embed(question.sample.for_client(), details=True, **given)
            except VLM2VecError as error:
                load.ledger.failed(question, error.code.name, error.message)
            else:
                _client_answered(load, question, result)


def http(load: Load, choose: random.Random) -> None:
    """A few requests to ``/v1/embeddings`` on one connection."""
    base = f"http://{load.site.server.http_address}"
    with httpx.Client(base_url=base, timeout=DEADLINE) as connection:
        for _ in range(choose.randint(1, 20)):
            if load.stopping.wait(PAUSE):
                return
            _post(load, choose, connection)


def _post(load: Load, choose: random.Random, connection: httpx.Client) -> None:
    target = load.target(choose)
    asked = [load.ask("HTTP", choose, target) for _ in range(choose.choice((1, 1, 2, 4)))]
    packed = choose.random() < 0.5
    body = {
        "model": f"{MODEL}@{target.name}" if target.name else MODEL,
        "input": [question.sample.body() for question in asked],
        "encoding_format": "base64" if packed else "float",
        "user": str(choose.randrange(1000)),
    }
    try:
        answer = connection.post("/v1/embeddings", json=body)
    except httpx.TransportError as error:
        for question in asked:
            load.ledger.failed(question, "UNAVAILABLE", repr(error))
        load.stopping.wait(AGAIN)
        return
    if answer.status_code != 200:
        code, message = _error_of(answer)
        for question in asked:
            load.ledger.failed(question, code, message)
        load.stopping.wait(AGAIN)
        return
    values = answer.json()
    for item in values["data"]:
        vector = item["embedding"]
        if packed:
            vector = np.frombuffer(base64.b64decode(vector), "<f4")
        load.ledger.answered(
            asked[item["index"]], values["version"], values["space"], np.array(vector, np.float32)
        )


def _error_of(answer: httpx.Response) -> tuple[str, str]:
    """The code and the message of an error over HTTP; the status where it is none of the API's."""
    try:
        detail = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}", answer.text[:200]
    return detail["code"].upper(), detail["message"]


def _options(target: Selector, choose: random.Random) -> pb.CallOptions:
    reference = pb.ModelRef(name=MODEL)
    if target.kind:
        setattr(reference, target.kind, target.name)
    return pb.CallOptions(
        model=reference,
        output=pb.OutputOptions(dtype=choose.choice(DTYPES)),
        priority=choose.choice((pb.PRIORITY_INTERACTIVE, pb.PRIORITY_BULK)),
        routing_key=str(choose.randrange(1000)),
    )


def _client_options(target: Selector, choose: random.Random) -> Options:
    given = Options(model=MODEL, routing_key=str(choose.randrange(1000)))
    if target.kind == "alias":
        given["alias"] = target.name
    elif target.kind == "version":
        given["version"] = target.name
    elif target.kind == "space":
        given["space"] = target.name
    return given


def _answered(load: Load, question: Asked, embedding: pb.Embedding) -> None:
    vector = embedding.vector
    coarse = vector.dtype != pb.DTYPE_FLOAT32
    load.ledger.answered(question, embedding.version, embedding.space, unpack(vector), coarse)


def _client_answered(load: Load, question: Asked, embedding: Embedding) -> None:
    load.ledger.answered(question, embedding.version, embedding.space, embedding.vector)


def _all_failed(load: Load, asked: list[Asked], error: grpc.RpcError) -> None:
    for question in asked:
        load.ledger.failed(question, error.code().name, error.details() or "")
    load.stopping.wait(AGAIN)


CALLERS: tuple[Step, ...] = (unary, unary, stream, client_stream, client_calls, http)


@contextlib.contextmanager
def calling(load: Load, *more: Step) -> Iterator[None]:
    """Lets all callers, and those who do ``more``, run while the block does."""
    threads = [
        threading.Thread(target=_run, args=(load, step, number), name=step.__name__, daemon=True)
        for number, step in zip(itertools.count(), (*CALLERS, *more), strict=False)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        load.stopping.set()
        deadline = time.monotonic() + PATIENCE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                load.ledger.fault("lost", f"the caller {thread.name} waits for ever")


def _run(load: Load, step: Step, number: int) -> None:
    choose = random.Random(f"{load.seed} {number}")
    while not load.stopping.wait(PAUSE):
        try:
            step(load, choose)
        except Exception as error:  # noqa: BLE001 (the caller goes on, and the soak fails)
            load.ledger.fault("unexpected", f"{step.__name__}: {type(error).__name__}: {error}")
