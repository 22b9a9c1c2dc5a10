"""Who has to show a credential, and where: what the front end shows to the network."""

import asyncio
import logging
from dataclasses import dataclass, field

from vlm2vec_service.addresses import is_local
from vlm2vec_service.errors import StartError
from vlm2vec_service.frontend.access import Access
from vlm2vec_service.frontend.auth.authenticator import Authenticator
from vlm2vec_service.frontend.auth.quota import Quotas
from vlm2vec_service.frontend.forwarding import Forwarding
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.frontend.reload import Reloaded, follow
from vlm2vec_service.frontend.tls import Certificate, follow_certificate
from vlm2vec_service.processes.buckets import SharedBuckets
from vlm2vec_service.settings import AuthSettings, HttpSettings, TlsSettings
from vlm2vec_service.tasks import supervised

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exposure:
    """The settings of everything that faces callers."""

    http: HttpSettings = field(default_factory=HttpSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    auth: AuthSettings = field(default_factory=AuthSettings)


def read_credentials(
    listen: str, exposure: Exposure
) -> tuple[Authenticator, Reloaded[Certificate] | None]:
    """What tells who calls, and the certificate, if there is TLS; ``listen`` is gRPC's address.
    Raises `StartError` where strangers could call, and for files that are not there, and
    `InvalidInputError` for what is wrong in one."""
    auth = exposure.auth
    certificate = follow_certificate(exposure.tls)
    authenticator = Authenticator(auth, exposure.tls)
    for name, address in _exposed(listen, exposure).items():
        if not authenticator.required and not auth.allow_anonymous:
            raise StartError(
                f"{address} can be reached from other hosts, and no credentials are asked for: "
                "give --callers, --jwt-keys or --tls-client-ca; or --allow-anonymous, where the "
                "network is trusted",
                name,
            )
    return authenticator, certificate


def _exposed(listen: str, exposure: Exposure) -> dict[str, str]:
    """The addresses that other hosts reach, by setting."""
    addresses = {"listen": listen, "http_listen": exposure.http.http_listen}
    return {name: one for name, one in addresses.items() if one and not is_local(one)}


def open_access(
    pipeline: Pipeline, exposure: Exposure
) -> tuple[Access, Reloaded[Certificate] | None]:
    """What calls pass, and the certificate, if there is TLS. Raises as `read_credentials`."""
    auth = exposure.auth
    listen = pipeline.settings.listen
    authenticator, certificate = read_credentials(listen, exposure)
    if authenticator.required and certificate is None:
        for name, address in _exposed(listen, exposure).items():
            log.warning("%s %s: credentials travel unencrypted without TLS", name, address)
    quotas = Quotas(
        auth.caller_requests_per_second, auth.caller_tokens_per_second, auth.caller_burst_seconds
    )
    if pipeline.member is not None:
        quotas.make_bucket = SharedBuckets(pipeline.member.folder / "quotas").bucket
    pipeline.metrics.most_callers = auth.metrics_callers
    access = Access(
        pipeline.metrics, pipeline.draining, authenticator, quotas, pipeline.settings.max_calls,
        pipeline.received, Forwarding.of(auth),
    )  # fmt: skip
    return access, certificate


def follow_files(
    access: Access, settings: AuthSettings, certificate: Reloaded[Certificate] | None
) -> list[asyncio.Task[None]]:
    """Keeps callers, keys and certificates as their files have them."""
    authenticator, metrics = access.authenticator, access.metrics
    files = [*authenticator.files, *([certificate] if certificate else [])]
    tasks = [supervised("files", lambda: follow(files, settings.reload_seconds, metrics), metrics)]
    if authenticator.jwks_url:
        tasks.append(supervised("jwks", lambda: authenticator.follow_url(metrics), metrics))
    return tasks
