"""Requests whose ids say what has to be answered, single and as a steady stream, and the checks of
their answers."""

import itertools
import threading
from collections.abc import Iterator

import grpc

from tests.e2e.cases import Golden, assert_golden, case_inputs, options
from tests.e2e.server import Server, wait_until
from vlm2vec.v1 import embedding_pb2 as pb

QUICK = ("text", "text-unicode", "image-tiny", "image-two", "video")
"""The parity cases of few tokens."""


def request(number: int, case: str = "", lora: str = "lora") -> pb.EmbedStreamRequest:
    """A request whose id says what the answer has to be; ``lora`` is the version of that adapter,
    which half of them are for."""
    case = case or QUICK[number % len(QUICK)]
    version = ("lora", "base")[number % 2]
    return pb.EmbedStreamRequest(
        id=f"{number}/{version}/{case}",
        options=options("qwen", lora if version == "lora" else version),
        input=case_inputs("qwen")[case],
    )


def assert_right(answer: pb.EmbedStreamResponse, golden: Golden, lora: str = "lora") -> None:
    """Fails unless it is the vector that the id of the answer tells of; ``lora`` as `request` has
    it."""
    assert answer.HasField("embedding"), answer
    _, version, case = answer.id.split("/")
    named = {"lora": lora}.get(version, version)
    assert_golden(answer.embedding, golden, "qwen", version, case, named)


def embed_all_cases(server: Server, golden: Golden, lora: str = "lora") -> None:
    """Embeds all parity cases, as any other caller may, and fails unless the vectors are right."""
    cases = case_inputs("qwen")
    for version, name in (("lora", lora), ("base", "base")):
        call = pb.EmbedRequest(options=options("qwen", name), inputs=cases.values())
        answers = server.embedding.Embed(call, timeout=60).embeddings
        for case, embedding in zip(cases, answers, strict=True):
            assert_golden(embedding, golden, "qwen", version, case, name)


def assert_idle(server: Server) -> None:
    """Waits until no request is under way or in the queue."""
    for name in ("requests_in_flight", "pending_requests", "queue_requests", "queue_tokens"):
        wait_until(lambda name=name: server.metric(name) == 0)  # type: ignore[misc]


class SteadyStream:
    """A stream that keeps ``window`` requests unanswered, in a thread, until it is to end or the
    server ends it; ``lora`` as `request` has it."""

    def __init__(self, server: Server, window: int, lora: str = "lora") -> None:
        self.lora = lora
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
        """How many requests have no answer yet."""
        return len(self.sent) - len(self.answers)

    def catch_up(self) -> None:
        """Waits until all that was sent before now has been answered."""
        sent = set(self.sent)
        wait_until(lambda: sent <= {answer.id for answer in self.answers})

    def finish(self) -> None:
        """Sends no more, waits for the rest of the answers, and closes the connection."""
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
            message = request(number, lora=self.lora)
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
