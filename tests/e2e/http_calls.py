"""Requests to ``/v1/embeddings`` and the vectors in their answers."""

import base64
from typing import Any

import httpx
import numpy as np

from tests.e2e.cases import png


def data_uri(picture: Any) -> str:
    """A picture as a PNG in a data URI."""
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()


def embed(http: httpx.Client, **body: Any) -> Any:
    """The answer to a request with ``body``, which has to succeed; the model is ``qwen``, unless
    ``body`` names another."""
    answer = http.post("/v1/embeddings", json={"model": "qwen", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def vectors(answer: Any) -> list[Any]:
    """The vectors of an answer in the order of its inputs."""
    return [np.array(item["embedding"], np.float32) for item in answer["data"]]
