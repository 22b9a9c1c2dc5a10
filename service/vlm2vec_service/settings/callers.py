"""What faces callers: HTTP, TLS, and who may call."""

from dataclasses import dataclass

from vlm2vec_service.settings.field import count, seconds, setting


@dataclass(frozen=True)
class HttpSettings:
    """How the front end serves HTTP."""

    http_listen: str = setting(
        "127.0.0.1:8080",
        "Address for HTTP: HOST:PORT, or unix:PATH; empty turns HTTP off.",
        kind="address",
    )
    http_cors_origins: str = setting(
        "",
        "Origins whose pages may call from a browser, comma-separated: https://app.example.com; "
        "or * for all. Empty allows none.",
    )
    http_max_body_bytes: int = count(
        67_108_864, "Bytes of one request's body, inflated if it is compressed by gzip."
    )
    http_body_seconds: float = seconds(
        60.0, "How long a request's body may take to arrive.", least=0.01
    )
    http_keepalive_seconds: float = seconds(
        65.0,
        "A connection that is silent between requests, or takes longer over the head of one, is "
        "closed after so long.",
        least=1.0,
    )
    fetch_origins: str = setting(
        "",
        "Where image_url and video_url may point besides data URIs, comma-separated: "
        "https://cdn.example.com, https://*.example.com. Empty fetches nothing.",
    )
    fetch_seconds: float = seconds(
        10.0, "Time limit of fetching one URL, redirects included.", least=0.01
    )
    fetch_redirects: int = setting(
        2, "Redirects that are followed; each has to be allowed too.", least=0
    )
    fetch_private_addresses: bool = setting(
        False, "Whether an allowed host may have a private, loopback or link-local address."
    )


@dataclass(frozen=True)
class TlsSettings:
    """TLS for gRPC and HTTP; the files are read again when they change."""

    tls_certificate: str = setting(
        "", "PEM file with the server's certificate chain; turns TLS on.", kind="file"
    )
    tls_key: str = setting("", "PEM file with the certificate's private key.", kind="file")
    tls_client_ca: str = setting(
        "",
        "PEM file with the authorities of client certificates, which are then required.",
        kind="file",
    )


@dataclass(frozen=True)
class AuthSettings:
    """Who may call, and how much."""

    callers: str = setting(
        "",
        "File with the callers, one a line: API keys and client certificates; see keys new.",
        kind="file",
    )
    certificate_scopes: str = setting(
        "",
        "Scopes of a client certificate that --callers does not name, comma-separated; "
        "empty refuses it.",
    )
    jwt_keys: str = setting(
        "", "JWKS to check JWTs with: a file, or an https URL.", unit="FILE|URL"
    )
    jwt_issuer: str = setting("", "The iss that a JWT must have.")
    jwt_audience: str = setting("", "The aud that a JWT must have.")
    reload_seconds: float = seconds(
        5.0, "How often files with callers, JWT keys and certificates are looked at.", least=0.1
    )
    jwt_url_seconds: float = seconds(60.0, "How often the URL of a JWKS is read again.", least=1.0)
    without_credential: str = setting(
        "health,reflection,metrics,pages",
        "What is open to everybody where credentials are asked for: any of health, reflection, "
        "metrics, pages, comma-separated. Reflection stands for HTTP's /openapi.json, too; pages "
        "for / and /docs, which show nothing by themselves.",
    )
    trusted_proxies: str = setting(
        "",
        "Proxies whose X-Forwarded-For is believed, as networks or addresses, comma-separated; "
        "unix for those that connect by a socket's file. Callers without a credential then go by "
        "the address that the outermost of them saw. Empty believes nobody.",
        kind="networks",
    )
    routing_key_header: str = setting(
        "x-routing-key",
        "Header, over gRPC metadata, whose value is the routing key of a request that has none of "
        "its own, which so gets the canary or not. Empty takes none.",
        kind="header",
    )
    allow_anonymous: bool = setting(
        False, "Listen on other addresses than loopback without asking for credentials."
    )
    caller_requests_per_second: float = setting(
        0.0,
        "Requests, and inputs of streams, for each caller without a rate of its own; 0: any.",
        least=0,
        unit="REQUESTS",
    )
    caller_tokens_per_second: float = setting(
        0.0,
        "Tokens for each caller without a rate of its own; 0 is no limit.",
        least=0,
        unit="TOKENS",
    )
    metrics_callers: int = setting(
        50,
        "Callers with a credential whose cost the metrics show by name; those that come later are "
        "other, and without a credential unnamed.",
        least=0,
    )
    caller_burst_seconds: float = seconds(
        1.0, "How many seconds' worth of its rate a caller who was idle may take at once."
    )
