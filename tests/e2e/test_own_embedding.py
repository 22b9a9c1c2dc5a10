"""A base that is an embedder by itself: what its embedding.json says, in a server and without."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.conftest import adapter_folder, case_pictures
from tests.e2e.cases import Golden, cosine, options, text, unpack
from tests.e2e.embed_command import Line, json_lines, read_npz, vlm2vec
from tests.e2e.grpc_calls import spaces
from tests.e2e.server import running_server
from tests.parity.backbone_cases import CASES, goldens
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_cli import main
from vlm2vec_registry import preset
from vlm2vec_registry.space import base_digest, space_of

PROMPT = preset.read("chat").embedding.to_dict()["prompt"]
TEXT = "A woman playing with her dog on a beach at sunset."


@pytest.fixture(scope="module")
def chat() -> Golden:
    """The goldens of the chat form."""
    return goldens()


@pytest.fixture(scope="module")
def form(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the chat form."""
    path = tmp_path_factory.mktemp("form") / "chat.json"
    path.write_text(json.dumps({"prompt": PROMPT, "normalize": False}))
    return path


def test_base_with_a_form_is_champion_in_a_space_of_its_own(
    checkpoints: Path, tmp_path: Path, form: Path, chat: Golden
) -> None:
    base = checkpoints / "qwen2_vl"
    flags = ("--model", f"m={base}", "--embedding", f"m={form}", "--dtype", "float32")
    with running_server(tmp_path, *flags, environment={"TMPDIR": str(tmp_path)}) as server:
        request = pb.EmbedRequest(options=options("m"), inputs=[text(TEXT)])
        (found,) = server.embedding.Embed(request).embeddings
        vector = unpack(found.vector)
        assert cosine(vector, chat["qwen2_vl/base/chat-text"]) > 0.99999
        assert abs(np.linalg.norm(vector) - 1) > 0.1
        assert (found.version, found.space) == ("base", spaces(server)["m", "base"])
        assert found.space != space_of(base_digest(base), None)


def test_embed_takes_a_preset_and_parts(checkpoints: Path, tmp_path: Path, chat: Golden) -> None:
    case = next(case for case in CASES["qwen2_vl"] if case["id"] == "chat-image-two-between")
    parts = case["input"]["parts"]
    for index, picture in enumerate(case_pictures(case, "images")):
        picture.save(tmp_path / f"{index}.png")
    raw = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    lines: list[Line | str] = [
        {"id": "chat-text", "text": TEXT},
        {"id": "raw", "prompt": f"{raw}{TEXT}<|im_end|>\n<|im_start|>assistant\n"},
        {
            "id": case["id"],
            "parts": [
                {"image": f"{part['image']}.png"} if "image" in part else part for part in parts
            ],
        },
    ]
    (tmp_path / "lines.jsonl").write_text(json_lines(lines))
    result = vlm2vec(
        "embed", "--preset", "chat", "--base", checkpoints / "qwen2_vl", "--dtype", "float32",
        "--input", tmp_path / "lines.jsonl", "--output", tmp_path / "out.npz",
        environment={"TMPDIR": tmp_path},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    vectors = read_npz(tmp_path / "out.npz")
    assert cosine(vectors["raw"], vectors["chat-text"]) > 0.999999
    for id in ("chat-text", case["id"]):
        assert cosine(vectors[id], chat[f"qwen2_vl/base/{id}"]) > 0.99999
        assert np.linalg.norm(vectors[id]) == pytest.approx(1, abs=1e-5)


def test_verify_says_whether_the_published_similarities_come_out(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
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
