"""Budgets in bytes: what a call, a body and an input hold, what is refused, and what waits."""

import asyncio
import io
import math
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.test_access import NOTHING, access
from tests.unit.test_two_workers import FirstByte, TwoWorkers, run
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.errors import DeadlineError, ExhaustedError, InvalidInputError
from vlm2vec_service.frontend.access import Access
from vlm2vec_service.frontend.holding import ByteBudget, Holding
from vlm2vec_service.frontend.http.incoming import COPIES, Message
from vlm2vec_service.frontend.http.middleware import Middleware
from vlm2vec_service.frontend.request import Caller
from vlm2vec_service.preprocess import Prepared, Request
from vlm2vec_service.preprocess.pictures import Frames
from vlm2vec_service.preprocess.prepared import Media, most_bytes
from vlm2vec_service.scheduling.fair_queue import Flow
from vlm2vec_service.settings import HttpSettings, Limits

A, B = Flow("a", True), Flow("b", True)


def test_a_caller_holds_half_and_another_finds_room() -> None:
    budget = ByteBudget("max_received_bytes", 1000)
    first, second, other = Holding(budget, A), Holding(budget, A), Holding(budget, B)
    first.take(400, "request")
    with pytest.raises(ExhaustedError, match=r"400 bytes by this caller, 400 in all") as refused:
        second.take(101, "request")
    assert "max_received_bytes 1000" in str(refused.value)
    assert refused.value.retry_after
    second.take(100, "request")
    other.take(250, "request")
    assert budget.taken == 750
    with first, second, other:
        pass
    assert budget.taken == 0
    first.release()
    assert budget.taken == 0


@pytest.mark.parametrize("taken", [0, 300])
def test_what_never_has_room_is_the_inputs_fault(taken: int) -> None:
    budget = ByteBudget("max_received_bytes", 1000)
    holding = Holding(budget, A)
    holding.take(taken, "body")
    with pytest.raises(InvalidInputError, match="501 bytes of memory, more than half") as refused:
        holding.take(501 - taken, "body")
    assert refused.value.field == "body"
    assert "max_received_bytes, 1000" in refused.value.problem
    assert budget.taken == taken


def test_what_is_held_is_corrected_both_ways() -> None:
    budget = ByteBudget("max_prepared_bytes", 1000)
    holding = Holding(budget, A)
    holding.take(300, "input")
    holding.keep(20)
    assert budget.taken == 20
    holding.keep(60)
    assert budget.taken == 60
    holding.release()
    assert budget.taken == 0


def test_a_call_gives_back_what_it_held_however_it_ends() -> None:
    for error in (None, ExhaustedError("full", 1.0), asyncio.CancelledError()):
        gate = access(max_calls=10)
        call = gate.start("Embed", "ipv4:10.0.0.1:5")
        gate.check(call, NOTHING, "embed")
        call.hold(400, "request")
        assert gate.received.taken_by(Flow("ipv4:10.0.0.1", True)) == 400
        gate.finish(call, error)
        assert gate.received.taken == 0


def body_read(gate: Access, headers: list[tuple[bytes, bytes]], *chunks: bytes) -> tuple[int, int]:
    """The status of an answer to a body of ``chunks``, and how many of them were read."""
    started: list[Message] = []
    sent = list(chunks)

    async def receive() -> Message:
        if not sent:
            await asyncio.Event().wait()
        chunk = sent.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(sent)}

    async def send(message: Message) -> None:
        started.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        size = len((await receive())["body"])
        assert gate.received.taken - before == COPIES * size
        await send({"type": "http.response.start", "status": 200})

    scope = {
        "type": "http", "method": "POST", "path": "/v1/embeddings", "headers": headers,
        "client": ("10.0.0.1", 5),
    }  # fmt: skip
    before = gate.received.taken
    asyncio.run(Middleware(app, gate, HttpSettings())(scope, receive, send))
    assert gate.received.taken == before
    return started[0]["status"], len(chunks) - len(sent)


def test_a_body_is_held_before_it_is_read_or_as_it_comes() -> None:
    small, large = b"x" * 100, b"x" * 101
    for headers in ([], [(b"content-length", b"200")]):
        assert body_read(access(10, 1600), headers, small, small) == (200, 2)
    # Said to be too large it is not read at all, else no further than there can be room for it.
    length = [(b"content-length", b"202")]
    assert body_read(access(10, 1600), length, large, large) == (400, 0)
    assert body_read(access(10, 1600), [], large, large, large) == (400, 2)
    busy = access(10, 1600)
    other = Holding(busy.received, Flow("ipv4:10.0.0.1", True))
    other.take(30, "body")
    assert body_read(busy, [(b"content-length", b"200")], small, small) == (429, 0)
    assert body_read(busy, [], small, small) == (429, 2)


class Squares(FirstByte):
    """A preprocessor that makes pictures of ``side`` pixels a side of everything, and notes the
    most that ``budget`` had given away meanwhile."""

    def __init__(self, side: int, budget: ByteBudget) -> None:
        self.side = side
        self.budget = budget
        self.most = 0

    def prepare(self, request: Request, embedding: EmbeddingConfig) -> Prepared:
        self.most = max(self.most, self.budget.taken)
        pixels = np.zeros((1, self.side, self.side, 3), np.uint8)
        media = Media.of("image", pixels, 0, 1)
        return Prepared(np.array([65], np.int32), np.zeros((3, 1), np.int32), (media,))


LIMITS = Limits(max_tokens=2)
BOUND = most_bytes(2, has_media=True)
SIDE = math.isqrt(BOUND // 4)
"""Of pictures that take three quarters of that, so that there is no room for a third input."""


def with_squares(
    folder: Path, side: int, check: Callable[[TwoWorkers, Squares], Coroutine[Any, Any, None]]
) -> None:
    """Runs ``check`` on a front end that lets one caller hold two inputs of the largest size."""

    async def scene(two: TwoWorkers) -> None:
        budget = ByteBudget("max_prepared_bytes", 4 * BOUND)
        squares = Squares(side, budget)
        two.pipeline.served["m"].preprocessor = squares
        two.pipeline.preparation.limits = LIMITS
        two.pipeline.preparation.memory = budget
        await check(two, squares)
        assert budget.taken == 0

    run(folder, scene)


async def embed(two: TwoWorkers, count: int = 1, seconds: float = 30.0) -> int:
    """The number of answers to one call of ``count`` inputs with a picture."""
    file = io.BytesIO()
    Image.new("RGB", (4, 3)).save(file, "PNG")
    message = pb.Input(parts=[pb.Part(image=file.getvalue())])
    inputs = {f"inputs[{number}]": message for number in range(count)}
    caller = Caller("a", time.monotonic() + seconds)
    return len(await two.pipeline.answer(inputs, pb.CallOptions(), caller))


def test_inputs_wait_for_memory_and_all_are_answered(tmp_path: Path) -> None:
    async def check(two: TwoWorkers, squares: Squares) -> None:
        assert await embed(two, count=40) == 40
        assert BOUND < squares.most <= 2 * BOUND

    with_squares(tmp_path, 40, check)


def test_an_input_waits_for_memory_until_its_deadline(tmp_path: Path) -> None:
    async def check(two: TwoWorkers, squares: Squares) -> None:
        await embed(two)  # which loads the version
        gate = asyncio.Event()

        async def hold(_: list[int]) -> None:
            await gate.wait()

        for worker in two.workers:
            worker.behave = hold
        held = [asyncio.create_task(embed(two)) for _ in range(2)]
        while squares.budget.taken != 2 * (16 + SIDE * SIDE * 3):
            await asyncio.sleep(0.01)
        with pytest.raises(DeadlineError, match="before there was memory for it"):
            await embed(two, seconds=0.2)
        held[0].cancel()  # what it held is there for others at once
        third = asyncio.create_task(embed(two))
        await asyncio.sleep(0.1)
        gate.set()
        assert [await held[1], await third] == [1, 1]

    with_squares(tmp_path, SIDE, check)


def test_an_input_that_becomes_too_large_is_refused(tmp_path: Path) -> None:
    async def check(two: TwoWorkers, squares: Squares) -> None:
        with pytest.raises(InvalidInputError, match="max_prepared_bytes") as refused:
            await embed(two)
        assert refused.value.field == "inputs[0]"

    with_squares(tmp_path, 100, check)


@pytest.mark.parametrize("family", ["qwen2_vl", "phi3_v"])
def test_no_input_takes_more_than_is_held_before_it_is_prepared(
    checkpoints: Path, family: str
) -> None:
    preprocessor = load_preprocessor(checkpoints / family, Limits())
    images = tuple(Image.new("RGB", size) for size in ((640, 480), (30, 90), (333, 1000)))
    film = tuple(Image.new("RGB", (320, 240)) for _ in range(9))
    requests = [Request(text="a"), *(Request(images=(image,)) for image in images)]
    if family == "qwen2_vl":
        requests += [Request(images=images)]
        requests += [Request(videos=(Frames(shown),)) for shown in (film, film[:2])]
    for request in requests:
        made = preprocessor.prepare(request, EmbeddingConfig())
        assert made.nbytes <= most_bytes(len(made), has_media=bool(made.media))
