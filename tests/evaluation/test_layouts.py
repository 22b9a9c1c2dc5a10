"""Every data set of MMEB-V2, V3 and OmniSET is read from its files, embedded and scored."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation import trees
from vlm2vec import Input
from vlm2vec_evaluation import EvaluationError, evaluate
from vlm2vec_evaluation.data import read_task
from vlm2vec_evaluation.errors import UnsupportedError
from vlm2vec_evaluation.evaluation import Evaluation
from vlm2vec_evaluation.layouts.source import sample
from vlm2vec_evaluation.local import LocalModel, load
from vlm2vec_evaluation.suite import DataSet, Suite, read_suite
from vlm2vec_evaluation.task import PoolTask, Query
from vlm2vec_evaluation.vector_file import Vector
from vlm2vec_service.settings import EngineSettings, Limits, VideoSettings

SUITES = ("mmeb_v2", "mmeb_v3", "omniset")
SOUND = 11
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
QA = (
    "Given a video and a question, select the most accurate answer from the provided candidates. "
    "Return only the exact text of your chosen answer. Question: "
)
ACTIONS = "What actions or object interactions are being performed by the person in the video?"
DESCRIBED = "Find the clip that corresponds to the described scene in the given video:"
FIRST = {
    "K700": (f"{VIDEO} Recognize the category of the video content.", "waiting_in_line"),
    "SmthSmthV2": (
        f"{VIDEO} {ACTIONS}",
        "running",
    ),
    "Breakfast": (
        f"{VIDEO} Recognize the breakfast type that the person is cooking in the video. ", None,
    ),
    "MVBench": (f"{VIDEO} {QA} What?\nOptions:\n(A) red\n(B) blue", "(A) red"),
    "NExTQA": (
        f"{VIDEO} {QA} why?\nOptions:\n"
        + "\n".join(f"({letter}) answer {index}" for index, letter in enumerate("ABCDE")),
        "answer 0",
    ),
    "Video-MME": (f"{VIDEO} {QA} What?\nA. a red ball.\nB. a blue ball.", "a red ball"),
    "EgoSchema": (f"{VIDEO} {QA} What?A. a red ball. B. a blue ball.", "a red ball"),
    "ActivityNetQA": (f"{VIDEO} {QA} is it red? (A) yes; (B) no.", "yes"),
    "MSVD": (
        "Find the video snippet that corresponds to the given summary: caption 0",
        f"{VIDEO} Understand the content of the provided video.",
    ),
    "QVHighlight": (
        f"{VIDEO} {DESCRIBED} a dog", f"{VIDEO} Understand the content of the provided video.",
    ),
    "MomentSeeker": (
        "Find the clip that corresponds to the given text: a dog",
        f"{VIDEO} Understand the content of the provided video clip.",
    ),
    "ViDoRe_arxivqa": (
        "Find a document image that matches the given query: query 0",
        f"{IMAGE} Understand the content of the provided document image.",
    ),
    "VisRAG_ChartQA": (
        "Find a document image that matches the given query: query 0",
        f"{IMAGE} Understand the content of the provided document image.",
    ),
    "BRIGHT-pony": ("why?", "some words"),
    "FollowIR-core17-instructions": ("Find it. query 0", "A title\nsome words"),
    "InfoSearch-Source-v1": ("Find that. query 0", "A title\nsome words"),
    "R2MED-Biology": ("query 0", "A title\nsome words"),
    "apibank": ("Find the tool. weather in Malmö", '{"name": "wetter \\u00e4 0"}'),
    "GAE-guiact-q2t": (f"{IMAGE} Go on from here.", f"{IMAGE}\n{IMAGE} The way."),
    "PeerQA": ("Find the memory: what in one/first?", "a walk"),
    "MCMR": (
        "Find an image-text pair that matches the given query  a red shoe",
        f"{IMAGE}  title: Shoe 0\nprice: 3",
    ),
    "OmniSET_t2v": (
        "Find the video that best matches the given text: a dog",
        "caption of COCO_val2014_000000000000",
    ),
    "OmniSET_i2t": (f"{IMAGE} Find the text that best matches the given image: ", None),
}  # fmt: skip
"""The prompts of the first query and of the first candidate, byte for byte."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mmeb")
    for name in SUITES:
        trees.write(read_suite(name, folder))
    return folder


@pytest.fixture(scope="module")
def model(checkpoints: Path) -> LocalModel:
    settings = EngineSettings(dtype="float32")
    return load(checkpoints / "qwen2_vl", None, settings, Limits(), VideoSettings())


@pytest.fixture(scope="module")
def vectors() -> dict[bytes, Vector]:
    return {}


def tasks(suite: Suite, backbone: str = "qwen2_vl") -> Iterator[PoolTask]:
    for data_set in suite.data_sets:
        task = read_task(suite, data_set, backbone)
        yield task  # type: ignore[misc]


@pytest.mark.parametrize(("name", "count"), [("mmeb_v2", 78), ("mmeb_v3", 190), ("omniset", 12)])
def test_all_of_a_suite_is_scored(
    name: str, count: int, root: Path, model: LocalModel, vectors: dict[bytes, Vector]
) -> None:
    suite = read_suite(name, root)
    found = evaluate(model.embed, tasks(suite), vectors=vectors, missing=suite.missing)
    assert len(found.data_sets) + len(found.skipped) == count
    assert set(found.skipped) == {item.name for item in suite.data_sets if sound(item)}, (
        found.skipped
    )
    assert all(0 <= row.score <= 1 for row in found.data_sets.values())
    assert all(np.isfinite(list(row.scores.all.values())).all() for row in found.data_sets.values())
    overall(found, suite, count)


def sound(item: DataSet) -> bool:
    return item.modality == "audio" or "audio" in item.options.values()


def overall(found: Evaluation, suite: Suite, count: int) -> None:
    """Of MMEB-V3 the mean is over all 190: what no model takes counts 0."""
    scores = [row.score for row in found.data_sets.values()]
    counted = count if suite.name == "mmeb_v3" else len(scores)
    assert found.headline["overall"] == pytest.approx(sum(scores) / counted)
    if suite.name == "mmeb_v3":
        assert (len(found.zeros), found.headline["audio"]) == (SOUND, 0.0)


def test_the_suites_are_those_of_the_papers(tmp_path: Path) -> None:
    kinds = {name: Counter(item.modality for item in read_suite(name, tmp_path).data_sets)
             for name in SUITES}  # fmt: skip
    assert kinds == {
        "mmeb_v2": {"image": 36, "video": 18, "visdoc": 24},
        "mmeb_v3": {"image": 37, "video": 18, "visdoc": 24, "audio": 11, "text": 53, "tool": 35,
                    "gui": 8, "memory": 4},
        "omniset": {"omni": 12},
    }  # fmt: skip
    metas = Counter(item.meta_task for item in read_suite("mmeb_v3", tmp_path).data_sets)
    assert [metas[f"tool_{name}"] for name in ("web", "code", "customized")] == [19, 7, 9]
    assert [metas[name] for name in ("bright", "nanobeir", "r2med", "video_mret")] == [12, 13, 8, 3]
    for item in read_suite("mmeb_v3", tmp_path).data_sets:
        ranked = item.modality in ("visdoc", "text")
        assert item.metric == ("ndcg_linear@5" if ranked else "hit@1"), item.name


@pytest.mark.parametrize("name", FIRST)
def test_prompts_are_upstreams(name: str, root: Path) -> None:
    for suite in (read_suite(one, root) for one in SUITES):
        for data_set in (item for item in suite.data_sets if item.name == name):
            task = read_task(suite, data_set, "qwen2_vl")
            assert isinstance(task, PoolTask)
            query, (_, candidate) = next(iter(task.queries())), next(iter(task.candidates()))
            prompt = FIRST[name][0]
            assert isinstance(query.input, Input)
            assert query.input.prompt == prompt
            assert isinstance(candidate, Input)
            assert FIRST[name][1] in (None, candidate.prompt)


def queries_of(root: Path, suite: str, name: str) -> list[Query]:
    whole = read_suite(suite, root)
    (data_set,) = [item for item in whole.data_sets if item.name == name]
    task = read_task(whole, data_set, "qwen2_vl")
    assert isinstance(task, PoolTask)
    return list(task.queries())


def test_what_is_right(root: Path) -> None:
    assert queries_of(root, "mmeb_v2", "MVBench")[0].right == {"(B) blue": 1.0}
    assert queries_of(root, "mmeb_v2", "EgoSchema")[0].right == {"a blue ball": 1.0}
    assert queries_of(root, "mmeb_v3", "ViDoRe_arxivqa")[0].right == {"1": 2.0, "2": 1.0}
    # Grades of 0 are no answers; without a score it is 1.
    assert [one.right for one in queries_of(root, "mmeb_v3", "LongEmbed-needle")] == [
        {"d1": 1.0}, {"d2": 2.0},
    ]  # fmt: skip
    assert queries_of(root, "mmeb_v3", "NanoBEIR-NanoNQ")[0].right == {"d1": 1.0, "d2": 1.0}
    assert queries_of(root, "mmeb_v3", "BRIGHT-aops")[1].right == {"d2": 1.0, "d1": 1.0}
    assert [one.right for one in queries_of(root, "mmeb_v3", "PeerQA")] == [
        {"one/first::d1": 1.0}, {"one/second::d1": 1.0},
    ]  # fmt: skip
    (query,) = queries_of(root, "omniset", "OmniSET_t2v")
    assert query.candidates is not None
    assert (len(query.candidates), list(query.right)) == (9, ["COCO_val2014_000000000000/video"])
    query = queries_of(root, "mmeb_v2", "QVHighlight")[0]
    assert (len(query.candidates or ()), list(query.right)) == (10, ["v/positive"])
    shown = [one.input for one in queries_of(root, "mmeb_v2", "MomentSeeker")]
    assert [(len(one.images), bool(one.video)) for one in shown if isinstance(one, Input)] == [
        (0, False), (1, False), (0, True),
    ]  # fmt: skip


def test_a_family_without_videos_leaves_them_out(root: Path) -> None:
    suite = read_suite("mmeb_v2", root)
    (data_set,) = [item for item in suite.data_sets if item.name == "K700"]
    task = read_task(suite, data_set, "phi3_v")
    assert isinstance(task, PoolTask)
    with pytest.raises(UnsupportedError, match="takes no video"):
        list(task.queries())


def test_frames_are_evenly_spaced() -> None:
    frames = [Path(str(index)) for index in range(20)]
    assert " ".join(path.name for path in sample(frames, 8)) == "0 2 5 8 10 13 16 19"
    assert sample(frames[:3], 8) == frames[:3]
    assert " ".join(path.name for path in sample(frames[:3], 8, pad=True)) == "0 0 0 0 1 1 1 2"
    assert sample(frames, 0) == frames


@pytest.mark.parametrize(
    ("name", "remove", "problem"),
    [
        ("MSVD", "video-tasks/frames/video_ret/MSVD/frames/v1", "v1: No such file or directory"),
        ("ViDoRe_arxivqa", "vidore/arxivqa_test_subsampled_beir/qrels", "no .parquet, .jsonl or"),
        ("QVHighlight", "video-tasks/frames/video_mret/QVHighlight/v/query", "query: No such"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, name: str, remove: str, problem: str) -> None:
    whole = read_suite("mmeb_v2", tmp_path)
    (data_set,) = [item for item in whole.data_sets if item.name == name]
    trees.LAYOUTS[data_set.layout](whole, data_set)
    (tmp_path / remove).rename(tmp_path / "elsewhere")
    task = read_task(whole, data_set, "qwen2_vl")
    assert isinstance(task, PoolTask)
    with pytest.raises(EvaluationError, match=f"data set {name}: .*{problem}"):
        list(task.candidates()), list(task.queries())
