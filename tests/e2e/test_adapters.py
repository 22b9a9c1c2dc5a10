"""AdapterService on a real server: adapters are listed, watched, unloaded and preloaded."""

from collections.abc import Iterator
from typing import Any

import grpc

from tests.e2e.cases import Golden, assert_golden, case_inputs, cosine, options
from tests.e2e.grpc_calls import embed, failure, spaces
from tests.e2e.server import Server
from vlm2vec.v1 import adapters_pb2
from vlm2vec.v1 import embedding_pb2 as pb


def named(version: str, model: str = "qwen") -> dict[str, str]:
    """The fields by which requests name an adapter."""
    return {"model": model, "version": version}


def describe(server: Server, version: str) -> adapters_pb2.Adapter:
    """What AdapterService says of an adapter of ``qwen``."""
    request = adapters_pb2.DescribeAdapterRequest(**named(version))
    return server.adapters.DescribeAdapter(request).adapter


def test_adapters_are_listed_by_model_and_version(server: Server) -> None:
    known = spaces(server)
    everything = server.adapters.ListAdapters(adapters_pb2.ListAdaptersRequest()).adapters
    assert [(item.model, item.version) for item in everything] == [
        (model, version) for model in ("phi", "qwen") for version in ("dora", "lora")
    ]
    for adapter in everything:
        assert adapter.space == known[adapter.model, adapter.version]
        assert adapter.state == adapters_pb2.ADAPTER_STATE_LOADED
        assert adapter.aliases == (["canary", "champion"] if adapter.version == "lora" else [])
    request = adapters_pb2.ListAdaptersRequest(model="qwen")
    assert list(server.adapters.ListAdapters(request).adapters) == list(everything[2:])
    assert describe(server, "lora") == everything[3]


def wait_to_see(watch: Iterator[adapters_pb2.WatchAdaptersResponse], adapter: Any) -> None:
    """Until ``adapter`` is seen; on the way it may be seen to load."""
    while (seen := next(watch).adapter) != adapter:
        assert seen.version == adapter.version
        assert seen.state == adapters_pb2.ADAPTER_STATE_LOADING


def test_adapter_is_unloaded_and_preloaded_while_others_watch(
    server: Server, golden: Golden
) -> None:
    message = case_inputs("qwen")["text"]
    by_space = pb.ModelRef(name="qwen", space=spaces(server)["qwen", "dora"])
    pinned = pb.EmbedRequest(options=pb.CallOptions(model=by_space), inputs=[message])
    watch = server.adapters.WatchAdapters(adapters_pb2.WatchAdaptersRequest(model="qwen"))
    first = [next(watch).adapter for _ in range(2)]
    assert {item.version for item in first} == {"lora", "dora"}

    unload = adapters_pb2.UnloadAdapterRequest(**named("dora"))
    unloaded = server.adapters.UnloadAdapter(unload).adapter
    assert unloaded.state == adapters_pb2.ADAPTER_STATE_AVAILABLE
    assert unloaded == describe(server, "dora")
    wait_to_see(watch, unloaded)
    assert server.metric("adapters_loaded", model="qwen") == 1
    # A second time changes nothing, and the others go on.
    assert server.adapters.UnloadAdapter(unload).adapter == unloaded
    (lora,) = embed(server, message)
    assert cosine(lora, golden["qwen2_vl/lora/text"]) > 0.9999

    preload = adapters_pb2.PreloadAdapterRequest(**named("dora"))
    loaded = server.adapters.PreloadAdapter(preload).adapter
    assert loaded.state == adapters_pb2.ADAPTER_STATE_LOADED
    wait_to_see(watch, loaded)
    watch.cancel()
    assert server.metric("adapters_loaded", model="qwen") == 2
    assert server.adapters.PreloadAdapter(preload).adapter == loaded

    # A request that names a version that is not loaded has it loaded.
    server.adapters.UnloadAdapter(unload)
    (embedding,) = server.embedding.Embed(pinned).embeddings
    assert_golden(embedding, golden, "qwen", "dora", "text")
    assert describe(server, "dora") == loaded


def test_a_version_is_not_unloaded_under_its_requests(server: Server, golden: Golden) -> None:
    message = case_inputs("qwen")["text-long"]
    requests = [
        pb.EmbedStreamRequest(id=f"{version}/{i}", options=options("qwen", version), input=message)
        for i in range(40)
        for version in ("dora", "lora")
    ]
    answers = server.embedding.EmbedStream(iter(requests))
    received = [next(answers)]
    server.adapters.UnloadAdapter(adapters_pb2.UnloadAdapterRequest(**named("dora")))
    received += list(answers)
    assert {answer.id for answer in received} == {request.id for request in requests}
    for answer in received:
        assert not answer.HasField("error"), answer.error
        assert_golden(answer.embedding, golden, "qwen", answer.id.partition("/")[0], "text-long")


def test_adapters_that_cannot_be_unloaded_or_found(server: Server) -> None:
    refused = failure(
        server.adapters.UnloadAdapter, adapters_pb2.UnloadAdapterRequest(**named("lora"))
    )
    assert refused.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "canary, champion" in (refused.details() or "")
    assert describe(server, "lora").state == adapters_pb2.ADAPTER_STATE_LOADED
    calls: list[tuple[Any, Any]] = [
        (server.adapters.DescribeAdapter, adapters_pb2.DescribeAdapterRequest),
        (server.adapters.PreloadAdapter, adapters_pb2.PreloadAdapterRequest),
        (server.adapters.UnloadAdapter, adapters_pb2.UnloadAdapterRequest),
    ]
    for method, request in calls:
        for values, code in (
            (named("v9"), grpc.StatusCode.NOT_FOUND),
            (named("lora", model="gwen"), grpc.StatusCode.NOT_FOUND),
            (named(""), grpc.StatusCode.INVALID_ARGUMENT),
            (named("lora", model=""), grpc.StatusCode.INVALID_ARGUMENT),
            (named("base"), grpc.StatusCode.INVALID_ARGUMENT),
        ):
            assert failure(method, request(**values)).code() == code
    missing = adapters_pb2.ListAdaptersRequest(model="gwen")
    assert failure(server.adapters.ListAdapters, missing).code() == grpc.StatusCode.NOT_FOUND
    watch = server.adapters.WatchAdapters(adapters_pb2.WatchAdaptersRequest(model="gwen"))
    assert failure(next, watch).code() == grpc.StatusCode.NOT_FOUND
