"""A base that is an embedder by itself: what its embedding.json says, in a server and without."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.conftest import DATA, adapter_folder
from tests.e2e.cases import Golden, cosine, options, text, unpack
from tests.e2e.embed_command import json_lines, vlm2vec
from tests.e2e.grpc_calls import spaces
from tests.e2e.server import running_server
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_cli import main
from vlm2vec_registry import preset
from vlm2vec_registry.space import base_digest, space_of

PROMPT = preset.read("chat").embedding.to_dict()["prompt"]
TEXT = "A woman playing with her dog on a beach at sunset."


@pytest.fixture(scope="module")
def chat() -> Golden:
    """The goldens of the chat form."""
    with np.load(DATA / "backbones/golden.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def form(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the chat form."""
    path = tmp_path_factory.mktemp("form") / "chat.json"
    path.write_text(json.dumps({"prompt": PROMPT}))
    return path


def test_base_with_a_form_is_champion_in_a_space_of_its_own(
    checkpoints: Path, tmp_path: Path, form: Path, chat: Golden
) -> None:
    base = checkpoints / "qwen2_vl"
    flags = ("--model", f"m={base}", "--embedding", f"m={form}", "--dtype", "float32")
    with running_server(tmp_path, *flags) as server:
        request = pb.EmbedRequest(options=options("m"), inputs=[text(TEXT)])
        (found,) = server.embedding.Embed(request).embeddings
        assert cosine(unpack(found.vector), chat["qwen2_vl/base/chat-text"]) > 0.99999
        assert (found.version, found.space) == ("base", spaces(server)["m", "base"])
        assert found.space != space_of(base_digest(base), None)


def test_embed_takes_the_form_of_its_base(
    checkpoints: Path, tmp_path: Path, form: Path, chat: Golden
) -> None:
    lines = tmp_path / "lines.jsonl"
    raw = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    lines.write_text(
        json_lines(
            [
                {"id": "parts", "text": TEXT},
                {"id": "raw", "prompt": f"{raw}{TEXT}<|im_end|>\n<|im_start|>assistant\n"},
            ]
        )
    )
    result = vlm2vec(
        "embed", "--base", checkpoints / "qwen2_vl", "--embedding", form, "--dtype", "float32",
        "--input", lines, "--output", tmp_path / "out.npz",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "out.npz") as vectors:
        for id in ("parts", "raw"):
            assert cosine(vectors[id], chat["qwen2_vl/base/chat-text"]) > 0.99999


def test_verify_says_whether_the_published_similarities_come_out(
    checkpoints: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "example.png"
    Image.new("RGB", (300, 200), "orange").save(picture)
    arguments = [
        "verify", "vlm2vec-v2", "--image", str(picture), "--base", str(checkpoints / "qwen2_vl"),
        "--adapter", str(adapter_folder("qwen2_vl", "lora")), "--dtype", "float32",
    ]  # fmt: skip
    result = CliRunner().invoke(main.vlm2vec, arguments)
    assert result.exit_code == 1, result.output
    assert result.output.endswith("vlm2vec-v2: not as published\n")
    assert result.output.count("  differs") == 2
    result = CliRunner().invoke(main.vlm2vec, [*arguments, "--tolerance", "2"])
    assert result.exit_code == 0, result.output
    assert result.output.endswith("vlm2vec-v2: as published\n")
