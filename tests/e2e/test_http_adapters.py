"""AdapterService over HTTP: it says and does what it does over gRPC."""

from typing import Any

import httpx
import pytest

from tests.e2e.grpc_calls import spaces
from tests.e2e.server import Server

DORA = {"model": "qwen", "version": "dora"}


def ask(http: httpx.Client, method: str, path: str, **values: Any) -> Any:
    """The JSON of an answer, which has to be a success."""
    answer = http.request(method, f"/v1/adapters{path}", **values)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_adapters_are_listed_and_described(server: Server, http: httpx.Client) -> None:
    known = spaces(server)
    everything = ask(http, "GET", "")
    assert everything["object"] == "list"
    for item, (model, version) in zip(
        everything["data"],
        [(model, version) for model in ("phi", "qwen") for version in ("dora", "lora")],
        strict=True,
    ):
        assert item == {
            "object": "adapter", "model": model, "version": version, "state": "loaded",
            "space": known[model, version], "reason": "",
            "aliases": ["canary", "champion"] if version == "lora" else [],
        }  # fmt: skip
        assert ask(http, "GET", f"/{model}/{version}") == item
    assert ask(http, "GET", "", params={"model": "qwen"})["data"] == everything["data"][2:]


def test_an_adapter_is_unloaded_and_preloaded(server: Server, http: httpx.Client) -> None:
    for path, state, held in (("/unload", "available", 1), ("/preload", "loaded", 2)):
        for _ in range(2):  # a second time changes nothing
            answer = ask(http, "POST", path, json=DORA)
            assert answer["state"] == state
            assert answer == ask(http, "GET", "/qwen/dora")
            assert server.metric("adapters_loaded", model="qwen") == held


@pytest.mark.parametrize("path", ["preload", "unload"])
@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({**DORA, "version": "v9"}, 404, None),
        ({**DORA, "model": "gwen"}, 404, None),
        ({"model": "qwen"}, 400, "version"),
        ({**DORA, "version": ""}, 400, "version"),
        ({**DORA, "version": 1}, 400, "version"),
        ({**DORA, "version": "base"}, 400, "version"),
        ({**DORA, "force": True}, 400, "force"),
        ({**DORA, "model": None}, 400, "model"),
        ({"version": "dora"}, 400, "model"),
        ([DORA], 400, "body"),
    ],
)
def test_requests_that_name_no_adapter(
    http: httpx.Client, path: str, body: Any, status: int, field: str | None
) -> None:
    answer = http.post(f"/v1/adapters/{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, field), answer.text


def test_adapters_that_stay(http: httpx.Client) -> None:
    lora = http.post("/v1/adapters/unload", json={**DORA, "version": "lora"})
    assert (lora.status_code, lora.json()["error"]["code"]) == (409, "failed_precondition")
    assert "canary, champion" in lora.json()["error"]["message"]
    assert http.get("/v1/adapters/qwen/v9").status_code == 404
    assert http.get("/v1/adapters", params={"model": "gwen"}).status_code == 404
    # A page elsewhere can send this without asking, with any type but JSON's or with none.
    for kind in ({}, {"content-type": "text/plain"}):
        body = b'{"model": "qwen", "version": "dora"}'
        answer = http.post("/v1/adapters/unload", content=body, headers=kind)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "body")
    assert ask(http, "GET", "/qwen/dora")["state"] == "loaded"
