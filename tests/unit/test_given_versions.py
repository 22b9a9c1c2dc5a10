"""Versions that are given at start, beside a registry that knows its own."""

from pathlib import Path
from typing import Any

import pytest

from vlm2vec_service.errors import StartError
from vlm2vec_service.frontend.build import Deployment, read_catalog

MODELS = {"m": Path("/nowhere")}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"adapters": {("m", "1"): Path("/nowhere")}}, "--adapter m/1"),
        ({"aliases": {("m", "champion"): "1"}}, "--alias m@champion"),
    ],
)
def test_a_registry_is_the_only_source_of_versions(given: dict[str, Any], named: str) -> None:
    with pytest.raises(StartError, match=f"{named}: versions and aliases come from --registry"):
        read_catalog(Deployment(MODELS, **given), "https://mlflow.example.com")
