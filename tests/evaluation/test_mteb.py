"""An MTEB task that is made here, against a real server."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mteb
import numpy as np
import pytest
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from PIL import Image

from tests.e2e.server import Server
from tests.evaluation import small
from vlm2vec import Client, Input
from vlm2vec_evaluation import EvaluationError
from vlm2vec_evaluation.mteb import REPRESENT, ServedEncoder, mmeb_instructions

TEXTS = {"q0": "a temple", "q1": "a pink flower"}
QUERY = "Find me an everyday image that matches the given caption:"


class SmallRetrieval(AbsTaskRetrieval):
    """Captions and pictures; ``pictures`` is where they are."""

    metadata = TaskMetadata(
        name="SmallRetrieval",
        description="Pictures by caption.",
        type="Any2AnyRetrieval",
        category="t2i",
        modalities=["text", "image"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_5",
        dataset={"path": "none", "revision": "1"},
        prompt={"query": QUERY},  # type: ignore[arg-type]
    )
    pictures: Path

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        names = [f"{index}.png" for index in range(small.CROPS)]
        images = [Image.open(self.pictures / name).convert("RGB") for name in names]
        relevant = {"q0": {"0.png": 1}, "q1": {"3.png": 1}}
        split = RetrievalSplitData(
            queries=Dataset.from_dict({"id": list(TEXTS), "text": list(TEXTS.values())}),
            corpus=Dataset.from_dict({"id": names, "image": images}),
            relevant_docs=relevant,
            top_ranked=None,
        )
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


def test_a_task_has_the_scores_of_the_clients_vectors(server: Server, tmp_path: Path) -> None:
    small.write_suite(tmp_path / "suite")
    task = SmallRetrieval()
    task.pictures = tmp_path / "suite" / "pictures"
    with Client(server.address) as client:
        encoder = ServedEncoder(client, "qwen@canary")
        result = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False)
        queries = client.embed(list(TEXTS.values()), instruction=QUERY, model="qwen", version="2")
        paths = [task.pictures / f"{index}.png" for index in range(small.CROPS)]
        documents = client.embed(paths, instruction=REPRESENT["image"], model="qwen", version="2")
        space = client.embed("a", details=True, model="qwen", version="2").space
    ranks = [
        1 + int(np.count_nonzero(scores > scores[right]))
        for scores, right in zip(queries @ documents.T, (0, 3), strict=True)
    ]
    (found,) = result.task_results
    (scores,) = found.scores["test"]
    assert scores["mrr_at_10"] == pytest.approx(np.mean([1 / rank for rank in ranks]), abs=1e-4)
    assert scores["hit_rate_at_1"] == pytest.approx(np.mean([rank == 1 for rank in ranks]))
    assert result.model_name == "vlm2vec-serve/qwen"
    assert result.model_revision == space


def test_instructions_and_refusals(server: Server) -> None:
    metadata = SmallRetrieval.metadata
    picture = Image.new("RGB", (56, 56), (200, 30, 30))
    batch = {"text": ["a"], "image": [picture]}

    with Client(server.address) as client:

        def encode(encoder: ServedEncoder, batch: dict[str, Any], prompt_type: str) -> Any:
            return encoder.encode(
                [batch],  # type: ignore[arg-type]
                task_metadata=metadata, hf_split="test", hf_subset="default",
                prompt_type=mteb.types.PromptType(prompt_type),
            )  # fmt: skip

        def expected(instruction: str | None) -> Any:
            item = Input(text="a", images=[picture], instruction=instruction)
            return client.embed([item], model="qwen")

        plain = ServedEncoder(client, "qwen")
        named = ServedEncoder(client, "qwen", instructions={"document": "Describe it."})
        np.testing.assert_allclose(encode(plain, batch, "query"), expected(QUERY), atol=1e-5)
        shown = expected(REPRESENT["image"])
        np.testing.assert_allclose(encode(plain, batch, "document"), shown, atol=1e-5)
        np.testing.assert_allclose(
            encode(named, batch, "document"), expected("Describe it."), atol=1e-5
        )
        with pytest.raises(EvaluationError, match="the model takes no audio"):
            encode(plain, {"audio": []}, "query")
        with pytest.raises(EvaluationError, match="a model 'none' is not served; there are"):
            ServedEncoder(client, "none")


def test_mmebs_instructions_are_for_tasks_that_there_are(server: Server) -> None:
    told = mmeb_instructions()
    names = [name for name in told if not name.endswith(".v2")]
    assert len(mteb.get_tasks(tasks=names, exclude_superseded=False)) == len(names) > 50
    assert told["MSVDT2VRetrieval"] == {
        "query": "Find the video snippet that corresponds to the given summary:",
        "document": REPRESENT["video"],
    }
    assert told["MSVDV2TRetrieval"]["query"] == told["MSVDT2VRetrieval"]["document"]
    assert told["ClothoA2TRetrieval.v2"]["document"].endswith("textual description.\nQuery:")
    assert told["ESC50_Zeroshot"] == {
        "query": "Recognize the environmental sound category of the audio.", "document": "",
    }  # fmt: skip
    # A task that embeds what is shown and its labels does not say which of them is a query.
    task = SimpleNamespace(name="HMDB51ZeroShot", type="VideoZeroshotClassification")
    with Client(server.address) as client:
        encoder = ServedEncoder(client, "qwen", instructions=told)
        film = [np.zeros((56, 56, 3), np.uint8)]
        shown = Input(video=film, instruction=told["HMDB51ZeroShot"]["query"])
        batches: list[Any] = [{"video": [film]}, {"text": ["jump"]}]
        for batch, item in zip(batches, (shown, Input(text="jump")), strict=True):
            found = encoder.encode(
                [batch],  # type: ignore[arg-type]
                task_metadata=task,  # type: ignore[arg-type]
                hf_split="test", hf_subset="default",
            )  # fmt: skip
            np.testing.assert_allclose(found, client.embed([item], model="qwen"), atol=1e-5)


def test_videos_are_eight_of_their_frames(server: Server) -> None:
    film = np.random.default_rng(0).integers(0, 256, (20, 56, 56, 3), np.uint8)
    chosen = [film[place] for place in (0, 2, 5, 8, 10, 13, 16, 19)]
    with Client(server.address) as client:
        expected = client.embed([Input(video=chosen, instruction=REPRESENT["video"])], model="qwen")
        for video in (film, film.transpose(0, 3, 1, 2), Decoder(film)):
            found = ServedEncoder(client, "qwen").encode(
                [{"video": [video]}],  # type: ignore[arg-type]
                task_metadata=SmallRetrieval.metadata, hf_split="test", hf_subset="default",
                prompt_type=mteb.types.PromptType.document,
            )  # fmt: skip
            np.testing.assert_allclose(found, expected, atol=1e-5)


class Decoder:
    """Gives frames when they are asked for, as torchcodec's does."""

    def __init__(self, film: Any) -> None:
        self._film = film

    def __len__(self) -> int:
        return len(self._film)

    def get_frames_at(self, indices: list[int]) -> Any:
        return SimpleNamespace(data=self._film[indices].transpose(0, 3, 1, 2))
