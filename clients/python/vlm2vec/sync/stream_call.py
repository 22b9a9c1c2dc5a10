"""One call of EmbedStream, whose answers are read in a thread."""

import queue
import threading
from collections import deque
from collections.abc import Iterator
from typing import TypeAlias

import grpc

from vlm2vec.errors import Unavailable, VLM2VecError, from_rpc
from vlm2vec.stream_items import next_message
from vlm2vec.v1 import embedding_pb2 as pb

# grpc's classes are generic only to type checkers.
Method: TypeAlias = "grpc.StreamStreamMultiCallable[pb.EmbedStreamRequest, pb.EmbedStreamResponse]"

_FINISH_SECONDS = 5.0
"""How long a server may take to end a stream in which everything is answered."""


class StreamCall:
    """One call of EmbedStream: requests go in, answers and at last an error come out."""

    def __init__(
        self, method: Method, timeout: float | None, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        self._requests: queue.SimpleQueue[pb.EmbedStreamRequest | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[pb.EmbedStreamResponse | VLM2VecError] = queue.SimpleQueue()
        self._takes_more = False
        self._call = method(self._outgoing(), timeout=timeout, metadata=metadata)
        self._reader = threading.Thread(target=self._read, name="vlm2vec-stream", daemon=True)
        self._reader.start()

    def send(self, requests: Iterator[pb.EmbedStreamRequest]) -> None:
        """Queues ``requests`` to be sent, and does not wait until they are."""
        for request in requests:
            self._requests.put(request)

    def ready(self) -> bool:
        """Tells whether `receive` would return at once."""
        return not self._events.empty()

    def receive(self, timeout: float | None) -> pb.EmbedStreamResponse | VLM2VecError | None:
        """Waits for the next answer, or for the error that says why there are no more.

        Returns None after ``timeout`` seconds; a ``timeout`` of None waits without a limit.
        """
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def finish(self) -> None:
        """Says that no requests follow, and gives the server 5 seconds to end the call."""
        self._requests.put(None)
        self._reader.join(_FINISH_SECONDS)

    def close(self) -> None:
        """Cancels the call if it has not ended, and waits for its thread to end."""
        self._requests.put(None)
        self._call.cancel()
        # The garbage collector may close a forgotten stream in any thread.
        if threading.current_thread() is not self._reader:
            self._reader.join()

    def _outgoing(self) -> Iterator[pb.EmbedStreamRequest]:
        """What gRPC sends: the requests, each alone until the server takes several at once."""
        waiting: deque[pb.EmbedStreamRequest | None] = deque()
        while True:
            if not waiting:
                waiting.append(self._requests.get())
            message = next_message(waiting, self._requests, self._takes_more)
            if message is None:
                return
            yield message

    def _read(self) -> None:
        try:
            for response in self._call:
                self._takes_more |= response.takes_more
                for answer in (response, *response.more):
                    self._events.put(answer)
            self._events.put(Unavailable("the server ended the stream"))
        except grpc.RpcError as error:
            self._events.put(from_rpc(error))
