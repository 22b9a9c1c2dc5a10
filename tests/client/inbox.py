"""Requests of a stream that wait for their answers."""

import random
import threading
from collections.abc import Iterator

import grpc

from vlm2vec.v1 import embedding_pb2 as pb

THREADS = "test-server"
"""What the names of the test server's threads begin with."""


class Inbox:
    """Reads the requests of a stream in a thread, and hands them out to be answered."""

    def __init__(self, requests: Iterator[pb.EmbedStreamRequest]) -> None:
        self.messages: list[list[pb.EmbedStreamRequest]] = []
        """The requests of each message that came."""
        self.most_waiting = 0
        """The most requests that waited at any time."""
        self._waiting: list[pb.EmbedStreamRequest] = []
        self._ended = False
        self._changed = threading.Condition()
        threading.Thread(target=self._read, args=(requests,), name=THREADS, daemon=True).start()

    def take(self, hold: int, order: random.Random | None) -> pb.EmbedStreamRequest | None:
        """Takes a request to answer, the first or by ``order`` any; None at the end.

        Waits until ``hold`` requests wait, or no more have come for a while.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) >= hold or self._ended, timeout=0.02)
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                return None
            return self._waiting.pop(order.randrange(len(self._waiting)) if order else 0)

    def _read(self, requests: Iterator[pb.EmbedStreamRequest]) -> None:
        try:
            for message in requests:
                with self._changed:
                    self.messages.append([message, *message.more])
                    self._waiting += self.messages[-1]
                    self.most_waiting = max(self.most_waiting, len(self._waiting))
                    self._changed.notify_all()
        except grpc.RpcError:
            pass
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
