"""Which part of the code may import what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "service" / "vlm2vec_service"
OURS = {
    "vlm2vec": ROOT / "clients" / "python" / "vlm2vec",
    "vlm2vec_cli": ROOT / "cli",
    "vlm2vec_demo": ROOT / "demo",
    "vlm2vec_evaluation": ROOT / "evaluation",
    "vlm2vec_registry": ROOT / "registry",
    "vlm2vec_service": ROOT / "service",
    "vlm2vec_training": ROOT / "training",
}
"""Our packages and where their code is."""
TORCH = {"torch", "torchvision", "transformers"}
PROTOCOL = {"grpc", "grpc_health", "google", "vlm2vec"}
"""gRPC, protobuf, and the client that holds the generated stubs."""

RULES = {
    OURS["vlm2vec"]: {*OURS} - {"vlm2vec"},
    OURS["vlm2vec_registry"]: {*OURS, "torch", "grpc"} - {"vlm2vec_registry"},
    OURS["vlm2vec_service"]: {*OURS} - {"vlm2vec", "vlm2vec_registry", "vlm2vec_service"},
    OURS["vlm2vec_evaluation"]: {"vlm2vec_cli", "vlm2vec_demo", "vlm2vec_training"},
    OURS["vlm2vec_training"]: {"vlm2vec_cli", "vlm2vec_demo", "vlm2vec_evaluation"},
    OURS["vlm2vec_demo"]: {"vlm2vec_cli"},
    SERVICE / "frontend": TORCH,
    SERVICE / "preprocess": TORCH,
    SERVICE / "scheduling": TORCH | PROTOCOL,
    SERVICE / "versions": TORCH | PROTOCOL,
    SERVICE / "supervision": TORCH,
    SERVICE / "engine": {"grpc"},
    **{file: TORCH for file in SERVICE.glob("backbones/*/preprocess.py")},
    **{file: {"grpc"} for file in SERVICE.glob("backbones/*/model.py")},
}  # fmt: skip
"""Top-level packages that no file of a folder may import, at any nesting level."""

LIGHT = {
    ("vlm2vec_service.frontend.server", "vlm2vec"): {"torch", "transformers"},
    ("vlm2vec_service.preprocess", "vlm2vec_service.preprocess.video"): {"torch", "transformers"},
    ("vlm2vec_cli.main", "vlm2vec_service.offline.lines"): {"torch", "transformers", "grpc"},
    ("vlm2vec_registry.embedding_config", "vlm2vec_registry.space"): {"torch", "grpc"},
    ("vlm2vec_service.engine",): {"grpc", "vlm2vec_service.engine.kernels"},
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


@pytest.mark.parametrize("folder", RULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_folder_imports_nothing_it_must_not(folder: Path) -> None:
    files = [folder] if folder.suffix else sorted(folder.rglob("*.py"))
    assert files
    violations = {
        str(file.relative_to(ROOT)): found
        for file in files
        if (found := imported(file.read_text()) & RULES[folder])
    }
    assert violations == {}


@pytest.mark.parametrize(("modules", "heavy"), LIGHT.items(), ids=max)
def test_modules_leave_heavy_packages_unimported(modules: tuple[str, ...], heavy: set[str]) -> None:
    code = f"import sys, {', '.join(modules)}; print(*sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


def test_the_rules_cover_every_backbone() -> None:
    families = [path for path in (SERVICE / "backbones").iterdir() if (path / "model.py").exists()]
    assert families
    for family in families:
        assert {family / "preprocess.py", family / "model.py"} <= set(RULES)


def test_only_the_link_and_the_worker_speak_the_workers_grpc() -> None:
    speaking = {
        str(file.relative_to(SERVICE))
        for file in SERVICE.rglob("*.py")
        if "vlm2vec.worker.v1" in file.read_text()
    }
    servers = {"worker/codec.py", "worker/server.py", "worker/servicer.py"}
    assert speaking == {"supervision/link.py", *servers}


def test_packages_import_in_one_direction() -> None:
    arrows = {
        name: {
            found
            for file in folder.rglob("*.py")
            for found in imported(file.read_text()) & set(OURS)
        }
        - {name}
        for name, folder in OURS.items()
    }
    while arrows:
        lowest = {name for name, targets in arrows.items() if not targets & set(arrows)}
        assert lowest, f"a circle among {', '.join(sorted(arrows))}"
        arrows = {name: targets for name, targets in arrows.items() if name not in lowest}
