"""Makes a PEFT folder, or a base, a version: a model of MLflow's with its files, and a version that
is it."""

import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm2vec_registry import artifact, card
from vlm2vec_registry.backbone import backbone_of
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
NO_ADAPTER = "none"
"""What the parameters of a version that is the base call its adapter."""


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
    def is_base(self) -> bool:
        """Whether there is no adapter."""
        return self.parameters["adapter"] == NO_ADAPTER


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
        raise ArtifactError(f"{folder or base}: {error}") from error
    tags = {
        SPACE: space, BASE: digest.hex(), DIGESTS: json.dumps(digests, sort_keys=True),
        EMBEDDING: json.dumps(embedding, sort_keys=True),
    }  # fmt: skip
    adapter = _of_adapter(staged) if folder else {"adapter": NO_ADAPTER}
    parameters = {"backbone": backbone, "base_model": named(base)[0], **adapter}
    return Staged(staged, tags, parameters)


def log_model(
    client: "MlflowClient", model: str, staged: Staged, run: str, metrics: Mapping[str, float]
) -> tuple[str, str]:  # fmt: skip
    """Makes ``staged`` a logged model of MLflow's that the run ``run`` has brought about, with
    ``metrics``; returns its id and where its files are. Raises `OutageError`."""
    from mlflow.entities import LoggedModelOutput, Metric
    from mlflow.models import Model

    now = int(1000 * time.time())
    with mlflow_errors():
        made = client.create_logged_model(
            str(client.get_run(run).info.experiment_id),
            re.sub(r"[/:.%\"']", "-", model),  # which MLflow refuses
            source_run_id=run,
            tags={**origin(), "vlm2vec.model": model, SPACE: staged.space},
            params=staged.parameters,
            model_type=staged.parameters["adapter"],
        )
        flavor = {
            "backbone": staged.parameters["backbone"],
            "space": staged.space,
            "format": "base" if staged.is_base else "peft",
        }
        description = Model(run_id=run, model_id=made.model_id, flavors={"vlm2vec": flavor})
        description.save(str(staged.folder / "MLmodel"))  # by which MLflow's tools know a model
        client.log_model_artifacts(made.model_id, str(staged.folder))
        client.finalize_logged_model(made.model_id, "READY")
        client.log_outputs(run, [LoggedModelOutput(made.model_id, 0)])
        client.log_batch(
            run, [Metric(key, value, now, 0, made.model_id) for key, value in metrics.items()]
        )
    return str(made.model_id), str(made.artifact_location)


def register(
    client: "MlflowClient", model: str, staged: Staged, run: str, logged: tuple[str, str],
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
        searched = {f"vlm2vec.{key}": value for key, value in staged.parameters.items()}
        made = client.create_model_version(
            model, place, run_id=run, model_id=model_id,
            tags={**searched, **staged.tags, **tags, USER: origin()[USER], LOGGED_MODEL: model_id},
            description=_description(staged),
        )  # fmt: skip
        # MLflow's server notes this by itself; a database without a server does not.
        known = [{"name": model, "version": int(made.version)}]
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": json.dumps(known)})
    return str(made.version)


def _description(staged: Staged) -> str:
    known = staged.parameters
    about = {"Adapter": known["adapter"], "Base": f"{known['base_model']} ({known['backbone']})"}
    if not staged.is_base:
        about["Adapter"] += f", rank {known['rank']}, alpha {known['alpha']}"
        about["Weights"] = f"{(staged.folder / artifact.WEIGHTS).stat().st_size / 1e6:.1f} MB"
    about |= {"Space": f"`{staged.space}`", "Published by": origin()[USER]}
    text = card.with_part("", ABOUT, card.facts(about))
    readme = staged.folder / README
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
        return backbone_of(json.loads((base / "config.json").read_text()))
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{base}/config.json: {error!r}; is it a checkpoint folder?") from error


def _copy(folder: Path, staged: Path, backbone: str, files: Sequence[str]) -> dict[str, Any]:
    """Copies the ``files`` of a version and its card, with a whole ``embedding.json``, whose values
    it returns."""
    try:
        embedding = EmbeddingConfig.read(folder)
    except ValueError as error:
        raise ArtifactError(str(error)) from error
    if embedding.backbone not in (None, backbone):
        raise ArtifactError(f"{folder}: made for {embedding.backbone}, the base is {backbone}")
    staged.mkdir()
    for name in (*files, README):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, staged / name)
    values: dict[str, Any] = {**json.loads(embedding.to_json()), "backbone": backbone}
    complete = EmbeddingConfig.from_dict(values)
    (staged / FILE_NAME).write_text(complete.to_json())
    return values
