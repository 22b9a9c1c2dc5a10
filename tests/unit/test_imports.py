"""Which part of the code may import what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "service" / "vlm2vec_service"

RULES = {
    SERVICE / "engine": {"grpc"},
    SERVICE / "preprocess": {"torch", "torchvision", "transformers"},
    SERVICE / "frontend": {"torch", "torchvision", "transformers"},
    ROOT / "registry": {"torch", "grpc"},
}
"""Top-level packages that no file of a folder may import, at any nesting level."""

LIGHT_IMPORTS = """
import importlib, pkgutil, sys

import vlm2vec_registry

names = [
    "vlm2vec_service.preprocess",
    "vlm2vec_service.preprocess.images",
    "vlm2vec_service.preprocess.prompts",
    "vlm2vec_service.preprocess.video",
    "vlm2vec_service.cli",
    "vlm2vec_service.lines",
    "vlm2vec_service.settings",
    *(found.name for found in pkgutil.walk_packages(vlm2vec_registry.__path__, "vlm2vec_registry.")),
]
for name in names:
    importlib.import_module(name)
print(*sorted({"grpc", "torch", "transformers"} & set(sys.modules)))
"""


def imported(source: str) -> set[str]:
    """Top-level packages that ``source`` imports anywhere, functions and classes included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize(
    ("source", "packages"),
    [
        ("import torch", {"torch"}),
        ("import torch.nn.functional as F", {"torch"}),
        ("from torch.nn import functional", {"torch"}),
        ("def f():\n    if True:\n        import os, grpc.aio", {"os", "grpc"}),
        ("class A:\n    async def f(self):\n        from grpc import aio", {"grpc"}),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None", {"torch"}),
        ("from .torch import f\nfrom . import grpc", set()),
        ("torch = 'import torch'  # import torch", set()),
        ("import torchmetrics", {"torchmetrics"}),
    ],
)
def test_helper_finds_imports_at_any_nesting_level(source: str, packages: set[str]) -> None:
    assert imported(source) == packages


@pytest.mark.parametrize("folder", RULES, ids=lambda folder: folder.name)
def test_folder_imports_nothing_it_must_not(folder: Path) -> None:
    if not folder.exists():
        pytest.skip(f"there is no {folder.name} yet")
    files = sorted(folder.rglob("*.py"))
    assert files
    violations = {
        str(file.relative_to(ROOT)): found
        for file in files
        if (found := imported(file.read_text()) & RULES[folder])
    }
    assert violations == {}


def test_light_modules_leave_heavy_packages_unimported() -> None:
    result = subprocess.run(
        [sys.executable, "-c", LIGHT_IMPORTS], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []
