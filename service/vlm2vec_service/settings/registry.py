"""Where adapter versions come from."""

from dataclasses import dataclass

from vlm2vec_service.settings.field import count, seconds, setting


@dataclass(frozen=True)
class RegistrySettings:
    """Where adapter versions come from, and how many are held."""

    registry: str = setting(
        "",
        "MLflow registry with the versions of every model: an MLflow server's URL, a database URI, "
        "or a folder with an SQLite store. Empty serves only what --adapter gives.",
        unit="URI",
    )
    poll_seconds: float = seconds(5.0, "Seconds between looks at the registry.", least=0.1)
    webhook_secret_file: str = setting(
        "",
        "File with the secret of MLflow's webhooks, which POST /webhooks/mlflow on the HTTP port "
        "takes then: a change is followed at once. Empty turns them off.",
        kind="file",
    )
    webhook_peers: str = setting(
        "",
        "URL of all servers that follow the registry, such as http://vlm2vec-headless:8080: what "
        "MLflow tells one of them is passed on to every address of the host. Empty passes nothing "
        "on.",
        unit="URL",
    )
    cache_dir: str = setting(
        "~/.cache/vlm2vec",
        "Folder for fetched versions; processes of one host may share it.",
        unit="DIR",
    )
    cache_bytes: int = setting(
        10_737_418_240, "Bytes of fetched versions to keep that no process serves.", least=0
    )
    max_artifact_bytes: int = count(1_073_741_824, "Bytes of one version; a larger is refused.")
    max_adapters: int = count(
        16,
        "Versions that workers hold, for each model. Beyond it the least lately used leaves; "
        "champion, canary, shadow and versions in use stay.",
    )
    max_adapter_bytes: int = count(
        4_294_967_296, "Bytes of weights files of the versions that workers hold, for each model."
    )
    adapters_read_only: bool = setting(
        False, "Whether AdapterService refuses to load and unload; the registry alone decides then."
    )
