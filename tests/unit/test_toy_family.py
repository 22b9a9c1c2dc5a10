"""A model family is one folder and one row: everything that serves, trains and evaluates takes it.

The family is in ``toy_family``, outside the package, and its row is in the table during a test.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaModel

from tests.unit.peft_adapters import make_adapter
from tests.unit.pictures import noise
from tests.unit.toy_family import ROW
from tests.unit.toy_family.model import Toy
from vlm2vec_cli.main import vlm2vec
from vlm2vec_evaluation.prompts import placeholder
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import FAMILIES, load_preprocessor
from vlm2vec_service.engine import Engine
from vlm2vec_service.errors import AdapterError, CheckpointError, InvalidInputError
from vlm2vec_service.preprocess import Prepared, Request
from vlm2vec_service.settings import EngineSettings
from vlm2vec_training.adapter import load_model, save_adapter
from vlm2vec_training.errors import TrainingError
from vlm2vec_training.settings import AdapterSettings

FLOAT32 = EngineSettings(dtype="float32")
WORDS = ("<unk>", "<image>", "a", "cat", "and", "dog")
CONFIG: dict[str, Any] = {
    "model_type": "toy", "vocab_size": len(WORDS), "image_token_id": 1, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
IMAGE_CONFIG: dict[str, Any] = {"side": 2, "image_mean": 0.5}
PICTURE = noise(7, 9)
REQUESTS = (Request(text="a cat and a dog"), Request(text="a dog", images=(PICTURE, PICTURE)))


@pytest.fixture(autouse=True)
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy family's row, in the table while a test runs."""
    monkeypatch.setitem(FAMILIES, "toy", ROW)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of the family, in Hugging Face layout."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGE_CONFIG))
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    save_file(Toy(CONFIG, IMAGE_CONFIG).state_dict(), folder / "model.safetensors")
    return folder


def prepare(base: Path, embedding: EmbeddingConfig | None = None) -> list[Prepared]:
    preprocessor = load_preprocessor(base)
    return [preprocessor.prepare(request, embedding or EmbeddingConfig()) for request in REQUESTS]


def reference(base: Path) -> npt.NDArray[np.float32]:
    """Vectors of `REQUESTS` by the model as ``transformers`` has it, one input at a time."""
    tensors = load_file(base / "model.safetensors")
    project = [tensors.pop(f"vision.project.{name}") for name in ("weight", "bias")]
    llama = LlamaModel(LlamaConfig(**CONFIG))
    llama.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items()})
    pixels = torch.tensor(np.asarray(PICTURE.resize((2, 2)))).flatten(0, 1) / 255 - 0.5
    image = F.linear(pixels, *project)
    words = [llama.embed_tokens(torch.tensor(ids)) for ids in ([2, 3, 4, 2, 5], [2, 5])]
    with torch.inference_mode():
        states = [
            llama(inputs_embeds=hidden[None]).last_hidden_state[0, -1]
            for hidden in (words[0], torch.cat([image, image, words[1]]))
        ]
    return F.normalize(torch.stack(states), dim=1).numpy()


def test_text_and_images_are_embedded(base: Path) -> None:
    vectors = Engine.load(base, FLOAT32).embed([(item, None) for item in prepare(base)])
    np.testing.assert_allclose(vectors, reference(base), atol=1e-6)


def test_token_ids_are_embedded_as_the_text_is(base: Path) -> None:
    preprocessor, engine = load_preprocessor(base), Engine.load(base, FLOAT32)
    prepared = preprocessor.prepare(Request(token_ids=(2, 3, 4, 2, 5)), EmbeddingConfig())
    np.testing.assert_allclose(engine.embed([(prepared, None)])[0], reference(base)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Request(text="a <image>"), "text"),
        (Request(token_ids=(1,)), "token_ids[0]"),
        (Request(token_ids=(6,)), "token_ids[0]"),
        (Request(prompt="a cat", images=(PICTURE,)), "images"),
    ],
)
def test_malformed_inputs_are_refused(base: Path, request_: Request, field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        load_preprocessor(base).prepare(request_, EmbeddingConfig())
    assert refused.value.field == field


@pytest.mark.parametrize("use_dora", [False, True])
def test_adapter_equals_peft(base: Path, tmp_path: Path, use_dora: bool) -> None:
    merged = make_adapter(base, tmp_path, target_modules=list(ROW.targets), use_dora=use_dora)
    (tmp_path / "embedding.json").write_text('{"backbone": "toy", "image": {"side": 3}}')
    engine = Engine.load(base, FLOAT32)
    adapter = engine.load_adapter("v1", tmp_path)
    assert adapter.media_digest
    inputs = prepare(base, adapter.embedding)
    assert [media.tokens for media in inputs[1].media] == [9, 9]
    expected = Engine(merged, FLOAT32).embed([(item, None) for item in inputs])
    together = engine.embed([(item, name) for item in inputs for name in ("v1", None)])
    np.testing.assert_allclose(together[::2], expected, atol=2e-6)
    assert abs(together[::2] - together[1::2]).max() > 1e-3


def test_settings_of_other_families_are_refused(base: Path, tmp_path: Path) -> None:
    make_adapter(base, tmp_path, target_modules=["q_proj"])
    (tmp_path / "embedding.json").write_text('{"image": {"num_crops": 3}}')
    with pytest.raises(AdapterError, match="num_crops is no setting of toy; there are side"):
        Engine.load(base, FLOAT32).load_adapter("v1", tmp_path)


def test_file_without_a_key_is_named(base: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has 'side'"):
        load_preprocessor(tmp_path)


def test_embed_command(base: Path, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "picture.png")
    lines = [
        {"id": "words", "text": "a cat and a dog"},
        {"id": "pictures", "text": "a dog", "images": ["picture.png", "picture.png"]},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments: list[Any] = [
        "embed", "--base", base, "--dtype", "float32",
        "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl",
    ]  # fmt: skip
    result = CliRunner().invoke(vlm2vec, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    embedded = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in embedded] == ["words", "pictures"]
    np.testing.assert_allclose(
        [line["vector"] for line in embedded], reference(base), rtol=0, atol=1e-6
    )


def test_training_starts_from_the_row_and_writes_what_is_served(base: Path, tmp_path: Path) -> None:
    settings = AdapterSettings(adapter="lora", rank=2, dropout=0.0, image="side=3")
    model = load_model(base, settings, "cpu", "float32", checkpointing=True)
    assert model.peft.peft_config["default"].target_modules == set(ROW.targets)
    assert model.embedding == EmbeddingConfig("toy", base.name, image={"side": 3})

    inputs = prepare(base, model.embedding)
    trained = [value for name, value in model.peft.named_parameters() if "lora_B" in name]
    assert len(trained) == 5
    for parameter in trained:
        torch.nn.init.normal_(parameter, std=0.1)
    vectors = model.embedder(inputs)
    vectors.sum().backward()
    assert all(parameter.grad.any() for parameter in trained)

    save_adapter(model.peft, model.embedding, tmp_path)
    engine = Engine.load(base, FLOAT32)
    assert engine.load_adapter("trained", tmp_path).embedding == model.embedding
    served = engine.embed([(item, "trained") for item in inputs])
    np.testing.assert_allclose(served, vectors.detach(), atol=1e-5)


def test_training_refuses_settings_of_other_families(base: Path) -> None:
    settings = AdapterSettings(image="num_crops=3")
    with pytest.raises(TrainingError, match="num_crops is no setting of toy; there are side"):
        load_model(base, settings, "cpu", "float32", checkpointing=False)


def test_evaluation_knows_the_placeholder() -> None:
    assert placeholder("toy") == "<image>"
