"""The ways to a server: unary calls and streams over gRPC, and HTTP."""

import abc
import base64
import itertools
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpcore
import orjson

from vlm2vec import AsyncClient, Input, VLM2VecError
from vlm2vec_cli.bench.load import Outcome, arrivals, at_any_time, clock, closed, opened

WINDOW = 4096
"""Inputs of a stream by the clock that may be unanswered."""


@dataclass(frozen=True)
class Target:
    """Where requests go, and what all of them say; ``inputs`` are sent in turn, ``batch`` of them
    in a request."""

    server: str
    inputs: Sequence[Input]
    batch: int = 1
    model: str = ""
    priority: str = "interactive"
    api_key: str | None = None
    tls: bool | str = False
    timeout: float = 60.0

    def batches(self) -> Iterator[list[Input]]:
        """The inputs of one request after the other, for ever."""
        endless = itertools.cycle(self.inputs)
        while True:
            yield list(itertools.islice(endless, self.batch))

    def client(self) -> AsyncClient:
        """Makes a client that tries nothing twice: what fails is to be seen."""
        return AsyncClient(
            self.server, tls=self.tls, api_key=self.api_key, timeout=self.timeout, max_retries=0,
            user_agent="vlm2vec-bench",
        )  # fmt: skip

    @property
    def options(self) -> dict[str, Any]:
        """The options of every call."""
        return {"model": self.model, "priority": self.priority}


class Way(abc.ABC):
    """One way of sending the requests of ``target``."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.problem = ""
        """What was wrong with the last request that failed."""

    @abc.abstractmethod
    async def send(self) -> str:
        """Sends one request; the code of its error, or nothing."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Closes the connections."""

    async def closed(self, at_once: int, seconds: float) -> Outcome:
        """Does as `load.closed`."""
        return await closed(self.send, at_once, seconds, self.target.batch)

    async def opened(self, rate: float, seconds: float) -> Outcome:
        """Does as `load.opened`."""
        return await opened(self.send, rate, seconds, self.target.batch)


class Unary(Way):
    """Calls of Embed."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.client = target.client()
        self.batches = target.batches()

    async def send(self) -> str:
        """Embeds the next inputs."""
        try:
            await self.client.embed(next(self.batches), details=True, **self.target.options)
        except VLM2VecError as error:
            self.problem = error.message
            return error.code.name
        return ""

    async def close(self) -> None:
        """Closes the channel."""
        await self.client.close()


class Stream(Unary):
    """One stream for all of a load, an input a message."""

    async def closed(self, at_once: int, seconds: float) -> Outcome:
        """Keeps ``at_once`` inputs of a stream unanswered."""
        outcome = Outcome(f"closed, {at_once} at once")
        return await self._run(outcome, at_any_time(seconds), at_once)

    async def opened(self, rate: float, seconds: float) -> Outcome:
        """Sends inputs by the clock."""
        return await self._run(
            Outcome(f"open, {rate:g}/s", 1, rate), arrivals(rate, seconds), WINDOW
        )

    async def _run(self, outcome: Outcome, due: AsyncIterator[float], window: int) -> Outcome:
        start, sent = clock(), dict[int, float]()
        inputs = itertools.cycle(self.target.inputs)

        async def items() -> AsyncIterator[tuple[int, Input]]:
            async for at in due:
                sent[number := len(sent)] = at
                yield number, next(inputs)

        try:
            async for id, answer in self.client.stream(
                items(), window=window, on_error="yield", **self.target.options
            ):
                code = answer.code.name if isinstance(answer, VLM2VecError) else ""
                outcome.note(sent[int(id)], code)
        except VLM2VecError as error:  # the stream itself
            outcome.errors[error.code.name] += 1
        outcome.seconds = clock() - start
        return outcome


class Http(Way):
    """``POST /v1/embeddings``."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        scheme = "https" if target.tls else "http"
        self.url = f"{scheme}://{target.server}/v1/embeddings"
        self.headers = [("content-type", "application/json")]
        if target.api_key:
            self.headers.append(("authorization", f"Bearer {target.api_key}"))
        authorities = target.tls if isinstance(target.tls, str) else None
        self.pool = httpcore.AsyncConnectionPool(
            ssl.create_default_context(cafile=authorities), max_connections=None
        )
        once = itertools.islice(target.batches(), -(-len(target.inputs) // target.batch))
        self.bodies = itertools.cycle([_body(batch, target) for batch in once])

    async def send(self) -> str:
        """Posts the next inputs."""
        seconds = dict.fromkeys(("connect", "read", "write", "pool"), self.target.timeout)
        try:
            answer = await self.pool.request(
                "POST", self.url, headers=self.headers, content=next(self.bodies),
                extensions={"timeout": seconds},
            )  # fmt: skip
        except httpcore.TimeoutException as error:
            self.problem = f"no answer in time ({type(error).__name__})"
            return "DEADLINE_EXCEEDED"
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            self.problem = str(error)
            return "UNAVAILABLE"
        if answer.status == 200:
            return ""
        try:
            told = orjson.loads(answer.content)["error"]
            self.problem = str(told["message"])
            return str(told["code"]).upper()
        except (ValueError, LookupError, TypeError):
            self.problem = "that is no answer of this server's"
            return f"HTTP {answer.status}"

    async def close(self) -> None:
        """Closes the connections."""
        await self.pool.aclose()


WAYS: dict[str, type[Way]] = {"unary": Unary, "stream": Stream, "http": Http}


def _body(inputs: Sequence[Input], target: Target) -> bytes:
    body: dict[str, Any] = {"input": [_json(one) for one in inputs], "encoding_format": "base64"}
    body["priority"] = target.priority
    if target.model:
        body["model"] = target.model
    return orjson.dumps(body)


def _json(one: Input) -> dict[str, str]:
    """An input of a text or an encoded picture, as HTTP's API has it."""
    found = {"text": one.text, "instruction": one.instruction}
    for picture in one.images:
        assert isinstance(picture, bytes)
        found["image_url"] = f"data:image/*;base64,{base64.b64encode(picture).decode()}"
    return {key: value for key, value in found.items() if value is not None}
