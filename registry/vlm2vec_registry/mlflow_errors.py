"""The errors of MLflow, and of whatever lies behind it, as errors of a registry."""

from collections.abc import Iterator
from contextlib import contextmanager

from vlm2vec_registry.errors import MissingError, OutageError, RegistryError, RegistryInputError
from vlm2vec_registry.uri import without_secrets


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Turns what is raised inside into `MissingError`, where MLflow knows no such thing,
    `RegistryInputError`, where a package is not installed, or else `OutageError`. None of the
    messages has a password in it."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        missing = error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        kind = MissingError if missing else OutageError
        raise kind(f"MLflow: {without_secrets(str(error.message))}") from error
    except RegistryError:
        raise
    except ImportError as error:
        raise RegistryInputError(f"MLflow: {error}; the URI needs that package") from error
    except Exception as error:
        # Whatever lies behind MLflow: requests, SQLAlchemy, an S3 client, JSON that is none.
        text = without_secrets(f"{type(error).__name__}: {error}")
        raise OutageError(f"MLflow: {text}") from error
