"""Versions go from MLflow to traffic and back while requests run: a real MLflow, a real server."""

import asyncio
import functools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from tests.conftest import adapter_folder
from tests.e2e.cases import Golden, case_inputs, cosine, unpack
from tests.e2e.mlflow_server import WEBHOOKS, running_mlflow
from tests.e2e.rollout import ADAPTERS, MODEL, Rollout, Traffic
from tests.e2e.server import running_server, wait_until
from tests.unit.test_webhook import headers
from vlm2vec.v1 import adapters_pb2
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_registry import traffic
from vlm2vec_registry.snapshot import LOGGED_MODEL
from vlm2vec_registry.store import Registry
from vlm2vec_service.frontend.http.peers import Peers

LOADED = adapters_pb2.ADAPTER_STATE_LOADED


@pytest.fixture(scope="module")
def rollout(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rollout]:
    """Versions 1 (lora, champion), 2 (dora) and 3 (the base), followed by a server."""
    folder = tmp_path_factory.mktemp("rollout")
    base = checkpoints / "qwen2_vl"
    with running_mlflow(folder / "mlflow", environment=WEBHOOKS) as mlflow:
        registry = Registry(mlflow.url)
        for name in ADAPTERS.values():
            folder_of = None if name == "base" else adapter_folder("qwen2_vl", name)
            registry.publish(MODEL, folder_of, base=base)
        traffic.promote(registry, MODEL, "1")
        flags = [
            "--model", f"{MODEL}={base}", "--dtype", "float32", "--registry", mlflow.url,
            "--poll-seconds", "0.2", "--cache-dir", str(folder / "cache"),
            "--max-artifact-bytes", "4000000", "--trusted-proxies", "127.0.0.0/8",
        ]  # fmt: skip
        versions = {version.name: version for version in registry.versions(MODEL)}
        with running_server(folder, *flags) as server:
            yield Rollout(mlflow, registry, server, flags, versions)


def test_ten_thousand_requests_while_the_champion_flips(rollout: Rollout, golden: Golden) -> None:
    with Traffic(rollout, golden, pb.CallOptions(priority=pb.PRIORITY_BULK)) as requests:
        for flip in range(50):
            rollout.promote("2" if flip % 2 == 0 else "1")
        requests.reach(10_000)
    assert requests.errors == []
    assert requests.total >= 10_000
    assert min(requests.answers["1"], requests.answers["2"]) > 200
    assert rollout.champion() == "1"


def test_a_canary_takes_its_share_by_key(rollout: Rollout, golden: Golden) -> None:
    traffic.start_canary(rollout.registry, MODEL, "2", 0.3)
    wait_until(lambda: rollout.server.metric("canary_share", model=MODEL) == 0.3)
    models = httpx.get(f"http://{rollout.server.http_address}/v1/models").json()["data"]
    assert [model["canary_share"] for model in models] == [0.3]
    try:
        with Traffic(rollout, golden, pb.CallOptions()) as requests:
            requests.reach(2_000)
        assert requests.errors == []
        share = requests.answers["2"] / requests.total
        assert share == pytest.approx(0.3, abs=0.04)

        message = case_inputs("qwen")["text"]

        def version_for(key: str) -> str:
            request = pb.EmbedRequest(inputs=[message], options=pb.CallOptions(routing_key=key))
            return str(rollout.server.embedding.Embed(request).embeddings[0].version)

        before = {key: version_for(key) for key in map(str, range(40))}
        assert {key: version_for(key) for key in before} == before
        assert set(before.values()) == {"1", "2"}
        # An ingress gives the key in a header, or forwards whom it saw; over HTTP it is the same.
        assert {key: version_behind(rollout, "x-routing-key", key) for key in before} == before
        hosts = [f"203.0.113.{number}" for number in range(40)]
        by_host = {host: version_behind(rollout, "x-forwarded-for", host) for host in hosts}
        assert by_host == {host: version_behind(rollout, "x-forwarded-for", host) for host in hosts}
        assert set(by_host.values()) == {"1", "2"}
        # Who gives no key is one caller, and sees one space.
        assert len({version_for("") for _ in range(20)}) == 1
        traffic.start_canary(rollout.registry, MODEL, "2", 0.6)
        wait_until(lambda: rollout.server.metric("canary_share", model=MODEL) == 0.6)
        more = {key: version_for(key) for key in before}
        assert all(more[key] == "2" for key, version in before.items() if version == "2")
    finally:
        traffic.stop_canary(rollout.registry, MODEL)
        wait_until(lambda: rollout.server.metric("canary_share", model=MODEL) == 0)


def version_behind(rollout: Rollout, header: str, value: str) -> str:
    """Which version answers with a header of an ingress, over gRPC and HTTP alike."""
    request = pb.EmbedRequest(inputs=[case_inputs("qwen")["text"]])
    answer = rollout.server.embedding.Embed(request, metadata=((header, value),))
    url = f"http://{rollout.server.http_address}/v1/embeddings"
    body = httpx.post(url, json={"input": "a"}, headers={header: value}).json()
    assert body["version"] == answer.embeddings[0].version
    return str(body["version"])


def test_pins_hold_while_the_champion_flips(rollout: Rollout, golden: Golden) -> None:
    pins = {
        "1": pb.ModelRef(space=rollout.versions["1"].space),
        "2": pb.ModelRef(version="2"),
    }
    for version, pin in pins.items():
        with Traffic(rollout, golden, pb.CallOptions(model=pin)) as requests:
            for target in ("2", "1"):
                rollout.promote(target)
            requests.reach(300)
        assert requests.errors == []
        assert set(requests.answers) == {version}


def test_the_shadow_is_compared_and_never_answers(rollout: Rollout, golden: Golden) -> None:
    rollout.registry.set_alias(MODEL, "shadow", "2")
    wait_until(lambda: rollout.aliases()["2"] == ["shadow"])
    try:
        request = pb.EmbedRequest(inputs=[case_inputs("qwen")["text"]])
        for _ in range(40):  # with pauses: a shadow runs when there is nothing else to do
            (embedding,) = rollout.server.embedding.Embed(request).embeddings
            assert embedding.version == "1"
            assert cosine(unpack(embedding.vector), golden["qwen2_vl/lora/text"]) > 0.9999
        wait_until(lambda: rollout.server.metric("shadow_neighbour_overlap_count") >= 1)
        assert rollout.server.metric("shadow_errors_total") == 0
        compared = rollout.server.metric("shadow_cosine_count", model=MODEL)
        mean = rollout.server.metric("shadow_cosine_sum", model=MODEL) / compared
        ours, theirs = (golden[f"qwen2_vl/{name}/text"] for name in ("lora", "dora"))
        assert mean == pytest.approx(cosine(ours, theirs), abs=1e-3)
    finally:
        rollout.registry.delete_alias(MODEL, "shadow")
        wait_until(lambda: rollout.aliases()["2"] == [])


def test_the_base_is_rolled_out_like_an_adapter(rollout: Rollout, golden: Golden) -> None:
    registry = rollout.registry
    with Traffic(rollout, golden, pb.CallOptions()) as requests:
        rollout.promote("3")
        wait_until(lambda: requests.answers["3"] >= 50)
        traffic.start_canary(registry, MODEL, "2", 0.5)
        wait_until(lambda: requests.answers["2"] >= 50)
        traffic.stop_canary(registry, MODEL)
        wait_until(lambda: rollout.aliases()["2"] == [])
        assert version_behind(rollout, "x-routing-key", "a") == "3"
        assert traffic.rollback(registry, MODEL) == ("1", "3")
        wait_until(lambda: rollout.champion() == "1")
        before = requests.answers["3"]
        traffic.start_canary(registry, MODEL, "3", 0.5)
        wait_until(lambda: requests.answers["3"] >= before + 50)
        traffic.stop_canary(registry, MODEL)
        wait_until(lambda: rollout.aliases()["3"] == [])
    assert requests.errors == []
    assert rollout.aliases()["base"] == []


def test_what_cannot_be_loaded_leaves_the_old_one(
    rollout: Rollout, golden: Golden, checkpoints: Path, tmp_path: Path
) -> None:
    registry, base = rollout.registry, checkpoints / "qwen2_vl"

    def version(name: str, change: Callable[[bytes], bytes] = bytes, **tags: str) -> str:
        """A version that was good when it was published, ``change`` made to its weights since."""
        folder = tmp_path / name
        shutil.copytree(adapter_folder("qwen2_vl", "dora"), folder)
        # Contents of its own: what is in the cache would not be fetched.
        (folder / "embedding.json").write_text(json.dumps({"prompt": {"suffix": name}}))
        changed = {f"vlm2vec.{key}": value for key, value in tags.items()}
        published = registry.publish(MODEL, folder, base=base)
        weights = folder / "adapter_model.safetensors"
        weights.write_bytes(change(weights.read_bytes()))
        registry.client.log_model_artifact(published.tags[LOGGED_MODEL], str(weights))
        for key, value in changed.items():
            registry.tag(MODEL, published.name, key, value)
        return published.name

    lora = (adapter_folder("qwen2_vl", "lora") / "adapter_model.safetensors").read_bytes()
    bytes_differ = "not the bytes that were published"
    cases = {
        "corrupted": (version("corrupted", lambda data: data[:-1] + b"!"), bytes_differ),
        "truncated": (version("truncated", lambda data: data[:1000]), bytes_differ),
        "swapped": (version("swapped", lambda _: lora), bytes_differ),
        "oversized": (version("oversized", lambda data: data + bytes(4_000_000)), "max_artifact"),
        "other-base": (version("other-base", base="00" * 32), "another base"),
        "other-space": (version("other-space", space="00" * 16), "not 0000"),
    }
    with Traffic(rollout, golden, pb.CallOptions()) as requests:
        for name, (number, problem) in cases.items():
            registry.set_alias(MODEL, "champion", number)
            wait_until(functools.partial(rollout.has_failed, number))
            assert problem in rollout.describe(number).reason, name
            assert rollout.champion() == "1"
            pinned = pb.EmbedRequest(
                options=pb.CallOptions(model=pb.ModelRef(version=number)),
                inputs=[case_inputs("qwen")["text"]],
            )
            with pytest.raises(grpc.RpcError) as caught:
                rollout.server.embedding.Embed(pinned)
            assert isinstance(caught.value, grpc.Call)
            assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert requests.errors == []
    assert set(requests.answers) == {"1"}
    assert rollout.server.metric("adapter_load_failures_total", model=MODEL) >= len(cases)
    traffic.promote(registry, MODEL, "1")
    for number, _ in cases.values():
        registry.client.delete_model_version(MODEL, number)
    wait_until(lambda: set(rollout.aliases()) == {"base", *ADAPTERS})


def test_a_retired_space_says_so(rollout: Rollout, checkpoints: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for path in adapter_folder("qwen2_vl", "lora").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "embedding.json").write_text('{"prompt": {"suffix": "!"}}')
    version = rollout.registry.publish(MODEL, folder, base=checkpoints / "qwen2_vl")
    assert version.space not in {item.space for item in rollout.versions.values()}
    options = pb.CallOptions(model=pb.ModelRef(space=version.space))
    request = pb.EmbedRequest(options=options, inputs=[case_inputs("qwen")["text"]])
    wait_until(lambda: version.name in rollout.aliases())
    assert rollout.server.embedding.Embed(request).embeddings[0].version == version.name
    assert rollout.describe(version.name).state == LOADED
    rollout.registry.client.delete_model_version(MODEL, version.name)
    wait_until(lambda: version.name not in rollout.aliases())
    with pytest.raises(grpc.RpcError) as caught:
        rollout.server.embedding.Embed(request)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "retired" in (caught.value.details() or "")


def test_a_webhook_makes_it_follow_at_once(
    rollout: Rollout, golden: Golden, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("a secret of the two\n")
    flags = [
        *rollout.flags, "--poll-seconds", "3600", "--webhook-secret-file", str(tmp_path / "secret"),
        "--adapters-read-only",
    ]  # fmt: skip
    client = rollout.registry.client
    with running_server(tmp_path, *flags) as server:
        follower = replace(rollout, server=server)
        assert follower.champion() == "1"
        # Another server, which has the notice, passes it on.
        body = json.dumps({"data": {"name": MODEL}}).encode()
        notice = headers(body, "a secret of the two")
        traffic.promote(rollout.registry, MODEL, "2")
        peers = Peers(f"http://{server.http_address}")
        asyncio.run(peers.tell("/webhooks/mlflow", notice, body))
        wait_until(lambda: follower.champion() == "2")
        for secret, status in (("a secret of the two", 204), ("a guess", 401)):
            webhook = client.create_webhook(
                f"rollout-{status}", f"http://{server.http_address}/webhooks/mlflow",
                events=["model_version_alias.created"], secret=secret,
            )  # fmt: skip
            tried = client.test_webhook(webhook.webhook_id)
            assert tried.response_status == status, tried
            if status != 204:
                client.delete_webhook(webhook.webhook_id)
        follower.promote("1")
        follower.promote("2")
        follower.promote("1")
        with pytest.raises(grpc.RpcError) as caught:
            server.adapters.UnloadAdapter(
                adapters_pb2.UnloadAdapterRequest(model=MODEL, version="2")
            )
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
        url = f"http://{server.http_address}/v1/adapters/unload"
        assert httpx.post(url, json={"model": MODEL, "version": "2"}).status_code == 403
    client.delete_webhook(client.list_webhooks()[0].webhook_id)


def test_mlflow_killed_in_the_middle(rollout: Rollout, golden: Golden, tmp_path: Path) -> None:
    """The last test: nothing follows MLflow afterwards."""
    with Traffic(rollout, golden, pb.CallOptions()) as requests:
        rollout.promote("2")
        rollout.mlflow.kill()
        wait_until(lambda: rollout.server.metric("registry_errors_total", model=MODEL) >= 1)
        requests.reach(requests.total + 500)
    assert requests.errors == []
    assert rollout.champion() == "2"
    stale = time.time() - rollout.server.metric("registry_last_success_timestamp_seconds")
    assert 0 < stale < 300

    # A server that starts now has the cache and what was last known.
    with running_server(tmp_path, *rollout.flags) as second:
        other = replace(rollout, server=second)
        assert other.champion() == "2"
        (embedding,) = second.embedding.Embed(
            pb.EmbedRequest(inputs=[case_inputs("qwen")["text"]])
        ).embeddings
        vector = np.frombuffer(embedding.vector.data, "<f4")
        assert cosine(vector, golden["qwen2_vl/dora/text"]) > 0.9999
