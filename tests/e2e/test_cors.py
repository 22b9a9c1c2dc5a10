"""What browsers ask before a page of another origin may call, and what they tell it then."""

import httpx
import pytest

from tests.e2e.conftest import CORS_ORIGIN

OTHER = "https://other.example.com"


def preflight(http: httpx.Client, path: str, **changes: str) -> httpx.Response:
    """What a browser asks before OpenAI's client, in a page, calls ``path``."""
    headers = {
        "origin": CORS_ORIGIN, "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
    }  # fmt: skip
    return http.options(path, headers=headers | changes)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/adapters/unload", "/openapi.json"])
def test_pages_of_an_allowed_origin_may_call(http: httpx.Client, path: str) -> None:
    allowed = preflight(http, path)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == CORS_ORIGIN
    assert allowed.headers["access-control-allow-methods"] == "GET, POST"
    assert "x-stainless-os" in allowed.headers["access-control-allow-headers"]
    for change in (
        {"origin": OTHER}, {"origin": "null"}, {"access-control-request-method": "DELETE"},
    ):  # fmt: skip
        assert preflight(http, path, **change).status_code == 400
    assert "access-control-allow-origin" not in preflight(http, path, origin=OTHER).headers


def test_pages_may_read_answers_and_errors(http: httpx.Client) -> None:
    for body, status in (({"model": "qwen", "input": "a cat"}, 200), ({}, 400)):
        answer = http.post("/v1/embeddings", json=body, headers={"origin": CORS_ORIGIN})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == CORS_ORIGIN
        shown = answer.headers["access-control-expose-headers"]
        assert {"x-request-id", "retry-after"} <= set(shown.split(", "))
        other = http.post("/v1/embeddings", json=body, headers={"origin": OTHER})
        assert "access-control-allow-origin" not in other.headers
    # It is no more than what is asked for besides: without the header nothing of it is said.
    assert "access-control-allow-origin" not in http.get("/v1/models").headers
