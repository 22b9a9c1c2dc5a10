"""How the front end serves, and what it logs."""

from dataclasses import dataclass

from vlm2vec_service.settings.field import MOST_INT32, count, seconds, setting

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True)
class ServerSettings:
    """How the front end serves."""

    listen: str = setting(
        "127.0.0.1:50051", "Address for gRPC: HOST:PORT, or unix:PATH.", kind="address"
    )
    processes: int = setting(
        0,
        "Front-end processes on the same ports, which share the workers. 0 takes one for every "
        "four cores, at most 8, and one where a worker runs on this host's CPU. Limits of calls, "
        "bytes and queues are divided among them.",
        least=0,
        most=256,
    )
    metrics_listen: str = setting(
        "127.0.0.1:9090",
        "Address for Prometheus metrics: HOST:PORT; empty turns them off.",
        kind="port",
    )
    max_inputs: int = count(2048, "Inputs of a unary call, and candidates of a ranking.")
    max_calls: int = count(
        4096, "Calls and streams under way at once; one caller may have at most half of them."
    )
    max_message_bytes: int = count(67_108_864, "Bytes of one gRPC message.", most=MOST_INT32)
    max_elements: int = count(
        300_000,
        "Fields of one gRPC message, and keys and values of one JSON body, inputs and token ids "
        "included: more of them are not parsed.",
    )
    max_connections: int = count(
        2048,
        "Connections that may be open to each port, gRPC's and HTTP's. A further one is closed "
        "over gRPC and answered 503 over HTTP, but for health.",
        most=MOST_INT32,
    )
    max_connection_streams: int = count(
        1024,
        "Calls and streams at once on one gRPC connection; a client waits with any more.",
        most=MOST_INT32,
    )
    connection_idle_seconds: float = seconds(
        300.0,
        "A gRPC connection without a call is closed after so long, or up to twice as long; clients "
        "connect again when they need to. 0 is never.",
    )
    max_received_bytes: int = count(
        1_073_741_824,
        "Bytes of requests that are held at once: gRPC messages, and over HTTP four times the "
        "body and what was fetched for it; and 32 for each component that a call of several "
        "inputs is answered with. One caller at one priority may hold as many of them as "
        "it leaves free; streams are read when there is room, other calls are refused.",
    )
    max_prepared_bytes: int = count(
        1_073_741_824,
        "Bytes of tokens and pixels that are prepared at once and not yet embedded; shared as "
        "max_received_bytes are, and every input waits for room.",
    )
    max_queue_requests: int = count(
        4096,
        "Inputs admitted and not yet answered, for each model. One caller at one priority may have "
        "as many of them as it leaves free; streams wait for more, other calls are refused.",
        unit="INPUTS",
    )
    max_queue_tokens: int = count(
        1_048_576,
        "Tokens that wait for a device, for each model; shared as max_queue_requests are.",
    )
    stream_window: int = count(
        256,
        "Inputs of one stream that are under way at once, and of one unary call half as many: the "
        "server goes on with it when some are answered.",
        unit="INPUTS",
    )
    preprocess_threads: int = count(
        4,
        "Threads that decode media for one caller; two more are there for callers who "
        "have none, and as many again are for texts, which so never wait for pictures.",
        most=1024,
    )
    preprocess_seconds: float = seconds(
        20.0,
        "How long one input may be decoded, resized and tokenised, once its turn has come; one "
        "that takes longer is refused.",
        least=0.01,
    )
    default_deadline_seconds: float = seconds(
        300.0,
        "Time limit of a unary call, or of one input of a stream, that sets none.",
        least=0.01,
    )
    batch_timeout_seconds: float = seconds(
        300.0,
        "A worker that takes longer over one batch is restarted. Less is given where what the "
        "worker did before says so: 10 s and ten times what the tokens should take.",
        least=0.01,
    )
    drain_seconds: float = seconds(
        60.0, "After SIGTERM: how long accepted requests may take to finish."
    )
    keepalive_seconds: float = seconds(
        30.0, "Interval of HTTP/2 pings on a silent connection.", least=1.0
    )
    max_connection_age_seconds: float = seconds(
        0.0, "Age at which a connection is asked to reconnect, to spread over pods; 0 is never."
    )


@dataclass(frozen=True)
class LogSettings:
    """What is logged, to standard error."""

    log_format: str = setting("text", "Format of the log: text or json.", choices=("text", "json"))
    log_level: str = setting("INFO", "Least severe level that is logged.", choices=LEVELS)
