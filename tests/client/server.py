"""A server that keeps the API's contract with made-up vectors, and misbehaves on demand."""

import random
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

from tests.client.behaviour import Behaviour, FailedStatus
from tests.client.inbox import THREADS, Inbox
from tests.client.vectors import DIMENSION, packed, vector_of
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.v1 import embedding_pb2_grpc

MAX_INPUTS = 64


class Service(embedding_pb2_grpc.EmbeddingServiceServicer):
    """The service, which keeps a record of what it was asked."""

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        self.address = ""
        self.calls: list[tuple[Any, dict[str, str | bytes]]] = []
        """Unary requests and their metadata."""
        self.streams: list[dict[str, str | bytes]] = []
        """The metadata of each stream."""
        self.stream_requests: list[pb.EmbedStreamRequest] = []
        """The first requests of streams, up to a thousand."""
        self.inboxes: list[Inbox] = []
        """What came in each stream."""
        self.most_unanswered = 0
        """The most requests that were unanswered at any time in one stream."""
        self.open_streams = 0
        self.random = random.Random(7)
        self._embedded = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        self._begin(request, context)
        if not 1 <= len(request.inputs) <= MAX_INPUTS:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "inputs: 1 to max_inputs, 64")
        for index, message in enumerate(request.inputs):
            if any(part.text == "bad" for part in message.parts):
                place = f"inputs[{index}].parts[0].text"
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{place}: is bad, max_bad 0")
        return pb.EmbedResponse(
            embeddings=[self._embedding(message, request.options) for message in request.inputs]
        )

    def Rank(self, request: pb.RankRequest, context: Any) -> pb.RankResponse:
        self._begin(request, context)
        if not 1 <= len(request.candidates) <= MAX_INPUTS:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "candidates: 1 to max_inputs, 64")
        query = vector_of(request.query)
        scores = [float(query @ vector_of(candidate)) for candidate in request.candidates]
        best = sorted(range(len(scores)), key=lambda index: -scores[index])
        version = self._version(len(request.candidates), request.options)
        return pb.RankResponse(
            candidates=[
                pb.RankedCandidate(
                    index=index, score=scores[index], truncated=request.options.HasField("truncate")
                )
                for index in best[: request.top_k or None]
            ],
            model="made-up",
            version=version,
            space=f"space-{version}",
            query_truncated=request.options.HasField("truncate"),
        )

    def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        self._begin(request, context)
        version = pb.ModelVersion(version="1", space="space-1", aliases=["champion"])
        model = pb.Model(
            name="made-up", backbone="qwen2_vl", dimension=DIMENSION, ready=True, versions=[version]
        )
        return pb.ListModelsResponse(models=[model])

    def EmbedStream(
        self, request_iterator: Iterator[pb.EmbedStreamRequest], context: Any
    ) -> Iterator[pb.EmbedStreamResponse]:
        behaviour = self.behaviour
        with self._lock:
            self.streams.append(dict(context.invocation_metadata()))
            self.open_streams += 1
            life = next(behaviour.stream_lives) if behaviour.stream_lives else None
        inbox = Inbox(request_iterator)
        self.inboxes.append(inbox)
        try:
            answered = 0
            while life is None or answered < life:
                request = inbox.take(behaviour.hold, self.random if behaviour.shuffle else None)
                if request is None:
                    return
                with self._lock:
                    if len(self.stream_requests) < 1000:
                        self.stream_requests.append(request)
                    self.most_unanswered = max(self.most_unanswered, inbox.most_waiting)
                while behaviour.silent and context.is_active():
                    self._closing.wait(0.02)
                answered += 1
                answer = self._answer(request)
                answer.takes_more = behaviour.takes_more and answered == 1
                if behaviour.takes_more and behaviour.twice:
                    answer.more.append(self._answer(request))
                yield answer
                if behaviour.twice:
                    yield answer
            if not behaviour.drain:
                self._fail(context, behaviour.stream_failure)
        finally:
            with self._lock:
                self.open_streams -= 1

    def _answer(self, request: pb.EmbedStreamRequest) -> pb.EmbedStreamResponse:
        error = self.behaviour.item_error(request.id)
        if error is not None:
            return pb.EmbedStreamResponse(id=request.id, error=error)
        return pb.EmbedStreamResponse(
            id=request.id, embedding=self._embedding(request.input, request.options)
        )

    def _begin(self, request: Any, context: Any) -> None:
        with self._lock:
            self.calls.append((request, dict(context.invocation_metadata())))
            failures = self.behaviour.unary_failures
            failure = failures.popleft() if failures else None
        self.behaviour.on_call(request, context)
        while self.behaviour.silent and context.is_active():
            self._closing.wait(0.02)
        if failure is not None:
            self._fail(context, failure)

    def _fail(self, context: Any, failure: FailedStatus) -> None:
        code, message, trailers = failure
        context.set_trailing_metadata(tuple(trailers))
        context.abort(code, message)

    def _version(self, count: int, options: pb.CallOptions) -> str:
        with self._lock:
            self._embedded += count
            space = options.model.space
            if space and not self.behaviour.ignores_space:
                return space.removeprefix("space-")
            switch = self.behaviour.switch_after
            return "2" if switch is not None and self._embedded > switch else "1"

    def _embedding(self, message: pb.Input, options: pb.CallOptions) -> pb.Embedding:
        version = self._version(1, options)
        return pb.Embedding(
            vector=packed(vector_of(message), options.output),
            model="made-up",
            version=version,
            space=f"space-{version}",
            tokens=7,
            truncated=options.HasField("truncate"),
            timings=pb.Timings(preprocess_seconds=0.25, queue_seconds=0.5, inference_seconds=0.125),
        )


def start(
    service: Service,
    address: str = "127.0.0.1:0",
    credentials: grpc.ServerCredentials | None = None,
) -> grpc.Server:
    """Serves ``service``, and tells it its address."""
    pool = futures.ThreadPoolExecutor(32, thread_name_prefix=THREADS)
    size = 64 << 20
    server = grpc.server(
        pool,
        options=[
            ("grpc.max_receive_message_length", size),
            ("grpc.max_send_message_length", size),
            ("grpc.so_reuseport", 0),
        ],
    )
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(service, server)
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
    service.address = address.replace("127.0.0.1:0", f"localhost:{port}")
    server.start()
    return server
