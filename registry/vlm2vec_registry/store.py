"""Adapter versions in an MLflow model registry: plain model versions, aliases and tags.

Whatever is done here, the MLflow UI and any MLflow client can do as well: a version's facts are
tags that begin with ``vlm2vec.``, traffic follows aliases, a canary's share is a tag of the model.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm2vec_registry import artifact
from vlm2vec_registry.embedding_config import FILE_NAME, EmbeddingConfig
from vlm2vec_registry.errors import ArtifactError, MissingError, RegistryInputError
from vlm2vec_registry.mlflow_errors import mlflow_errors
from vlm2vec_registry.names import check_alias, check_model_name
from vlm2vec_registry.snapshot import (
    BASE,
    DIGESTS,
    EMBEDDING,
    SPACE,
    PublishedVersion,
    Snapshot,
)
from vlm2vec_registry.space import base_digest, space_of
from vlm2vec_registry.strict import FormatError
from vlm2vec_registry.uri import folder_of, without_secrets

# Seven retries of two minutes each are MLflow's default: an outage would look like a hang.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Else MLflow writes lines of its own form between those of a server's log.
os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")

SHARE, PREVIOUS = "vlm2vec.canary_share", "vlm2vec.previous_champion"
"""Tags of a model: the canary's share, 0 to 1, and the version to roll back to."""
ARTIFACT_PATH = "adapter"
EXPERIMENT = "vlm2vec"


class Registry:
    """The registry at ``uri``: an MLflow server, a database URI, or a folder, in which an SQLite
    store is made. ``artifacts`` is where its experiments keep files, None where MLflow decides.

    Making one raises `RegistryInputError` for a URI that is none of these, and every method raises
    `OutageError` where MLflow cannot be asked.
    """

    def __init__(self, uri: str) -> None:
        folder = folder_of(uri)
        from mlflow import MlflowClient  # takes seconds

        self.uri, self.artifacts = uri, None
        if folder is not None:
            self.uri, self.artifacts = _embedded(folder), (folder / "artifacts").as_uri()
        with mlflow_errors():
            self.client = MlflowClient(self.uri, self.uri)

    def publish(
        self,
        model: str,
        folder: Path,
        *,
        base: Path,
        alias: str | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
    ) -> PublishedVersion:
        """Makes the PEFT folder ``folder``, trained on the checkpoint ``base``, a version of
        ``model``.

        The files go to ``run_id`` or to a run of their own, with ``metrics``. The same bytes on
        the same base have the same space. Raises `ArtifactError` for pickles, a file that is
        missing or wrong, and an ``embedding.json`` that names another backbone;
        `RegistryInputError` for a name or an alias that callers could not write.
        """
        check_model_name(model)
        if alias:
            check_alias(alias)
        artifact.check_folder(folder)
        backbone = _backbone(base)
        with tempfile.TemporaryDirectory(prefix="vlm2vec-") as scratch:
            staged = Path(scratch) / ARTIFACT_PATH
            embedding = _stage(folder, staged, backbone)
            digests = artifact.digests(staged)
            digest = base_digest(base)
            try:
                space = space_of(digest, staged)
            except ValueError as error:
                raise ArtifactError(f"{folder}: {error}") from error
            facts = {
                SPACE: space, BASE: digest.hex(), DIGESTS: json.dumps(digests, sort_keys=True),
                EMBEDDING: json.dumps(embedding, sort_keys=True), **(tags or {}),
            }  # fmt: skip
            with mlflow_errors():
                run = run_id or self._run(model)
                _describe(staged, run, backbone, space)
                self.client.log_artifacts(run, str(staged), ARTIFACT_PATH)
                for key, value in (metrics or {}).items():
                    self.client.log_metric(run, key, value)
                if not run_id:
                    self.client.set_terminated(run)
                name = self._create(model, run, facts)
        if alias:
            self.set_alias(model, alias, name)
        return self.version(model, name)

    def models(self) -> list[str]:
        """Names of the registered models that have adapter versions, in order."""
        with mlflow_errors():
            found = self.client.search_registered_models()
        return sorted(model.name for model in found)

    def snapshot(self, model: str) -> Snapshot:
        """Everything about ``model``. Raises `MissingError`."""
        with mlflow_errors():
            described = self.client.get_registered_model(model)
            listed = self._list(model)
        versions, broken = {}, {}
        for item in listed:
            try:
                versions[str(item.version)] = _published(item)
            except FormatError as error:
                broken[str(item.version)] = f"its tags were not made by publishing: {error}"
        aliases = {alias: str(version) for alias, version in described.aliases.items()}
        return Snapshot(model, versions, aliases, _share(described.tags), broken)

    def version(self, model: str, name: str) -> PublishedVersion:
        """One version, by its name or an alias. Raises `MissingError`."""
        snapshot = self.snapshot(model)
        found = snapshot.versions.get(snapshot.aliases.get(name, name))
        if found is None:
            known = ", ".join([*sorted(snapshot.versions, key=_number), *sorted(snapshot.aliases)])
            raise MissingError(f"model {model!r} has no version {name!r}; there are {known}")
        return found

    def versions(self, model: str) -> list[PublishedVersion]:
        """All versions, the oldest first. Raises `MissingError`."""
        found = self.snapshot(model).versions
        return [found[name] for name in sorted(found, key=_number)]

    def tag(self, model: str, version: str, key: str, value: str) -> None:
        """Sets a tag of a version."""
        with mlflow_errors():
            self.client.set_model_version_tag(model, version, key, value)

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Points ``alias`` to ``version``."""
        with mlflow_errors():
            self.client.set_registered_model_alias(model, alias, version)

    def delete_alias(self, model: str, alias: str) -> None:
        """Removes ``alias``, if it is there."""
        with mlflow_errors():
            self.client.delete_registered_model_alias(model, alias)

    def set_model_tag(self, model: str, key: str, value: str) -> None:
        """Sets a tag of a model."""
        with mlflow_errors():
            self.client.set_registered_model_tag(model, key, value)

    def model_tags(self, model: str) -> dict[str, str]:
        """The tags of a model. Raises `MissingError`."""
        with mlflow_errors():
            return dict(self.client.get_registered_model(model).tags)

    def download(self, version: PublishedVersion, folder: Path, max_bytes: int) -> None:
        """Fetches the version's files into the empty ``folder``; verifies nothing but their size.

        Raises `ArtifactError` for a file that is missing, and for more than ``max_bytes``.
        """
        import mlflow.artifacts

        with mlflow_errors():
            uri = self._files(version)
            sizes = {
                Path(item.path).name: item.file_size or 0
                for item in mlflow.artifacts.list_artifacts(uri, tracking_uri=self.uri)
            }
        if missing := [name for name in artifact.FILES if name not in sizes]:
            raise ArtifactError(f"{without_secrets(uri)} has no {', '.join(missing)}")
        if (total := sum(sizes[name] for name in artifact.FILES)) > max_bytes:
            raise ArtifactError(f"{total} bytes, more than max_artifact_bytes, {max_bytes}")
        for name in artifact.FILES:
            with mlflow_errors():
                mlflow.artifacts.download_artifacts(
                    f"{uri}/{name}", dst_path=str(folder), tracking_uri=self.uri,
                    registry_uri=self.uri,
                )  # fmt: skip

    def metrics(self, version: PublishedVersion) -> dict[str, float]:
        """The metrics of the version's run; none if it has no run."""
        if not version.run_id:
            return {}
        with mlflow_errors():
            return dict(self.client.get_run(version.run_id).data.metrics)

    def experiment(self, name: str = EXPERIMENT, run_id: str = "") -> str:
        """The id of the experiment that the run ``run_id`` is in; without a run, of the one called
        ``name``, which is made if need be."""
        with mlflow_errors():
            if run_id:
                return str(self.client.get_run(run_id).info.experiment_id)
            known = self.client.get_experiment_by_name(name)
            if known:
                return str(known.experiment_id)
            return str(self.client.create_experiment(name, self.artifacts))

    def _files(self, version: PublishedVersion) -> str:
        """Where the files of ``version`` are. Those of a version that MLflow copied are where those
        of the first one are: its source names another version, in whichever registry MLflow would
        take for its own."""
        if not version.uri.startswith("models:/"):
            return version.uri
        return str(self.client.get_model_version_download_uri(version.model, version.name))

    def _run(self, model: str) -> str:
        run = self.client.create_run(self.experiment(), run_name=f"publish {model}")
        return str(run.info.run_id)

    def _create(self, model: str, run: str, tags: Mapping[str, str]) -> str:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self.client.get_run(run).info.artifact_uri}/{ARTIFACT_PATH}"
        made = self.client.create_model_version(model, source, run_id=run, tags=dict(tags))
        return str(made.version)

    def _list(self, model: str) -> list[Any]:
        # Quotes cannot be escaped in MLflow's filters. A name with both kinds is looked for in all.
        quote = next((mark for mark in "'\"" if mark not in model), "")
        query = f"name = {quote}{model}{quote}" if quote else ""
        found: list[Any] = []
        token = None
        while True:
            page = self.client.search_model_versions(query, max_results=1000, page_token=token)
            found += [item for item in page if item.name == model]
            token = page.token
            if not token:
                return found


def _embedded(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RegistryInputError(f"registry {folder}: {error.strerror}") from error
    for talker in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(talker).setLevel(logging.WARNING)
    return f"sqlite:///{folder / 'mlflow.db'}"


def _backbone(base: Path) -> str:
    try:
        return str(json.loads((base / "config.json").read_text())["model_type"])
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{base}/config.json: {error!r}; is it a checkpoint folder?") from error


def _stage(folder: Path, staged: Path, backbone: str) -> dict[str, Any]:
    """Copies what a version holds, with a whole ``embedding.json``, and returns its values."""
    try:
        embedding = EmbeddingConfig.read(folder)
    except ValueError as error:
        raise ArtifactError(str(error)) from error
    if embedding.backbone not in (None, backbone):
        raise ArtifactError(f"{folder}: made for {embedding.backbone}, the base is {backbone}")
    staged.mkdir()
    for name in (artifact.CONFIG, artifact.WEIGHTS, "README.md"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, staged / name)
    values: dict[str, Any] = {**json.loads(embedding.to_json()), "backbone": backbone}
    complete = EmbeddingConfig.from_dict(values)
    (staged / FILE_NAME).write_text(complete.to_json())
    return values


def _describe(staged: Path, run: str, backbone: str, space: str) -> None:
    """Writes ``MLmodel``, by which MLflow's tools know a model."""
    from mlflow.models import Model

    flavor = {"backbone": backbone, "space": space, "format": "peft"}
    Model(ARTIFACT_PATH, run_id=run, flavors={"vlm2vec": flavor}).save(str(staged / "MLmodel"))


def _published(item: Any) -> PublishedVersion:
    """Raises `FormatError` where tags are missing or are not what publishing writes."""
    return PublishedVersion.from_tags(
        str(item.name),
        str(item.version),
        str(item.source or ""),
        str(item.run_id or ""),
        int(item.creation_timestamp or 0),
        dict(item.tags),
    )


def _share(tags: Mapping[str, str]) -> float:
    """The canary's share; what is not a number from 0 to 1 is 0, so that a typo sends nobody."""
    try:
        share = float(tags.get(SHARE, "0"))
    except ValueError:
        return 0.0
    return share if 0.0 <= share <= 1.0 else 0.0


def _number(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (0, name)
