"""Adapter folders as others publish and train them, made ready to be published here.

What comes out holds the adapter's settings, its weights as safetensors, `embedding.json` with what
the adapter's own ``preprocessor_config.json`` says, and the README. Everything else is left behind.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm2vec_registry import adapter_bin, preprocessor_settings
from vlm2vec_registry.artifact import CONFIG, WEIGHTS
from vlm2vec_registry.embedding_config import FILE_NAME, EmbeddingConfig
from vlm2vec_registry.errors import ArtifactError
from vlm2vec_registry.files import whole
from vlm2vec_registry.strict import read_object, shown

PICKLED = "adapter_model.bin"
"""The weights as PEFT wrote them before safetensors, and as Trainers with their own saving do."""
README = "README.md"


@dataclass(frozen=True)
class Imported:
    """What importing an adapter did.

    ``source`` is the folder it was found in, ``weights`` the name of the file with its tensors, and
    ``tensors`` how many of them were converted, 0 where the file was good as it is.
    ``preprocessor`` is the ``preprocessor_config.json`` that was read, or None, ``taken`` the
    settings of it that went into ``embedding.json``, and ``left`` names the files that were left
    behind.
    """

    source: Path
    weights: str
    tensors: int
    preprocessor: Path | None
    taken: dict[str, Any]
    left: list[str]


def needs_import(folder: Path) -> bool:
    """Whether publishing ``folder`` as it is would fail, or leave out what changes a vector."""
    plain = (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()
    beside = (PICKLED, preprocessor_settings.FILE_NAME)
    return not plain or any((folder / name).is_file() for name in beside)


def find_adapter(folder: Path) -> Path:
    """Finds the folder with ``adapter_config.json``: ``folder`` itself, or else the only one below.

    Hidden folders are left out and links to folders are not followed. Raises `ArtifactError` where
    there is none, or are several.
    """
    if (folder / CONFIG).is_file():
        return folder
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if CONFIG in files:
            found.append(Path(place))
    if not found:
        raise ArtifactError(f"{folder}: no {CONFIG} in it or in a folder below it")
    if len(found) > 1:
        several = ", ".join(sorted(str(place.relative_to(folder)) for place in found))
        raise ArtifactError(f"{folder}: adapters in {several}; give the folder of one of them")
    return found[0]


def import_adapter(
    folder: Path, out: Path, base: Path | None = None, said: Mapping[str, Any] | None = None
) -> Imported:
    """Makes the new folder ``out`` of the adapter that is in ``folder``.

    A pickled ``adapter_model.bin`` is converted if there are no safetensors. What the adapter's
    ``preprocessor_config.json`` (beside it, or else in ``folder``) says otherwise than that of the
    checkpoint ``base``, or says at all where ``base`` is None, becomes settings of
    ``embedding.json``. ``said`` are further values of ``embedding.json``. What the adapter's own
    file says already stays.

    Raises `ArtifactError` for an adapter without weights, weights that are damaged or hold more
    than tensors, settings that contradict each other or that cannot be honoured, and an ``out``
    that is there.
    """
    source = find_adapter(folder)
    weights = next((name for name in (WEIGHTS, PICKLED) if (source / name).is_file()), None)
    if weights is None:
        raise ArtifactError(f"{source}: no {WEIGHTS} and no {PICKLED}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ArtifactError(f"{out} is there already; give a new folder")
    embedding, preprocessor, taken = _embedding(source, folder, base, said or {})
    copied = [name for name in (CONFIG, README) if (source / name).is_file()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole(out) as partial:
            partial.mkdir()
            for name in copied:
                shutil.copyfile(source / name, partial / name)
            tensors = _weights(source / weights, partial / WEIGHTS)
            if embedding:
                text = json.dumps(embedding, indent=2, sort_keys=True) + "\n"
                (partial / FILE_NAME).write_text(text)
    except OSError as error:
        raise ArtifactError(f"{out}: {error}") from error
    used = {*copied, weights, FILE_NAME, preprocessor_settings.FILE_NAME}
    left = sorted(path.name for path in source.iterdir() if path.is_file())
    return Imported(
        source, weights, tensors, preprocessor, taken, [name for name in left if name not in used]
    )


def _weights(source: Path, target: Path) -> int:
    if source.name == PICKLED:
        return adapter_bin.convert(source, target)
    shutil.copyfile(source, target)
    return 0


def _embedding(
    source: Path, folder: Path, base: Path | None, said: Mapping[str, Any]
) -> tuple[dict[str, Any], Path | None, dict[str, Any]]:
    """The values of ``embedding.json``; the preprocessor's file; what was taken over from it."""
    path = source / FILE_NAME
    values = read_object(path) if path.is_file() else {}
    EmbeddingConfig.from_dict(values, str(path))
    image = dict(values.get("image") or {})
    _add({key: value for key, value in said.items() if key != "image"}, values, str(path))
    _add(said.get("image", {}), image, f"{path}: image")

    file = _first(place / preprocessor_settings.FILE_NAME for place in (source, folder))
    found = preprocessor_settings.differing(file, base) if file else {}
    taken = {key: value for key, value in found.items() if key not in image}
    image |= taken
    if image:
        values["image"] = image
    EmbeddingConfig.from_dict(values, str(path))
    return values, file, taken


def _add(said: Mapping[str, Any], values: dict[str, Any], where: str) -> None:
    for key, value in said.items():
        if values.get(key, value) != value:
            raise ArtifactError(
                f"{where}.{key} is {shown(values[key])} already; {shown(value)} contradicts it"
            )
        values[key] = value


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)
