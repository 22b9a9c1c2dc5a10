"""Bases and adapters of the hub, fetched by real commands from a stand-in for it."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import adapter_folder
from tests.e2e.cases import Golden, assert_golden, case_inputs, cosine, options
from tests.e2e.embed_command import case_lines, json_lines, read_npz, vlm2vec
from tests.e2e.hub import Hub, running_hub
from tests.e2e.server import running_server
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_registry.hub import named

BASE, ADAPTER, TOKEN = "Org/Tiny-2B", "people/lora_adapter.v1", "hf_OnlyForFriends"
NEEDED = {
    "config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json",
    "tokenizer_config.json",
}  # fmt: skip
FETCH = f"hf download {BASE}"
ADAPTERS_OWN = {"adapter_config.json", "adapter_model.safetensors", "embedding.json", "README.md"}
OTHERS = {
    "pytorch_model.bin": b"pickle", "modeling_tiny.py": b"import os", "optimizer.pt": b"pickle",
    "original/model.safetensors": b"again", "onnx/config.json": b"{}",
}  # fmt: skip
"""Files that nobody needs; some would run."""


@pytest.fixture
def hub(checkpoints: Path) -> Iterator[Hub]:
    """A hub with a base and an adapter, each beside files of other kinds."""
    with running_hub() as started:
        started.put(BASE, checkpoints / "qwen2_vl").files.update(OTHERS)
        files = started.put(ADAPTER, adapter_folder("qwen2_vl", "lora")).files
        files.update(OTHERS, **{"embedding.json": b"{}", "README.md": b"# Tiny", "x.json": b"{}"})
        yield started


@dataclass
class Embedding:
    """``vlm2vec embed`` on models of the hub, with a cache of its own."""

    hub: Hub
    folder: Path

    def run(self, base: str = BASE, adapter: str = "", **environment: str) -> tuple[int, str]:
        """Its status and what it says on standard error; `vectors` has what comes out."""
        line = {"id": "text", **case_lines("qwen2_vl", self.folder)["text"]}
        line |= {"adapter": "given"} if adapter else {}
        (self.folder / "requests.jsonl").write_text(json_lines([line]))
        result = vlm2vec(
            "embed", "--base", base, *(("--adapter", f"given={adapter}") if adapter else ()),
            "--input", "requests.jsonl", "--output", "out.npz",
            environment=self.environment | environment, folder=self.folder,
        )  # fmt: skip
        assert "Traceback" not in result.stderr
        return result.returncode, result.stderr

    @property
    def environment(self) -> dict[str, str]:
        """What tells huggingface_hub where everything is."""
        home = str(self.folder / "home")
        return {"HF_ENDPOINT": self.hub.url, "HF_HOME": home, "VLM2VEC_EMBED_DTYPE": "float32"}


@pytest.fixture
def embedding(hub: Hub, tmp_path: Path) -> Embedding:
    return Embedding(hub, tmp_path)


def test_a_server_fetches_what_it_serves_and_nothing_else(
    hub: Hub, embedding: Embedding, golden: Golden, tmp_path: Path
) -> None:
    base, adapter = hub.models[BASE], hub.models[ADAPTER]
    base.token, base.gated, adapter.token = TOKEN, True, TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    flags = [
        f"--model=qwen={BASE}@main", f"--adapter=qwen/lora={ADAPTER}@{adapter.commit}",
        "--dtype=float32", "--log-format=json",
    ]  # fmt: skip
    environment = embedding.environment | {"HF_TOKEN_PATH": str(tmp_path / "token")}
    with running_server(tmp_path, *flags, environment=environment) as server:
        request = pb.EmbedRequest(options=options(), inputs=[case_inputs("qwen")["text"]])
        assert_golden(server.embedding.Embed(request).embeddings[0], golden, "qwen", "lora", "text")
    assert hub.fetched() == NEEDED | ADAPTERS_OWN
    log = server.log.read_text()
    said = [json.loads(line)["message"] for line in log.splitlines()]
    assert f"{BASE}@main: commit {base.commit}" in said
    assert TOKEN not in log
    assert "/resolve/" not in log  # the URLs of files may be signed
    cached = tmp_path / "home" / "hub" / "models--Org--Tiny-2B" / "snapshots" / base.commit
    assert named(cached) == (BASE, base.commit)

    # Again without a network, a token and a revision, from the cache.
    hub.asked.clear()
    status, said_again = embedding.run(BASE, ADAPTER + f"@{adapter.commit}", HF_HUB_OFFLINE="1")
    assert status == 0, said_again
    (vector,) = read_npz(tmp_path / "out.npz").values()
    assert cosine(vector, golden["qwen2_vl/lora/text"]) > 0.9999
    assert hub.asked == []


def gated(hub: Hub) -> None:
    hub.models[BASE].token, hub.models[BASE].gated = TOKEN, True


def private(hub: Hub) -> None:
    hub.models[BASE].token = TOKEN


def pickled(hub: Hub) -> None:
    del hub.models[BASE].files["model.safetensors"]


def longer(hub: Hub) -> None:
    hub.wrong["config.json"] = b" " * 10_000


def as_it_is(hub: Hub) -> None:
    pass


@pytest.mark.parametrize(
    ("prepare", "base", "environment", "problem"),
    [
        (as_it_is, "Org/Tiny-3B", {}, "Org/Tiny-3B: no folder here, and no model on http://127"),
        (as_it_is, f"{BASE}@v9", {}, f"{BASE}@v9: the model on http://127.* has no such branch"),
        (as_it_is, "Org/a--b", {}, "Org/a--b: no folder here, and no id of a model"),
        (gated, BASE, {}, f"gated; accept its licence at http://.*/{BASE}, and give a token"),
        (gated, BASE, {"HF_TOKEN": "hf_other"}, "gated; accept .*, of the account that did"),
        (private, BASE, {}, "no model on .* that may be seen without a token; .* in HF_TOKEN"),
        (private, BASE, {"HF_TOKEN": "hf_other"}, "no model on .* that this token may see"),
        (pickled, BASE, {}, f"{BASE}: no safetensors .*; an adapter .* vlm2vec adapters import"),
        (as_it_is, BASE, {"HF_HUB_OFFLINE": "1"}, f"cache .*HF_HUB_OFFLINE is set.* {FETCH}$"),
        (as_it_is, f"{BASE}@v9", {"HF_HUB_OFFLINE": "1"}, f"{FETCH} --revision v9$"),
        (
            as_it_is,
            BASE,
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            f"127.0.0.1:9 cannot be .*{FETCH}$",
        ),
        (as_it_is, BASE, {"HF_HOME": "requests.jsonl"}, "cannot be stored in .*HF_HOME names anot"),
        (longer, BASE, {}, "what it sends is not whole: .* should be of size"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence_that_says_what_to_do(
    embedding: Embedding,
    prepare: Callable[[Hub], None],
    base: str,
    environment: dict[str, str],
    problem: str,
) -> None:
    prepare(embedding.hub)
    status, said = embedding.run(base, **environment)
    assert status == 2
    assert re.search(f"^Error: .*{problem}", said.splitlines()[-1]), said
    assert not (embedding.folder / "out.npz").exists()
    assert "hf_other" not in said


def test_bytes_that_are_not_the_hubs_are_told_and_fetched_again(
    hub: Hub, embedding: Embedding, golden: Golden
) -> None:
    files = hub.models[BASE].files
    damaged = ("config.json", "model.safetensors")
    hub.wrong = {name: files[name][:-1] + bytes([files[name][-1] ^ 1]) for name in damaged}
    status, said = embedding.run()
    assert status == 2
    assert f"Error: {BASE}: {', '.join(damaged)}: not the bytes that the hub has" in said
    hub.wrong, hub.asked = {}, []
    hub.cut["config.json"] = 2  # in the middle of the file
    status, said = embedding.run()
    assert status == 0, said
    assert hub.fetched() == {*damaged}  # the others are whole
    assert sum(line.startswith("GET /Org") for line in hub.asked) == 4
    (vector,) = read_npz(embedding.folder / "out.npz").values()
    assert cosine(vector, golden["qwen2_vl/base/text"]) > 0.9999
