"""What callers send is parsed beside the event loop if it is large, and only if they may call."""

import asyncio
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from tests.unit.test_access import access
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.v1 import embedding_pb2_grpc
from vlm2vec_service.errors import UnauthenticatedError
from vlm2vec_service.frontend.auth.authenticator import Credentials
from vlm2vec_service.frontend.auth.identity import ANYONE, Identity
from vlm2vec_service.frontend.grpc.elements import MessageLimits
from vlm2vec_service.frontend.grpc.interceptor import Interceptor
from vlm2vec_service.frontend.http.incoming import Message
from vlm2vec_service.frontend.http.middleware import MAX_NOTICE_BYTES, Middleware
from vlm2vec_service.frontend.parsing import SMALL, parsed
from vlm2vec_service.settings import HttpSettings

LIMITS = MessageLimits(max_elements=50_000, max_string_bytes=2 * SMALL)


def test_only_what_is_large_is_parsed_in_a_thread() -> None:
    async def run() -> None:
        loop_has_run = threading.Event()
        asyncio.get_running_loop().call_later(0.05, loop_has_run.set)
        assert await parsed(threading.current_thread, SMALL) is threading.current_thread()
        assert not loop_has_run.is_set()
        assert await parsed(lambda: loop_has_run.wait(10), SMALL + 1)
        with pytest.raises(ZeroDivisionError):
            await parsed(lambda: 1 // 0, SMALL + 1)

    asyncio.run(run())


class Servicer(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Answers with how many inputs it was sent."""

    async def Rank(self, request: pb.RankRequest, context: Any) -> pb.RankResponse:
        return pb.RankResponse(tokens=len(request.candidates))

    async def EmbedStream(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            yield pb.EmbedStreamResponse(id=request.id)


def identify(credentials: Credentials) -> Identity:
    if not credentials.authorization:
        raise UnauthenticatedError("no credential")
    return ANYONE


def test_messages_are_parsed_once_the_caller_was_let_in() -> None:
    small = pb.RankRequest(candidates=[pb.Input()] * 3).SerializeToString()
    large = pb.RankRequest(query=pb.Input(prompt="a" * 2 * SMALL), candidates=[pb.Input()] * 7)
    long = pb.RankRequest(query=pb.Input(prompt="a" * (2 * SMALL + 1)))
    many = pb.RankRequest(candidates=[pb.Input()] * 50_001)
    cases = [
        (small, "3"),
        (large.SerializeToString(), "7"),
        (b"\x0f", "INVALID_ARGUMENT request: not in the API's protobuf format"),
        (b"\x0f" * 2 * SMALL, "INVALID_ARGUMENT request: not in the API's protobuf format"),
        (many.SerializeToString(), "INVALID_ARGUMENT request: more elements than max_elements"),
        (long.SerializeToString(), "INVALID_ARGUMENT request: 131073 bytes in prompt"),
    ]

    async def outcome(call: Any, data: bytes, key: str) -> str:
        try:
            answer = await call(data, metadata=(("authorization", key),) if key else ())
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {error.details()}"
        return str(pb.RankResponse.FromString(answer).tokens)

    async def run() -> None:
        gate = access(100, received=10**8)
        gate.authenticator = SimpleNamespace(identify=identify, required=True)  # type: ignore[assignment]
        server = grpc.aio.server(interceptors=[Interceptor(gate, LIMITS)])
        embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(
            Servicer(),  # type: ignore[abstract]
            server,
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            rank: Any = channel.unary_unary("/vlm2vec.v1.EmbeddingService/Rank")
            for data, expected in cases:
                assert (await outcome(rank, data, "key")).startswith(expected)
                assert await outcome(rank, data, "") == "UNAUTHENTICATED no credential"
            stream: Any = channel.stream_stream("/vlm2vec.v1.EmbeddingService/EmbedStream")
            sent = [pb.EmbedStreamRequest(id=id).SerializeToString() for id in ("1", "2")]
            call = stream(iter([*sent, cases[4][0], *sent]), metadata=(("authorization", "key"),))
            answers = [pb.EmbedStreamResponse.FromString(await call.read()).id for _ in sent]
            assert answers == ["1", "2"]
            assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
        await server.stop(None)

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/webhooks/mlflow", "/v1/embeddings"])
@pytest.mark.parametrize("said", [True, False])
def test_a_notice_is_small(path: str, said: bool) -> None:
    """Its signature is checked before it is known who sends it."""
    size = MAX_NOTICE_BYTES + 1
    taken: list[int] = []
    sent: list[Message] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        taken.append(len((await receive())["body"]))
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    async def receive() -> Message:
        if taken:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": bytes(size)}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", b"%d" % size)] if said else []
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    middleware = Middleware(app, access(10, received=10**8), HttpSettings())
    asyncio.run(middleware(scope, receive, send))
    if path == "/v1/embeddings":
        assert (sent[0]["status"], taken) == (204, [size])
    else:
        assert (sent[0]["status"], taken) == (413, [])
        assert b"what a notice may have, 1048576" in sent[1]["body"]


@pytest.mark.parametrize(("hard", "expected", "warned"), [(2000, 812, False), (700, 700, True)])
def test_a_process_may_open_as_many_files_as_connections_need(
    hard: int, expected: int, warned: bool
) -> None:
    program = f"""
import resource
from vlm2vec_service.addresses import allow_connections
resource.setrlimit(resource.RLIMIT_NOFILE, (100, {hard}))
allow_connections(300)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n", done.stderr
    assert ("300 connections may take 812" in done.stderr) == warned
