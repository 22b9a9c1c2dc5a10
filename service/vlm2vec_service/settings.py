"""Settings as frozen dataclasses: every field is a documented flag and environment variable.

`setting` attaches the text that ``--help`` shows; `vlm2vec_service.options` turns a dataclass
into command-line options. Nothing here imports more than the standard library.
"""

from dataclasses import dataclass, field
from typing import Any


def setting(default: Any, help: str) -> Any:
    """A dataclass field with a default and the sentence that ``--help`` shows for it."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Limits:
    """What one input may cost. Whatever is larger is refused, with the limit in the message."""

    max_tokens: int = setting(8192, "Tokens per input, image and video tokens included.")
    max_text_bytes: int = setting(262_144, "Bytes of prompt, instruction or text per input.")
    max_parts: int = setting(256, "Parts per input: texts, images, a video.")
    max_images: int = setting(16, "Images per input.")
    max_image_bytes: int = setting(20_971_520, "Bytes per encoded image.")
    max_image_pixels: int = setting(50_000_000, "Pixels per image, before any resizing.")
    max_decoded_pixels: int = setting(
        5_000_000_000,
        "Pixels of an input's images together, and of the frames of its video that are decoded. Of "
        "a file with H.264, HEVC, VP9 or AV1 in MP4, MOV, Matroska or WebM those are the frames "
        "from a key frame to each that is sampled: 4 billion for eight of 1920x1080 with a key "
        "frame every 250, however long the film is. Of any other file they are all.",
    )
    max_video_bytes: int = setting(52_428_800, "Bytes per encoded video.")
    max_video_frames: int = setting(64, "Frames that an input's video may keep.")
    max_video_decoded_frames: int = setting(
        20_000, "Frames a video file may hold; they are decoded to sample from them."
    )


@dataclass(frozen=True)
class VideoSettings:
    """How frames are taken from a video file."""

    video_frames: int = setting(8, "Frames sampled uniformly from a video file.")


@dataclass(frozen=True)
class EngineSettings:
    """How the engine runs on its device."""

    device: str = setting("cpu", "Where to run: cpu, cuda or cuda:N.")
    dtype: str = setting(
        "bfloat16", "Arithmetic of the model: float32 or bfloat16. Vectors are always float32."
    )
    token_budget: int = setting(
        0,
        "Tokens per batch; a longer input gets a batch of its own. "
        "0 takes what the device likes: 2048 on a CPU, 16384 elsewhere.",
    )
    vision_batch_patches: int = setting(
        0,
        "Image patches that go through the vision tower at once. "
        "0 takes what the device likes: 2048 on a CPU, 65536 elsewhere.",
    )
    vision_cache_bytes: int = setting(
        268_435_456, "Bytes of device memory for cached image and video features; 0 turns it off."
    )
    merged_bytes: int = setting(
        -1,
        "Bytes of device memory for the weights of busy adapters merged into the base's; "
        "0 turns merging off. -1 takes half of what is free when the base is loaded, on a CPU "
        "at most a quarter of the memory of the machine or container.",
    )
    cuda_graphs: bool = setting(
        True, "Replay small batches on a GPU as one launch, recorded when their size came before."
    )


@dataclass(frozen=True)
class LogSettings:
    """What is logged, to standard error."""

    log_format: str = setting("text", "Format of the log: text or json.")
    log_level: str = setting("INFO", "Least severe level that is logged.")


@dataclass(frozen=True)
class ServerSettings:
    """How the front end serves."""

    listen: str = setting("127.0.0.1:50051", "Address for gRPC: HOST:PORT, or unix:PATH.")
    processes: int = setting(
        0,
        "Front-end processes on the same ports, which share the workers. 0 takes one for every "
        "four cores, at most 8, and one where a worker runs on this host's CPU. Limits of calls, "
        "bytes and queues are divided among them.",
    )
    metrics_listen: str = setting(
        "127.0.0.1:9090", "Address for Prometheus metrics: HOST:PORT; empty turns them off."
    )
    max_inputs: int = setting(2048, "Inputs of a unary call, and candidates of a ranking.")
    max_calls: int = setting(
        4096, "Calls and streams under way at once; one caller may have at most half of them."
    )
    max_message_bytes: int = setting(67_108_864, "Bytes of one gRPC message.")
    max_elements: int = setting(
        300_000,
        "Fields of one gRPC message, and keys and values of one JSON body, inputs and token ids "
        "included: more of them are not parsed.",
    )
    max_connections: int = setting(
        2048,
        "Connections that may be open to each port, gRPC's and HTTP's. A further one is closed "
        "over gRPC and answered 503 over HTTP, but for health.",
    )
    max_connection_streams: int = setting(
        1024, "Calls and streams at once on one gRPC connection; a client waits with any more."
    )
    connection_idle_seconds: float = setting(
        300.0,
        "A gRPC connection without a call is closed after so long, or up to twice as long; clients "
        "connect again when they need to. 0 is never.",
    )
    max_received_bytes: int = setting(
        1_073_741_824,
        "Bytes of requests that are held at once: gRPC messages, and over HTTP four times the "
        "body and what was fetched for it; and 32 for each component that a call of several "
        "inputs is answered with. One caller at one priority may hold as many of them as "
        "it leaves free; streams are read when there is room, other calls are refused.",
    )
    max_prepared_bytes: int = setting(
        1_073_741_824,
        "Bytes of tokens and pixels that are prepared at once and not yet embedded; shared as "
        "max_received_bytes are, and every input waits for room.",
    )
    max_queue_requests: int = setting(
        4096,
        "Inputs admitted and not yet answered, for each model. One caller at one priority may have "
        "as many of them as it leaves free; streams wait for more, other calls are refused.",
    )
    max_queue_tokens: int = setting(
        1_048_576,
        "Tokens that wait for a device, for each model; shared as max_queue_requests are.",
    )
    stream_window: int = setting(
        256,
        "Inputs of one stream that are under way at once, and of one unary call half as many: the "
        "server goes on with it when some are answered.",
    )
    preprocess_threads: int = setting(
        4,
        "Threads that decode images and video for one caller; two more are there for callers who "
        "have none, and as many again are for texts, which so never wait for pictures.",
    )
    preprocess_seconds: float = setting(
        20.0,
        "How long one input may be decoded, resized and tokenised, once its turn has come; one "
        "that takes longer is refused.",
    )
    default_deadline_seconds: float = setting(
        300.0, "Time limit of a unary call, or of one input of a stream, that sets none."
    )
    batch_timeout_seconds: float = setting(
        300.0,
        "A worker that takes longer over one batch is restarted. Less is given where what the "
        "worker did before says so: 10 s and ten times what the tokens should take.",
    )
    drain_seconds: float = setting(
        60.0, "After SIGTERM: how long accepted requests may take to finish."
    )
    keepalive_seconds: float = setting(30.0, "Interval of HTTP/2 pings on a silent connection.")
    max_connection_age_seconds: float = setting(
        0.0, "Age at which a connection is asked to reconnect, to spread over pods; 0 is never."
    )


@dataclass(frozen=True)
class RegistrySettings:
    """Where adapter versions come from, and how many are held."""

    registry: str = setting(
        "",
        "MLflow registry with the versions of every model: an MLflow server's URL, a database URI, "
        "or a folder with an SQLite store. Empty serves only what --adapter gives.",
    )
    poll_seconds: float = setting(5.0, "Seconds between looks at the registry.")
    webhook_secret_file: str = setting(
        "",
        "File with the secret of MLflow's webhooks, which POST /webhooks/mlflow on the HTTP port "
        "takes then: a change is followed at once. Empty turns them off.",
    )
    cache_dir: str = setting(
        "~/.cache/vlm2vec", "Folder for fetched versions; processes of one host may share it."
    )
    cache_bytes: int = setting(
        10_737_418_240, "Bytes of fetched versions to keep that no process serves."
    )
    max_artifact_bytes: int = setting(1_073_741_824, "Bytes of one version; a larger is refused.")
    max_adapters: int = setting(
        16,
        "Versions that workers hold, for each model. Beyond it the least lately used leaves; "
        "champion, canary, shadow and versions in use stay.",
    )
    max_adapter_bytes: int = setting(
        4_294_967_296, "Bytes of weights files of the versions that workers hold, for each model."
    )
    adapters_read_only: bool = setting(
        False, "Whether AdapterService refuses to load and unload; the registry alone decides then."
    )


@dataclass(frozen=True)
class HttpSettings:
    """How the front end serves HTTP."""

    http_listen: str = setting(
        "127.0.0.1:8080", "Address for HTTP: HOST:PORT, or unix:PATH; empty turns HTTP off."
    )
    http_cors_origins: str = setting(
        "",
        "Origins whose pages may call from a browser, comma-separated: https://app.example.com; "
        "or * for all. Empty allows none.",
    )
    http_max_body_bytes: int = setting(
        67_108_864, "Bytes of one request's body, inflated if it is compressed by gzip."
    )
    http_body_seconds: float = setting(60.0, "How long a request's body may take to arrive.")
    http_keepalive_seconds: float = setting(
        65.0,
        "A connection that is silent between requests, or takes longer over the head of one, is "
        "closed after so long.",
    )
    fetch_origins: str = setting(
        "",
        "Where image_url and video_url may point besides data URIs, comma-separated: "
        "https://cdn.example.com, https://*.example.com. Empty fetches nothing.",
    )
    fetch_seconds: float = setting(10.0, "Time limit of fetching one URL, redirects included.")
    fetch_redirects: int = setting(2, "Redirects that are followed; each has to be allowed too.")
    fetch_private_addresses: bool = setting(
        False, "Whether an allowed host may have a private, loopback or link-local address."
    )


@dataclass(frozen=True)
class TlsSettings:
    """TLS for gRPC and HTTP; the files are read again when they change."""

    tls_certificate: str = setting(
        "", "PEM file with the server's certificate chain; turns TLS on."
    )
    tls_key: str = setting("", "PEM file with the certificate's private key.")
    tls_client_ca: str = setting(
        "", "PEM file with the authorities of client certificates, which are then required."
    )


@dataclass(frozen=True)
class AuthSettings:
    """Who may call, and how much."""

    callers: str = setting(
        "", "File with the callers, one a line: API keys and client certificates; see keys new."
    )
    certificate_scopes: str = setting(
        "",
        "Scopes of a client certificate that --callers does not name, comma-separated; "
        "empty refuses it.",
    )
    jwt_keys: str = setting("", "JWKS to check JWTs with: a file, or an https URL.")
    jwt_issuer: str = setting("", "The iss that a JWT must have.")
    jwt_audience: str = setting("", "The aud that a JWT must have.")
    reload_seconds: float = setting(
        5.0, "How often files with callers, JWT keys and certificates are looked at."
    )
    jwt_url_seconds: float = setting(60.0, "How often the URL of a JWKS is read again.")
    without_credential: str = setting(
        "health,reflection,metrics,pages",
        "What is open to everybody where credentials are asked for: any of health, reflection, "
        "metrics, pages, comma-separated. Reflection stands for HTTP's /openapi.json, too; pages "
        "for / and /docs, which show nothing by themselves.",
    )
    allow_anonymous: bool = setting(
        False, "Listen on other addresses than loopback without asking for credentials."
    )
    caller_requests_per_second: float = setting(
        0.0, "Requests, and inputs of streams, for each caller without a rate of its own; 0: any."
    )
    caller_tokens_per_second: float = setting(
        0.0, "Tokens for each caller without a rate of its own; 0 is no limit."
    )
    caller_burst_seconds: float = setting(
        1.0, "How many seconds' worth of its rate a caller who was idle may take at once."
    )
