"""Where a registry is: what may be given for its URI, and how text is shown without passwords."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from vlm2vec_registry.errors import RegistryInputError

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""The schemes of databases that MLflow keeps a registry in, each with or without ``+DRIVER``."""
WORKS = (
    "give an MLflow server as http://HOST:PORT, a database as postgresql://HOST/NAME or "
    "sqlite:////PATH/mlflow.db, or a folder as /PATH or ./PATH"
)
HOST_AND_PORT = re.compile(r"(?:[^/:\s]+|\[[0-9a-fA-F:.]+\]):\d+(?:/.*)?")
USER = re.compile(r"(?<=://)(?:[^\s/]*@|[^\s/@:]+:(?!\d+/)\S*@)")
"""The user and password of a URI; the password of a database may have a slash in it."""
SECRET = re.compile(r"(\b[\w-]*(?:password|passwd|pwd|token|secret)=)[^\s&;'\"]+", re.IGNORECASE)
"""A password among the parameters of a URI or of a connection string."""


def without_secrets(text: str) -> str:
    """Returns ``text``, a URI or a message with some in it, with ``***`` for their users and
    passwords. Everything that shows a registry's URI or an error of MLflow passes through here."""
    return SECRET.sub(r"\1***", USER.sub("***@", text))


def folder_of(given: str) -> Path | None:
    """Returns the folder that ``given`` names as a registry, or None for a URI that MLflow knows.

    Raises `RegistryInputError`, which says what works, for all that is neither: a host without a
    scheme, Databricks, a file store, another scheme, a file.
    """
    scheme, colon, rest = given.partition(":")
    scheme = scheme.lower()
    if scheme in ("databricks", "databricks-uc", "uc") and (not colon or rest.startswith("/")):
        raise _wrong(given, "a registry of Databricks is not supported")
    if colon and scheme == "file":
        path = "/" + rest.removeprefix("//localhost").lstrip("/")
        raise _wrong(
            given,
            f"a file store is not supported; {path} makes an SQLite store in that folder, and "
            "mlflow migrate-filestore moves what a file store has",
        )
    if colon and "/" not in scheme:
        if rest.startswith("//") and scheme.split("+")[0] in DATABASES:
            return None
        if rest.startswith("//") and scheme in ("http", "https"):
            _check_host(given)
            return None
        if HOST_AND_PORT.fullmatch(given.rpartition("@")[2]):
            raise _wrong(given, f"no scheme; an MLflow server there is http://{_bare(given)}")
        raise _wrong(given, "no URI of a registry")
    return _folder(given)


def _folder(given: str) -> Path:
    """The folder, which may not be there yet. Raises `RegistryInputError` for what is none."""
    if not given.strip():
        raise _wrong(given, "empty")
    try:
        folder = Path(given).expanduser().resolve()
        if folder.exists() and not folder.is_dir():
            raise _wrong(given, f"a file; an SQLite store is sqlite:///{folder}")
        file_store = not (folder / "mlflow.db").exists() and any(folder.glob("*/meta.yaml"))
    except (OSError, RuntimeError, ValueError) as error:
        raise _wrong(given, f"no folder: {error}") from error
    if file_store:
        raise _wrong(
            given,
            "holds a file store (mlruns), which is not supported; mlflow migrate-filestore moves "
            "it to a database",
        )
    return folder


def _check_host(given: str) -> None:
    try:
        parts = urlsplit(given)
        good = bool(parts.hostname) and parts.port != 0  # reading the port checks it
    except ValueError:
        good = False
    if not good:
        raise _wrong(given, "no URL of a server")


def _bare(given: str) -> str:
    """What was given without a scheme, without the user and password before the host."""
    return given.rpartition("@")[2]


def _wrong(given: str, problem: str) -> RegistryInputError:
    shown = without_secrets(given) if "://" in given else _bare(given)
    return RegistryInputError(f"registry {shown[:200]!r}: {problem}; {WORKS}")
