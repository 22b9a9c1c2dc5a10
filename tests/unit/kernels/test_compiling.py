"""The kernels, compiled for an H100 without one: not all that is interpreted compiles."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton has no wheel for this machine")

LOW_RANK = ("_shrink", "_expand", "_swiglu_expand")
"""The kernels that add what adapters add, the one first whose result the others take."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Counter[str]]]:
    """What ``compile_kernels`` prints: each kernel's name, and how often it has an instruction."""
    cache = str(tmp_path_factory.mktemp("triton"))
    result = subprocess.run(
        [sys.executable, "-m", "tests.unit.kernels.compile_kernels"],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [(name, Counter(counts)) for name, counts in json.loads(result.stdout)]


def test_every_kernel_compiles(compiled: list[tuple[str, Counter[str]]]) -> None:
    names = {"_add_norm", "_rotate", "_swiglu", "_quick_gelu", *LOW_RANK}
    assert {name for name, _ in compiled} == names


def test_all_loads_and_stores_of_rows_are_wide(compiled: list[tuple[str, Counter[str]]]) -> None:
    for name, counts in compiled:
        if name in LOW_RANK:
            continue
        moves = {move for move in counts if move.startswith(("ld.global", "st.global"))}
        assert moves == {"ld.global.v4.b32", "st.global.v4.b32"}, name


def test_products_run_on_tensor_cores_and_their_factors_come_in_wide_loads(
    compiled: list[tuple[str, Counter[str]]],
) -> None:
    shrinking = [counts for name, counts in compiled if name == "_shrink"]
    expanding = [counts for name, counts in compiled if name in LOW_RANK[1:]]
    for counts in shrinking + expanding:
        assert any(move.startswith(("mma", "wgmma")) for move in counts)
        assert counts["st.global.v4.b32"]
        assert not counts["st.global.b16"]
    for counts in shrinking:
        assert counts["cp.async.cg.shared.global"]
        assert not counts["ld.global.b16"]
    for counts in expanding:
        assert counts["ld.global.v4.b32"]


def test_a_batch_of_another_size_compiles_nothing(
    compiled: list[tuple[str, Counter[str]]],
) -> None:
    # compile_kernels calls those of low-rank adapters for many sizes with each block of rows.
    for name in LOW_RANK:
        assert Counter(name for name, _ in compiled)[name] == 3
