"""Adapter versions in an MLflow model registry: plain model versions, aliases and tags.

Whatever is done here, the MLflow UI and any MLflow client can do as well: a version's facts are
tags that begin with ``vlm2vec.``, traffic follows aliases, a canary's share is a tag of the model.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm2vec_registry import card, publishing
from vlm2vec_registry.errors import ArtifactError, MissingError, RegistryInputError
from vlm2vec_registry.lineage import KIND, recorded_run
from vlm2vec_registry.mlflow_errors import mlflow_errors
from vlm2vec_registry.names import check_alias, check_model_name
from vlm2vec_registry.snapshot import SPACE, PublishedVersion, Snapshot
from vlm2vec_registry.strict import FormatError
from vlm2vec_registry.uri import folder_of, without_secrets

# Seven retries of two minutes each are MLflow's default: an outage would look like a hang.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Else MLflow writes lines of its own form between those of a server's log.
os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
# Else a host without git is told about it at length.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

SHARE, PREVIOUS = "vlm2vec.canary_share", "vlm2vec.previous_champion"
"""Tags of a model: the canary's share, 0 to 1, and the version to roll back to."""
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

        # Each try of a request to a server that is away would be a line of the log.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        self.uri, self.artifacts = uri, None
        if folder is not None:
            self.uri, self.artifacts = _embedded(folder), (folder / "artifacts").as_uri()
        with mlflow_errors():
            self.client = MlflowClient(self.uri, self.uri)

    def publish(
        self,
        model: str,
        folder: Path | None,
        *,
        base: Path,
        alias: str | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
    ) -> PublishedVersion:
        """Makes the PEFT folder ``folder``, trained on the checkpoint ``base``, a version of
        ``model``; without a folder, ``base`` itself, as its ``embedding.json`` has it embed.

        The files become a logged model of the run ``run_id`` or of one of its own, with
        ``metrics``. The same bytes on the same base have the same space. Raises `ArtifactError`
        for pickles, a file that is missing or wrong, and an ``embedding.json`` that names another
        backbone; `RegistryInputError` for a name or an alias that callers could not write.
        """
        check_model_name(model)
        if alias:
            check_alias(alias)
        with tempfile.TemporaryDirectory(prefix="vlm2vec-") as scratch:
            staged = publishing.stage(folder, Path(scratch) / "version", base)
            with contextlib.ExitStack() as stack:
                if not run_id:
                    origins = {"vlm2vec.model": model, SPACE: staged.space}
                    run_id = stack.enter_context(
                        recorded_run(
                            self.client, self.experiment(), f"publish {model}", origins,
                            staged.parameters,
                        )
                    )  # fmt: skip
                logged = publishing.log_model(self.client, model, staged, run_id, metrics or {})
            name = publishing.register(self.client, model, staged, run_id, logged, tags or {})
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
            way = "; vlm2vec adapters publish --base makes the base one" if name == "base" else ""
            raise MissingError(f"model {model!r} has no version {name!r}; there are {known}{way}")
        return found

    def versions(self, model: str) -> list[PublishedVersion]:
        """All versions, the oldest first. Raises `MissingError`."""
        found = self.snapshot(model).versions
        return [found[name] for name in sorted(found, key=_number)]

    def tag(self, model: str, version: str, key: str, value: str) -> None:
        """Sets a tag of a version."""
        with mlflow_errors():
            self.client.set_model_version_tag(model, version, key, value)

    def describe(self, version: PublishedVersion, part: str, text: str) -> None:
        """Makes ``text``, in Markdown, the ``part`` of that name of a version's description."""
        with mlflow_errors():
            before = self.client.get_model_version(version.model, version.name).description or ""
            after = card.with_part(before, part, text)
            self.client.update_model_version(version.model, version.name, after)

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
        if missing := [name for name in version.digests if name not in sizes]:
            raise ArtifactError(f"{without_secrets(uri)} has no {', '.join(missing)}")
        if (total := sum(sizes[name] for name in version.digests)) > max_bytes:
            raise ArtifactError(f"{total} bytes, more than max_artifact_bytes, {max_bytes}")
        for name in version.digests:
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
            try:
                return str(self.client.create_experiment(name, self.artifacts, KIND))
            except Exception as error:
                made = self.client.get_experiment_by_name(name)  # by another, in that moment
                if made is None or getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                    raise
                return str(made.experiment_id)

    def _files(self, version: PublishedVersion) -> str:
        """Where the files of ``version`` are. Those of a version that MLflow copied are where those
        of the first one are: its source names another version, in whichever registry MLflow would
        take for its own."""
        if not version.uri.startswith("models:/"):
            return version.uri
        return str(self.client.get_model_version_download_uri(version.model, version.name))

    def _list(self, model: str) -> list[Any]:
        query = quoted("name = ", model)
        found: list[Any] = []
        token = None
        while True:
            page = self.client.search_model_versions(query, max_results=1000, page_token=token)
            found += [item for item in page if item.name == model]
            token = page.token
            if not token:
                return found


def quoted(condition: str, text: str) -> str:
    """A filter of MLflow's: ``condition`` and ``text`` in quotes. They cannot be escaped, so for a
    text with both kinds it is empty, which finds all."""
    quote = next((mark for mark in "'\"" if mark not in text), "")
    return f"{condition}{quote}{text}{quote}" if quote else ""


def _embedded(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RegistryInputError(f"registry {folder}: {error.strerror}") from error
    for talker in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(talker).setLevel(logging.WARNING)
    return f"sqlite:///{folder / 'mlflow.db'}"


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
