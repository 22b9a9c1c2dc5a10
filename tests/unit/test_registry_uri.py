"""What may be given for a registry's URI, and that no password in one is ever shown."""

from pathlib import Path

import pytest

from vlm2vec_registry.errors import OutageError, RegistryInputError
from vlm2vec_registry.store import Registry
from vlm2vec_registry.uri import folder_of, without_secrets


@pytest.mark.parametrize(
    "uri",
    [
        "http://mlflow:5000", "https://mlflow.example.com/path", "http://user:word@mlflow:5000",
        "HTTP://mlflow:5000", "http://[::1]:5000", "sqlite:///relative.db", "sqlite:////a/b.db",
        "postgresql://u:p@h/db", "postgresql+psycopg2://h/db", "mysql+pymysql://h/db",
        "mssql+pyodbc://h/db",
    ],
)  # fmt: skip
def test_uris_that_mlflow_knows_are_no_folders(uri: str) -> None:
    assert folder_of(uri) is None


@pytest.mark.parametrize("given", ["store", "./a:b", "/tmp/a:5000/b", "~/store", "a/b:c", "mlflow"])
def test_paths_are_folders(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder_of(given) == Path(given).expanduser().resolve()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("mlflow:5000", "http://mlflow:5000"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.1:5000/path", "http://127.0.0.1:5000/path"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("user:word@mlflow:5000", "http://mlflow:5000"),
        ("databricks", "Databricks is not supported"),
        ("databricks://profile", "Databricks is not supported"),
        ("databricks-uc", "Databricks is not supported"),
        ("databricks-uc://profile", "Databricks is not supported"),
        ("file:/srv/store", "/srv/store makes an SQLite store"),
        ("file:///srv/store", "/srv/store makes an SQLite store"),
        ("file://localhost/srv/store", "/srv/store makes an SQLite store"),
        ("http:/mlflow:5000", "no URI of a registry"),
        ("http://", "no URL of a server"),
        ("http://mlflow:port", "no URL of a server"),
        ("ftp://mlflow", "no URI of a registry"),
        ("sqlite:store.db", "no URI of a registry"),
        ("C:\\store", "no URI of a registry"),
        ("", "empty"),
        ("  ", "empty"),
        ("a\0b", "no folder"),
    ],
)
def test_others_are_refused_with_what_works(
    uri: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegistryInputError) as refused:
        Registry(uri)
    assert problem in str(refused.value)
    assert "give an MLflow server as http://HOST:PORT" in str(refused.value)
    assert "word" not in str(refused.value).replace("password", "")
    assert list(tmp_path.iterdir()) == []


def test_files_and_file_stores_are_no_folders_for_a_store(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(b"")
    with pytest.raises(RegistryInputError, match=rf"a file; .* sqlite:///{database}"):
        folder_of(str(database))
    with pytest.raises(RegistryInputError, match="Not a directory"):
        Registry(f"{database}/below/it")
    (tmp_path / "mlruns/0").mkdir(parents=True)
    (tmp_path / "mlruns/0/meta.yaml").write_text("name: Default\n")
    with pytest.raises(RegistryInputError, match="migrate-filestore"):
        folder_of(str(tmp_path / "mlruns"))
    assert not (tmp_path / "mlruns/mlflow.db").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://user:s3cret@host/db", "postgresql://***@host/db"),
        ("postgresql+psycopg2://user:s3/cr@et@host:5432/db", "postgresql+psycopg2://***@host:5432/db"),
        ("http://user:s3cret@mlflow:5000/api", "http://***@mlflow:5000/api"),
        ("http://s3cret@mlflow", "http://***@mlflow"),
        ("https://user:s3@cret@mlflow", "https://***@mlflow"),
        ("API request to http://u:s3cret@h:9/api failed with 'http://u:s3cret@h'",
         "API request to http://***@h:9/api failed with 'http://***@h'"),
        ("postgresql://h/db?user=u&password=s3cret&sslmode=on",
         "postgresql://h/db?user=u&password=***&sslmode=on"),
        ("mssql://h/db?odbc_connect=UID=u;PWD=s3cret;X=1",
         "mssql://h/db?odbc_connect=UID=u;PWD=***;X=1"),
        ("http://mlflow:5000/a@b", "http://mlflow:5000/a@b"),
        ("sqlite:////srv/a@b/mlflow.db", "sqlite:////srv/a@b/mlflow.db"),
        ("s3://bucket/a@b/c", "s3://bucket/a@b/c"),
        ("nothing to hide: a@b", "nothing to hide: a@b"),
    ],
)  # fmt: skip
def test_users_and_passwords_are_not_shown(text: str, expected: str) -> None:
    assert without_secrets(text) == expected


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("http://user:s3cret@127.0.0.1:9", OutageError),
        ("postgresql+nothing://user:s3cret@127.0.0.1:9/db", OutageError),
        ("mysql+absent://user:s3cret@h/db?charset=utf8", OutageError),
    ],
)
def test_errors_of_mlflow_show_no_password(uri: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as failed:
        Registry(uri).snapshot("model")
    assert "s3cret" not in str(failed.value)


def test_a_missing_driver_is_named() -> None:
    with pytest.raises(RegistryInputError, match="No module named") as refused:
        Registry("mysql://user:s3cret@127.0.0.1:9/db")
    assert "s3cret" not in str(refused.value)
