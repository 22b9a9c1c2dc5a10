"""A stream of inputs: how far it is read ahead, in inputs and in bytes; all of it is answered."""

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import wait_until
from tests.unit.test_two_workers import TwoWorkers, run
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import Code, InvalidInputError, WorkerLostError
from vlm2vec_service.frontend.grpc.stream import InputStream, apart
from vlm2vec_service.frontend.holding import ByteBudget
from vlm2vec_service.frontend.preparation import MOST_TOGETHER, Bundle
from vlm2vec_service.frontend.request import Caller

BUDGET = 20_000


def request(number: int, size: int = 1000) -> pb.EmbedStreamRequest:
    """A request of ``size`` bytes and a few."""
    message = pb.Input(parts=[pb.Part(text="A" * size)])
    return pb.EmbedStreamRequest(id=str(number), input=message)


class Stream:
    """A stream of ``requests`` on a front end whose worker holds its batches until `go`."""

    def __init__(self, two: TwoWorkers, requests: Iterable[pb.EmbedStreamRequest]) -> None:
        self.read = 0
        self.go = asyncio.Event()

        async def hold(_: list[int]) -> None:
            await self.go.wait()

        async def send() -> AsyncIterator[pb.EmbedStreamRequest]:
            for message in requests:
                self.read += 1
                yield message

        for worker in two.workers:
            worker.behave = hold
        self.answers = InputStream(
            two.pipeline, send(), lambda: Caller("a", time.monotonic() + 60, streams=True)
        ).answers()

    async def all(self) -> dict[str, pb.EmbedStreamResponse]:
        return {answer.id: answer async for answer in self.answers}


def on(folder: Path, check: Callable[[TwoWorkers], Coroutine[Any, Any, None]]) -> None:
    """Runs ``check`` on a front end that has loaded its version and may hold `BUDGET` bytes."""

    async def scene(two: TwoWorkers) -> None:
        await two.embed("A")
        two.pipeline.received = ByteBudget("max_received_bytes", BUDGET)
        await check(two)
        assert two.pipeline.received.taken == 0

    run(folder, scene)


@pytest.mark.parametrize(("size", "ahead"), [(1000, 9), (4000, 2), (10, 30)])
def test_no_more_bytes_are_read_ahead_than_there_is_room_for(
    tmp_path: Path, size: int, ahead: int
) -> None:
    async def check(two: TwoWorkers) -> None:
        two.pipeline.settings = replace(two.pipeline.settings, stream_window=30)
        stream = Stream(two, map(request, range(100), [size] * 100))
        answers = asyncio.create_task(stream.all())
        # One more is read than there is room for: how large it is shows only then.
        expected = min(ahead + 1, 30)
        while stream.read < expected:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert stream.read == expected
        assert ahead * size < two.pipeline.received.taken <= BUDGET // 2
        stream.go.set()
        found = await answers
        assert found.keys() == {str(number) for number in range(100)}
        assert {answer.WhichOneof("result") for answer in found.values()} == {"embedding"}

    on(tmp_path, check)


def test_an_input_without_any_room_is_refused_and_the_stream_goes_on(tmp_path: Path) -> None:
    async def check(two: TwoWorkers) -> None:
        stream = Stream(two, [request(0), request(1, BUDGET), request(2)])
        stream.go.set()
        found = await stream.all()
        assert found["1"].error.code == Code.INVALID_ARGUMENT
        assert found["1"].error.field == "input"
        assert "max_received_bytes" in found["1"].error.message
        assert found["0"].HasField("embedding")
        assert found["2"].HasField("embedding")

    on(tmp_path, check)


@pytest.mark.parametrize("read", [0, 1])
def test_a_stream_that_ends_early_holds_nothing(tmp_path: Path, read: int) -> None:
    async def check(two: TwoWorkers) -> None:
        stream = Stream(two, map(request, range(100)))
        reading = asyncio.create_task(stream.all())
        while two.pipeline.received.taken <= 9000:
            await asyncio.sleep(0.01)
        if read:
            stream.go.set()
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait({reading})
        await asyncio.sleep(0.1)
        stream.go.set()

    on(tmp_path, check)


def watch_bundles(two: TwoWorkers) -> list[int]:
    """The sizes of the bundles that are answered from now on."""
    sizes: list[int] = []
    answer = two.pipeline.answer_bundle

    async def answer_bundle(bundle: Bundle, options: pb.CallOptions, caller: Caller) -> None:
        sizes.append(len(bundle.inputs))
        await answer(bundle, options, caller)

    two.pipeline.answer_bundle = answer_bundle  # type: ignore[method-assign]
    return sizes


@pytest.mark.parametrize("count", [1, 2, MOST_TOGETHER, 3 * MOST_TOGETHER])
def test_the_first_is_answered_at_once_and_what_comes_behind_it_together(
    tmp_path: Path, count: int
) -> None:
    async def check(two: TwoWorkers) -> None:
        sizes = watch_bundles(two)
        stream = Stream(two, map(request, range(count), [1] * count))
        answers = asyncio.create_task(stream.all())
        while sum(sizes) < count:
            await asyncio.sleep(0)
        stream.go.set()
        assert len(await answers) == count
        assert sizes[0] == 1
        assert set(sizes[1:-1]) <= {MOST_TOGETHER}

    on(tmp_path, check)


def test_of_those_that_come_together_each_has_an_answer_of_its_own(tmp_path: Path) -> None:
    requests = [request(number, 1) for number in range(30)]
    requests[3].ClearField("input")
    requests[5].input.parts.add()
    requests[7].options.model.version = "none"
    requests[9].options.output.dtype = pb.DTYPE_INT8
    requests[11].input.parts[0].image = b"no picture"
    requests[13].input.parts.extend([pb.Part(text="A")] * 10_000)
    expected = {
        "3": (Code.INVALID_ARGUMENT, "input"),
        "5": (Code.INVALID_ARGUMENT, "input.parts[1]"),
        "7": (Code.NOT_FOUND, ""),
        "11": (Code.INVALID_ARGUMENT, "input.parts[0].image"),
        "13": (Code.INVALID_ARGUMENT, "input.parts"),
    }

    async def check(two: TwoWorkers) -> None:
        two.pipeline.received = ByteBudget("max_received_bytes", 1_000_000)
        stream = Stream(two, requests)
        stream.go.set()
        found = await stream.all()
        errors = {
            id: (one.error.code, one.error.field)
            for id, one in found.items()
            if one.HasField("error")
        }
        assert errors == expected
        dtypes = {id: one.embedding.vector.dtype for id, one in found.items() if id not in errors}
        assert dtypes == {
            str(number): pb.DTYPE_INT8 if number == 9 else pb.DTYPE_FLOAT32
            for number in range(30)
            if str(number) not in expected
        }
        invalid = two.pipeline.metrics.inputs.labels("m", "1", "INVALID_ARGUMENT")
        assert invalid._value.get() == 2  # what is no input at all is none of a model's

    on(tmp_path, check)


def together(*requests: pb.EmbedStreamRequest) -> pb.EmbedStreamRequest:
    """One message with ``requests``."""
    message = pb.EmbedStreamRequest(more=requests[1:])
    message.MergeFrom(requests[0])
    return message


@pytest.mark.parametrize(("size", "window"), [(1, 1000), (1, 7), (1000, 1000), (1000, 7)])
def test_the_requests_of_one_message_are_each_as_if_they_had_come_alone(
    tmp_path: Path, size: int, window: int
) -> None:
    requests = [request(number, size) for number in range(100)]
    requests[13].ClearField("input")
    requests[17].more.add().CopyFrom(request(1000))
    requests[19].id = ""
    requests[23].input.parts[0].text = "A" * BUDGET

    async def check(two: TwoWorkers) -> None:
        two.pipeline.settings = replace(two.pipeline.settings, stream_window=window)
        sizes = watch_bundles(two)
        stream = Stream(two, [together(*requests[:10]), requests[10], together(*requests[11:])])
        stream.go.set()
        found, messages = {}, 0
        async for message in stream.answers:
            messages += 1
            assert message.takes_more is (messages == 1)
            assert message.ByteSize() < 1_000_000
            for answer in (message, *message.more):
                assert answer.id not in found
                found[answer.id] = answer
        assert found.keys() == {one.id for one in requests}
        fields = {id: one.error.field for id, one in found.items() if one.HasField("error")}
        assert fields == {"13": "input", "17": "more", "": "id", "23": "input"}
        assert messages < len(requests)
        assert sizes[0] == min(10, window) or size > 1

    on(tmp_path, check)


def test_answers_come_alone_to_who_asks_alone(tmp_path: Path) -> None:
    async def check(two: TwoWorkers) -> None:
        stream = Stream(two, map(request, range(100), [1] * 100))
        stream.go.set()
        answers = [answer async for answer in stream.answers]
        assert len(answers) == 100
        assert not any(answer.more for answer in answers)
        assert answers[0].takes_more

    on(tmp_path, check)


def test_a_small_request_keeps_no_large_one_that_came_with_it() -> None:
    large = pb.Input(parts=[pb.Part(image=bytes(64 << 20))])
    data = together(request(0), pb.EmbedStreamRequest(input=large)).SerializeToString()

    async def first() -> pb.EmbedStreamRequest:
        return (await apart(pb.EmbedStreamRequest.FromString(data), 2))[0]

    before = resident_bytes()
    small = asyncio.run(first())
    # The thread that took them apart may hold its last result for a moment.
    wait_until(lambda: resident_bytes() - before < 32 << 20)
    assert small == request(0)


def test_a_message_of_too_many_requests_ends_the_stream_behind_what_came_before(
    tmp_path: Path,
) -> None:
    async def check(two: TwoWorkers) -> None:
        two.pipeline.settings = replace(two.pipeline.settings, max_inputs=10)
        numbers = [request(number, 1) for number in range(21)]
        stream = Stream(two, [together(*numbers[:10]), together(*numbers[10:])])
        stream.go.set()
        found: list[str] = []

        async def read() -> None:
            async for message in stream.answers:
                found.extend([message.id, *(answer.id for answer in message.more)])

        with pytest.raises(InvalidInputError, match=r"^more: 11 given; 1 to max_inputs, 10"):
            await read()
        assert sorted(found, key=int) == [str(number) for number in range(10)]

    on(tmp_path, check)


def resident_bytes() -> int:
    """The memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_an_input_that_takes_workers_down_holds_up_none_that_it_came_with(tmp_path: Path) -> None:
    requests = [request(number, 1) for number in range(20)]
    requests[4].input.parts[0].text = "Z"

    async def check(two: TwoWorkers) -> None:
        stream = Stream(two, requests)
        stream.go.set()
        others = asyncio.Event()

        async def behave(batch: list[int]) -> None:
            if batch == [ord("Z")]:
                await others.wait()
            if ord("Z") in batch:
                raise WorkerLostError("killed")

        for worker in two.workers:
            worker.behave = behave
        found = {}
        async for answer in stream.answers:
            found[answer.id] = answer
            if len(found) == len(requests) - 1:
                others.set()
        assert [id for id, one in found.items() if one.HasField("error")] == ["4"]
        assert "takes the worker down" in found["4"].error.message

    on(tmp_path, check)
