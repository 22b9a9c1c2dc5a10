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
    SERVICE / "scheduling": {"torch", "torchvision", "transformers"},
    ROOT / "registry": {"torch", "grpc"},
}
"""Top-level packages that no file of a folder may import, at any nesting level."""

LIGHT = {
    ("vlm2vec_service.frontend.server", "vlm2vec"): {"torch", "transformers"},
    ("vlm2vec_service.preprocess", "vlm2vec_service.preprocess.video"): {"torch", "transformers"},
    ("vlm2vec_cli.main", "vlm2vec_service.offline.lines"): {"torch", "transformers", "grpc"},
    ("vlm2vec_registry.embedding_config", "vlm2vec_registry.space"): {"torch", "grpc"},
    ("vlm2vec_service.engine",): {"grpc"},
}
"""What importing some modules must not bring along, by whatever way."""


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
    files = sorted(folder.rglob("*.py"))
    assert files
    violations = {
        str(file.relative_to(ROOT)): found
        for file in files
        if (found := imported(file.read_text()) & RULES[folder])
    }
    assert violations == {}


@pytest.mark.parametrize(
    ("modules", "heavy"), LIGHT.items(), ids=lambda item: str(next(iter(item)))
)
def test_modules_leave_heavy_packages_unimported(modules: tuple[str, ...], heavy: set[str]) -> None:
    code = f"import sys, {', '.join(modules)}; print(*sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []
