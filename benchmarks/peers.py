"""Our engine beside vLLM: same checkpoint, same inputs, in turns.

    python -m benchmarks.peers --vllm /path/to/environment/bin/python

vLLM is in an environment of its own, for it pins its torch; docs/benchmarks.md says how to make
one. Both read a random checkpoint of ``--size`` from disk and get the same token ids; pictures come
as files, which both read outside of the time, and cut and embed inside. Each turn has inputs of its
own, of the same sizes: vLLM remembers prompts and pictures, and would answer from memory.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.flops import batch_flops, matmul_rate
from benchmarks.models import TOKENIZER, random_backbone, workload, write_checkpoint
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.engine.engine import DTYPES, Engine
from vlm2vec_service.preprocess.prepared import Request
from vlm2vec_service.settings import EngineSettings

PROMPT = "<|vision_start|><|image_pad|><|vision_end|>" + " a picture of what" * 4
SIDE = 336
SAME = 0.99
"""Cosine of both sides' vectors from which on they are taken to compute the same."""


class Vllm:
    """vLLM in a process of its own, on the checkpoint ``folder``."""

    def __init__(self, python: str, folder: Path, dtype: str) -> None:
        environment = {
            "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING", **os.environ,
            # Beside the script lie modules of ours with names of the standard library.
            "PYTHONSAFEPATH": "1",
        }  # fmt: skip
        script = Path(__file__).with_name("vllm_side.py")
        self.process = subprocess.Popen(
            [python, str(script)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.ask({"model": str(folder), "dtype": dtype, "max_model_len": 2048})

    def ask(self, question: object) -> Any:
        """Sends ``question`` and waits for the answer. Raises `RuntimeError` if vLLM fails."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(question), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"vLLM ended with exit code {self.process.wait()}; see its output")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def main() -> None:
    """Prints a table of both sides for each workload."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", required=True, metavar="PYTHON", help="a Python that has vLLM")
    parser.add_argument("--size", choices=("tiny", "small"), default="small")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument(
        "--workloads", nargs="+", choices=("text", "image"), default=["text", "image"]
    )
    parser.add_argument("--inputs", type=int, default=64, help="texts; half as many pictures")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    args = parser.parse_args()
    dtype = DTYPES[args.dtype]
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        backbone = random_backbone(args.size, torch.device("cpu"), dtype)
        write_checkpoint(base, args.size, backbone)
        settings = EngineSettings(dtype=args.dtype, vision_cache_bytes=0)
        engine = Engine.load(base, settings)
        rate = matmul_rate(torch.device("cpu"), dtype)
        print(f"{args.size} {args.dtype}, torch {torch.__version__}, {rate / 1e9:.0f} GFLOP/s")
        for name in args.workloads:
            turns = [
                make_questions(name, args.size, args.inputs, Path(scratch), turn)
                for turn in range(args.rounds + 1)
            ]
            folder = base
            if name == "text":
                folder = Path(scratch) / "text"
                write_decoder(folder, base, backbone)
            try:
                with Vllm(args.vllm, folder, args.dtype) as peer:
                    compare(name, engine, peer, base, turns, rate)
            except RuntimeError as error:
                print(f"{name}: cannot be compared: {error}")
                if name == "image":
                    print("  for pictures vLLM wants a torchvision whose operators fit its torch")


def write_decoder(folder: Path, base: Path, backbone: Backbone) -> None:
    """Writes the decoder of ``backbone``, whose checkpoint is ``base``, as a Qwen2.

    For text that is the same model, and vLLM runs it without a torchvision.
    """
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors", "pre*"))
    tensors = {
        name: parameter.detach()
        for name, parameter in backbone.named_parameters()
        if not name.startswith(backbone.media_prefixes)
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    for name in ("vision_config", "rope_scaling"):
        del config[name]
    config |= {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))


def make_questions(
    name: str, size: str, count: int, folder: Path, turn: int
) -> list[dict[str, Any]]:
    """Makes the inputs of a ``turn`` as `vllm_side` reads them, as long as those of any other and
    alike in nothing else; pictures are of noise, 336 pixels square."""
    if name == "text":
        # Beyond these ids are those of pictures, which want a picture.
        texts = workload("text", size, count)
        return [{"ids": ((text.token_ids + turn) % 1900).tolist(), "images": []} for text in texts]
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json")).encode(PROMPT).ids
    rng = np.random.default_rng(turn)
    questions = []
    for index in range(count // 2):
        file = folder / f"{turn}-{index}.png"
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(file)
        questions.append({"ids": ids, "images": [str(file)]})
    return questions


def compare(
    name: str,
    engine: Engine,
    peer: Vllm,
    base: Path,
    turns: Sequence[Sequence[dict[str, Any]]],
    rate: float,
) -> None:
    """Prints how fast each side embeds the questions of a turn, and how near their vectors are."""
    preprocessor = load_preprocessor(base)
    ours: list[float] = []
    theirs: list[float] = []
    for questions in turns:
        requests = [_request(question) for question in questions]
        start = time.perf_counter()
        prepared = [preprocessor.prepare(request, EmbeddingConfig()) for request in requests]
        vectors = engine.embed([(item, None) for item in prepared])
        ours.append(time.perf_counter() - start)
        answer = peer.ask(questions)
        theirs.append(answer["seconds"])
    expected = np.array(answer["vectors"], np.float32)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    cosine = float((vectors * expected).sum(1).min())
    flops = batch_flops(engine.backbone, prepared)
    print(f"{name}: {len(questions)} inputs, {sum(map(len, prepared))} tokens")
    # The first turn of each warms up.
    for side, seconds in (("ours", min(ours[1:])), ("vLLM", min(theirs[1:]))):
        print(
            f"  {side}  {len(questions) / seconds:8.1f} inputs/s, "
            f"{flops / seconds / rate:.2f} of the product rate, at its fastest"
        )
    ratios = [their / our for our, their in zip(ours[1:], theirs[1:], strict=True)]
    print(
        f"  ours / vLLM {statistics.median(ratios):.2f} in the median of {len(ratios)} turns; "
        f"lowest cosine of their vectors {cosine:.4f}",
        flush=True,
    )
    if cosine < SAME:
        print(f"  the vectors differ: below {SAME}, so this says nothing")


def _request(question: dict[str, Any]) -> Request:
    """Makes of a question what our preprocessor takes, its pictures read from their files."""
    if not question["images"]:
        return Request(token_ids=tuple(question["ids"]))
    pictures = tuple(Image.open(file).convert("RGB") for file in question["images"])
    return Request(prompt=PROMPT, images=pictures)


if __name__ == "__main__":
    main()
