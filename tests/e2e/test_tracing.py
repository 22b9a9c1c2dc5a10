"""One trace from the caller through the front end to the worker, as a collector receives it."""

import queue
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from tests.e2e.server import running_server
from vlm2vec.v1 import embedding_pb2 as pb

TRACE, HTTP_TRACE = "0af7651916cd43dd8448eb211c80319c", "0af7651916cd43dd8448eb211c80319d"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span with the name of the process that sent it."""

    def __init__(self) -> None:
        self.spans: queue.Queue[tuple[str, Any]] = queue.Queue()

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.put((attributes["service.name"], span))
        return otlp.ExportTraceServiceResponse()


def test_one_trace_from_caller_to_worker(checkpoints: Path, tmp_path: Path) -> None:
    collector = Collector()
    receiver = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, receiver)
    port = receiver.add_insecure_port("127.0.0.1:0")
    receiver.start()
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    model = f"q={checkpoints / 'qwen2_vl'}"
    with running_server(tmp_path, "--model", model, environment=environment) as server:
        server.embedding.Embed(
            pb.EmbedRequest(inputs=[pb.Input(prompt="a cat")]),
            metadata=(("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),),
        )
        httpx.post(
            f"http://{server.http_address}/v1/embeddings",
            json={"input": "a cat"},
            headers={"traceparent": f"00-{HTTP_TRACE}-b7ad6b7169203331-01"},
        ).raise_for_status()
        batch = "/vlm2vec.worker.v1.WorkerService/RunBatch"
        missing = {
            (TRACE, "vlm2vec-frontend", "/vlm2vec.v1.EmbeddingService/Embed"),
            (TRACE, "vlm2vec-worker", batch),
            (HTTP_TRACE, "vlm2vec-frontend", "/v1/embeddings"),
            (HTTP_TRACE, "vlm2vec-worker", batch),
        }
        # A span is exported when it ends, so the caller's own may come last.
        while missing:
            process, span = collector.spans.get(timeout=60)
            missing.discard((span.trace_id.hex(), process, span.name))
    receiver.stop(None)
