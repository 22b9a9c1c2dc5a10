"""Makes a PEFT folder, or a base, a version: a model of MLflow's with its files, and a version that
is it."""

import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm2vec_registry import artifact, card
from vlm2vec_registry.embedding_config import FILE_NAME, EmbeddingConfig
from vlm2vec_registry.errors import ArtifactError
from vlm2vec_registry.hub import named
from vlm2vec_registry.lineage import USER, origin
from vlm2vec_registry.mlflow_errors import mlflow_errors
from vlm2vec_registry.snapshot import BASE, DIGESTS, EMBEDDING, LOGGED_MODEL, SPACE
from vlm2vec_registry.space import base_digest, space_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

README = "README.md"
ABOUT = "about this version"
"""The part of a description that publishing writes."""


@dataclass(frozen=True)
class Staged:
    """A folder as a version will hold it. ``tags`` are what servers read of the version, and
    ``parameters`` what people look for."""

    folder: Path
    tags: dict[str, str]
    parameters: dict[str, str]

    @property
    def space(self) -> str:
        """The space of its vectors."""
        return self.tags[SPACE]

    @property
    def format(self) -> str:
        """What its files are: a PEFT folder, or the settings of a base."""
        return "base" if self.parameters["adapter"] == "none" else "peft"


def stage(folder: Path | None, staged: Path, base: Path) -> Staged:
    """Copies what a version of the PEFT folder ``folder``, or without one of ``base`` itself, holds
    to ``staged``, which is new, with a whole ``embedding.json``. Raises `ArtifactError`."""
    files = artifact.FILES if folder else artifact.BASE_FILES
    if folder:
        artifact.check_folder(folder)
    backbone = _backbone(base)
    embedding = _copy(folder or base, staged, backbone, files)
    digests = artifact.digests(staged, files)
    digest = base_digest(base)
    try:
        space = space_of(digest, staged if folder else None, EmbeddingConfig.from_dict(embedding))
    except ValueError as error:
        raise ArtifactError(f"{folder}: {error}") from error
    tags = {
        SPACE: space, BASE: digest.hex(), DIGESTS: json.dumps(digests, sort_keys=True),
        EMBEDDING: json.dumps(embedding, sort_keys=True),
    }  # fmt: skip
    adapter = _of_adapter(staged) if folder else {"adapter": "none"}
    parameters = {"backbone": backbone, "base_model": named(base)[0], **adapter}
    return Staged(staged, tags, parameters)


def log_model(
    client: "MlflowClient", model: str, made_of: Staged, run: str,
    metrics: Mapping[str, float],
) -> tuple[str, str]:  # fmt: skip
    """Makes ``adapter`` a logged model of MLflow's that the run ``run`` has brought about, with
    ``metrics``; returns its id and where its files are. Raises `OutageError`."""
    from mlflow.entities import LoggedModelOutput, Metric
    from mlflow.models import Model

    now = int(1000 * time.time())
    with mlflow_errors():
        made = client.create_logged_model(
            str(client.get_run(run).info.experiment_id),
            re.sub(r"[/:.%\"']", "-", model),  # which MLflow refuses
            source_run_id=run,
            tags={**origin(), "vlm2vec.model": model, SPACE: adapter.space},
            params=adapter.parameters,
            model_type=adapter.parameters["adapter"],
        )
        flavor = {"backbone": adapter.parameters["backbone"], "space": adapter.space}
        description = Model(
            run_id=run, model_id=made.model_id, flavors={"vlm2vec": {**flavor, "format": "peft"}}
        )
        description.save(str(adapter.folder / "MLmodel"))  # by which MLflow's tools know a model
        client.log_model_artifacts(made.model_id, str(adapter.folder))
        client.finalize_logged_model(made.model_id, "READY")
        client.log_outputs(run, [LoggedModelOutput(made.model_id, 0)])
        client.log_batch(
            run, [Metric(key, value, now, 0, made.model_id) for key, value in metrics.items()]
        )
    return str(made.model_id), str(made.artifact_location)


def register(
    client: "MlflowClient", model: str, adapter: StagedAdapter, run: str, logged: tuple[str, str],
    tags: Mapping[str, str],
) -> str:  # fmt: skip
    """Makes the logged model ``logged`` a version of ``model``, which may be new; returns its name.
    Raises `OutageError`."""
    from mlflow.exceptions import MlflowException

    with mlflow_errors():
        try:
            client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        model_id, place = logged
        searched = {f"vlm2vec.{key}": value for key, value in adapter.parameters.items()}
        made = client.create_model_version(
            model, place, run_id=run, model_id=model_id,
            tags={**searched, **adapter.tags, **tags, USER: origin()[USER], LOGGED_MODEL: model_id},
            description=_description(adapter),
        )  # fmt: skip
        # MLflow's server notes this by itself; a database without a server does not.
        known = [{"name": model, "version": int(made.version)}]
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": json.dumps(known)})
    return str(made.version)


def _description(adapter: StagedAdapter) -> str:
    weights = (adapter.folder / artifact.WEIGHTS).stat().st_size
    about = {
        "Adapter": f"{adapter.parameters['adapter']}, rank {adapter.parameters['rank']}, "
        f"alpha {adapter.parameters['alpha']}",
        "Base": f"{adapter.parameters['base_model']} ({adapter.parameters['backbone']})",
        "Space": f"`{adapter.space}`",
        "Weights": f"{weights / 1e6:.1f} MB",
        "Published by": origin()[USER],
    }
    text = card.with_part("", ABOUT, card.facts(about))
    readme = adapter.folder / README
    table = card.first_table(readme.read_text(errors="replace")) if readme.is_file() else ""
    return card.with_part(text, "the model card", table) if table else text


def _of_adapter(folder: Path) -> dict[str, str]:
    """What people look for in ``adapter_config.json``."""
    settings: dict[str, Any] = json.loads((folder / artifact.CONFIG).read_text())
    targets = settings.get("target_modules") or ""
    return {
        "adapter": "dora" if settings.get("use_dora") else "lora",
        "rank": str(settings.get("r", "")),
        "alpha": str(settings.get("lora_alpha", "")),
        "targets": targets if isinstance(targets, str) else ",".join(sorted(map(str, targets))),
    }


def _backbone(base: Path) -> str:
    try:
        return str(json.loads((base / "config.json").read_text())["model_type"])
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{base}/config.json: {error!r}; is it a checkpoint folder?") from error


def _copy(folder: Path, staged: Path, backbone: str) -> dict[str, Any]:
    """Copies what a version holds, with a whole ``embedding.json``, and returns its values."""
    try:
        embedding = EmbeddingConfig.read(folder)
    except ValueError as error:
        raise ArtifactError(str(error)) from error
    if embedding.backbone not in (None, backbone):
        raise ArtifactError(f"{folder}: made for {embedding.backbone}, the base is {backbone}")
    staged.mkdir()
    for name in (artifact.CONFIG, artifact.WEIGHTS, README):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, staged / name)
    values: dict[str, Any] = {**json.loads(embedding.to_json()), "backbone": backbone}
    complete = EmbeddingConfig.from_dict(values)
    (staged / FILE_NAME).write_text(complete.to_json())
    return values
