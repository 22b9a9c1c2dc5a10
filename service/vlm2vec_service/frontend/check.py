"""Whether a front end can start with its settings, before anything that takes long."""

from vlm2vec_registry.uri import folder_of
from vlm2vec_service.addresses import check_free
from vlm2vec_service.frontend.credentials import Exposure, read_credentials
from vlm2vec_service.frontend.http.cors import read_origins
from vlm2vec_service.frontend.http.origins import parse_origins
from vlm2vec_service.frontend.http.peers import Peers
from vlm2vec_service.frontend.http.webhook import read_secret
from vlm2vec_service.settings import RegistrySettings, ServerSettings


def check(settings: ServerSettings, exposure: Exposure, registry: RegistrySettings) -> None:
    """Raises `ServeError` for a setting that cannot work, and says which: no base has been read by
    then, and no port is kept."""
    read_credentials(settings.listen, exposure)
    read_origins(exposure.http.http_cors_origins)
    parse_origins(exposure.http.fetch_origins)
    if registry.registry:
        folder_of(registry.registry)
    if registry.webhook_secret_file:
        read_secret(registry.webhook_secret_file)
    if registry.webhook_peers:
        Peers(registry.webhook_peers)
    check_free(
        {
            "listen": settings.listen,
            "metrics_listen": settings.metrics_listen,
            "http_listen": exposure.http.http_listen,
        }
    )
