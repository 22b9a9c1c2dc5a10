"""The packages that only extras of the distribution bring, and what to say where one is missing."""

from importlib.util import find_spec

from vlm2vec_service.errors import StartError

EXTRAS = {"mteb": "mteb", "peft": "training", "torch": "worker", "transformers": "worker"}
"""The extra that installs a package, by the name under which it is imported."""


def check_installed(package: str) -> None:
    """Raises `StartError` where ``package``, a key of `EXTRAS`, is not installed."""
    if find_spec(package) is None:
        raise missing(package)


def missing(package: str) -> StartError:
    """Makes the error that says how to get ``package``, a key of `EXTRAS`."""
    extra = EXTRAS[package]
    return StartError(
        f"{package} is not installed; the extra {extra} brings it: pip install "
        f"'vlm2vec-serve[{extra}]'"
    )
