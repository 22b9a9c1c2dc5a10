"""What each input has to become in each version: vectors that were computed without a server."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.conftest import DATA
from tests.e2e.cases import Vector
from tests.e2e.embed_command import json_lines, read_npz, vlm2vec
from tests.soak.samples import CASE_IDS, Sample

LEAST_COSINE = 0.9999
MOST_DIFFERENCE = 2e-3
"""Of a component, for vectors of length 1; batches round differently."""
COARSE_DIFFERENCE = 1e-2
"""The same for int8 and half precision."""


class ExpectedVectors:
    """The vectors of all samples in all versions, from ``vlm2vec embed`` in float32."""

    def __init__(
        self, folder: Path, base: Path, adapters: Mapping[str, Path | None], all: Sequence[Sample]
    ) -> None:
        """Computes them in ``folder``; ``adapters`` are the versions and their folders, None for
        the base. Fails where parity cases are not the golden ones, or two samples or versions are
        too near to each other to be told apart."""
        lines = [
            {
                "id": f"{version}/{sample.name}",
                "adapter": version if path else None,
                **sample.line(),
            }
            for version, path in adapters.items()
            for sample in all
        ]
        source, output = folder / "samples.jsonl", folder / "expected.npz"
        source.write_text(json_lines(lines))
        given = [f"--adapter={version}={path}" for version, path in adapters.items() if path]
        done = vlm2vec(
            "embed", "--base", base, *given, "--dtype", "float32", "--input", source,
            "--output", output, environment={"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        self._vectors = read_npz(output)
        self._check_that_versions_differ(list(adapters), all)
        self._check_golden({v: path.name if path else "base" for v, path in adapters.items()})

    def problem(self, version: str, sample: Sample, vector: Vector, coarse: bool) -> str:
        """What is wrong with a vector of ``sample`` in ``version``; empty if nothing is."""
        expected = self._vectors[f"{version}/{sample.name}"]
        if vector.shape != expected.shape or not np.isfinite(vector).all():
            return f"{vector.shape} components, or not finite"
        cosine = float(vector @ expected / (np.linalg.norm(vector) * np.linalg.norm(expected)))
        difference = float(abs(vector - expected).max())
        if cosine < LEAST_COSINE or difference > (COARSE_DIFFERENCE if coarse else MOST_DIFFERENCE):
            return f"cosine {cosine:.6f}, largest difference {difference:.2e}; {self._like(vector)}"
        return ""

    def _like(self, vector: Vector) -> str:
        """Whose vector it is, if it is anybody's."""
        nearest = max(self._vectors, key=lambda name: float(self._vectors[name] @ vector))
        return f"nearest is {nearest} with {float(self._vectors[nearest] @ vector):.6f}"

    def _check_that_versions_differ(self, versions: list[str], all: Sequence[Sample]) -> None:
        for sample in all:
            for one, other in itertools.combinations(versions, 2):
                ours, theirs = (self._vectors[f"{v}/{sample.name}"] for v in (one, other))
                assert abs(ours - theirs).max() > 2 * COARSE_DIFFERENCE, (one, other, sample.name)
        for version in versions:
            vectors = np.stack([self._vectors[f"{version}/{sample.name}"] for sample in all])
            cosines = vectors @ vectors.T - 2 * np.eye(len(vectors))
            assert cosines.max() < LEAST_COSINE, (version, cosines.max())

    def _check_golden(self, adapters: Mapping[str, str]) -> None:
        with np.load(DATA / "golden.npz") as golden:
            for version, adapter in adapters.items():
                if f"qwen2_vl/{adapter}/text" not in golden:
                    continue
                for case in CASE_IDS:
                    expected = golden[f"qwen2_vl/{adapter}/{case}"]
                    ours = self._vectors[f"{version}/case-{case}"]
                    assert float(ours @ expected) > LEAST_COSINE, (adapter, case)


def variant(adapter: Path, folder: Path, factor: float) -> Path:
    """A copy of an adapter in ``folder`` with other weights and another prompt."""
    folder.mkdir()
    for path in adapter.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(adapter / "adapter_model.safetensors")
    changed = {
        name: tensor * np.float32(factor) if "lora_B" in name else tensor
        for name, tensor in weights.items()
    }
    save_file(changed, folder / "adapter_model.safetensors")
    (folder / "embedding.json").write_text(json.dumps({"prompt": {"suffix": f" {factor}"}}))
    return folder
