"""Models of the Hugging Face hub: fetched into its cache, and checked there.

What huggingface_hub takes from the environment holds here as well: ``HF_HOME`` is where the cache
is, ``HF_TOKEN`` or the file ``HF_TOKEN_PATH`` has the token, ``HF_HUB_OFFLINE`` leaves the network
alone, ``HF_ENDPOINT`` is another hub.
"""

import hashlib
import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from vlm2vec_registry import preprocessor_settings
from vlm2vec_registry.artifact import FILES
from vlm2vec_registry.errors import ArtifactError, MissingError, OutageError, RegistryError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?", re.ASCII)
BASE = ("*.json", "*.jinja", "*.safetensors")
"""The files of a base that are fetched: no pickles and no code, whatever else the hub has."""
ADAPTER = (*FILES, preprocessor_settings.FILE_NAME, "README.md")
"""The files of an adapter that are fetched."""
HASHES = {40: "sha1", 64: "sha256"}
"""By what the hub names a file's bytes, as the number of digits says: git's hash of it, or for
large files SHA-256."""


@dataclass(frozen=True)
class HubId:
    """A model on the hub, ``ORG/NAME``, at a branch, tag or commit; None is its main branch."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" if self.revision else self.repository


def parse_id(text: str) -> HubId | None:
    """Parses ``ORG/NAME`` or ``ORG/NAME@REVISION``; None is no such id."""
    match = ID.fullmatch(text)
    return match and HubId(match[1], match[2])


def fetch(id: HubId, files: Sequence[str]) -> Path:
    """Brings the cache up to date with the model, and returns the folder of its files there.

    ``files`` are patterns, `BASE` or `ADAPTER`; nothing below a folder of the model is fetched. The
    folder's name is the commit. Without a network, what the cache has is as good. Every file is
    compared with the hash that the hub gave for it, which reads it once; one that differs is
    removed. Bars show the progress on a terminal. Raises `RegistryError`, which says what to do.
    """
    # Takes a second to import, which a local folder need not cost.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    _set_output()
    try:
        folder = Path(
            snapshot_download(
                id.repository,
                revision=id.revision,
                allow_patterns=list(files),
                ignore_patterns="*/*",
            )
        )
    except HFValidationError as error:
        raise MissingError(f"{id}: no folder here, and no id of a model: {error}") from error
    except Exception as error:  # httpx's, xet's, the system's
        raise _explained(id, error) from error
    _verify(id, folder, files)
    if not any(folder.glob("*.safetensors")):
        raise ArtifactError(
            f"{id}: no safetensors among its files, and pickled weights (*.bin, *.pt) are never "
            "fetched; an adapter of that kind is for hf download and vlm2vec adapters import, a "
            "base has to be converted"
        )
    return folder


def named(folder: Path) -> tuple[str, str | None]:
    """Tells people which checkpoint lies in ``folder``: the model and commit of one in the hub's
    cache, the folder's name of any other."""
    folder = folder.resolve()
    cached = folder.parent.parent.name
    if folder.parent.name == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/"), folder.name
    return folder.name, None


def _set_output() -> None:
    """Makes what huggingface_hub has to say a part of our log, and shows bars on terminals only."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    warnings = logging.getLogger("huggingface_hub")
    warnings.handlers.clear()
    warnings.propagate = True
    for requests in ("httpx", "httpx2"):  # the URLs of files are signed: whoever has one may read
        logging.getLogger(requests).setLevel(logging.WARNING)


def _verify(id: HubId, folder: Path, files: Sequence[str]) -> None:
    """Compares what was fetched with its names in the cache, which are the hub's hashes of it."""
    wrong = []
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and any(fnmatch(path.name, pattern) for pattern in files):
            stored = path.parent / os.readlink(path)
            if _digest(path, len(stored.name)) not in (None, stored.name):
                wrong.append(path.name)
                path.unlink()
                stored.unlink()
    if wrong:
        raise ArtifactError(
            f"{id}: {', '.join(wrong)}: not the bytes that the hub has (the hash differs); removed "
            "from the cache, so that another start fetches them again"
        )


def _digest(path: Path, digits: int) -> str | None:
    """Hashes a file as names of so many hexadecimal digits are made; None for any others."""
    if digits not in HASHES:
        return None
    digest = hashlib.new(HASHES[digits], usedforsecurity=False)
    if digits == 40:
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest()


def _explained(id: HubId, error: BaseException) -> RegistryError:
    """Says in our words why nothing could be fetched, and what helps."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    cache = constants.HF_HUB_CACHE
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404):
        return MissingError(f"{id}: {_refusal(id, error)}")
    if isinstance(error, LocalEntryNotFoundError):
        if constants.is_offline_mode():
            return OutageError(
                f"{id}: no folder here, not or not whole in the cache {cache}, and HF_HUB_OFFLINE "
                f"is set; start once without it, or fetch it where there is a network: {_line(id)}"
            )
        if error.__cause__:
            return _explained(id, error.__cause__)
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        return RegistryError(
            f"{id}: cannot be stored in {cache}: {error.strerror}; HF_HOME names another folder"
        )
    told = " ".join(str(error).split())
    return OutageError(
        f"{id}: no folder here, and {constants.ENDPOINT} cannot be asked, or what it sends is not "
        f"whole: {type(error).__name__}: {told}; try again, let HF_ENDPOINT name one that answers, "
        f"or bring the cache from where there is a network: {_line(id)}"
    )


def _line(id: HubId) -> str:
    """The command that fetches the model into the cache."""
    revision = f" --revision {id.revision}" if id.revision else ""
    return f"hf download {id.repository}{revision}"


def _refusal(id: HubId, error: "HfHubHTTPError") -> str:
    """Says what the hub does not have, or does not give."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub, token = constants.ENDPOINT, "a token in HF_TOKEN, or in a file that HF_TOKEN_PATH names"
    if isinstance(error, GatedRepoError):
        return (
            f"gated; accept its licence at {hub}/{id.repository}, and give {token}, of the account "
            "that did"
        )
    if isinstance(error, RepositoryNotFoundError):
        seen = "that this token may see" if get_token() else "that may be seen without a token"
        return (
            f"no folder here, and no model on {hub} {seen}; check the name, and for a private "
            f"model give {token}"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"the model on {hub} has no such branch, tag or commit"
    return f"{hub} refuses it ({error.response.status_code}); give {token}, that may read it"
