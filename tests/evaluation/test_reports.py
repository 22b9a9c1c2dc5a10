"""Files are looked through, and evaluations are written for people and for the leaderboard."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.evaluation import trees
from tests.evaluation.small import write_suite
from tests.evaluation.test_ranking import embed
from vlm2vec_cli.evaluate import evaluate as evaluate_command
from vlm2vec_evaluation import EvaluationError, evaluate
from vlm2vec_evaluation.check import check
from vlm2vec_evaluation.compare import difference
from vlm2vec_evaluation.data import read_task
from vlm2vec_evaluation.metrics import DataSetScores, Scores, averages
from vlm2vec_evaluation.published import of_models, published
from vlm2vec_evaluation.suite import METRICS, read_suite


def run(*flags: str | Path, status: int = 0) -> str:
    """The command in this process; what it printed, and the error."""
    result = CliRunner().invoke(evaluate_command, [str(flag) for flag in flags])
    assert (result.exit_code != 0) == bool(status), result.exception
    return result.output + str(result.exception or "")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("small") / "suite")


@pytest.fixture(scope="module")
def reported(small: Path, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    flags: list[str | Path] = [
        *("--local", "--base", checkpoints / "qwen2_vl", "--dtype", "float32", "--suite", small),
        *("--cache", folder / "cache", "--output", folder / "scores.json"),
    ]
    run(*flags)
    printed = run(
        *flags, "--report", folder / "report", "--compare", folder / "scores.json",
        "--beside", "VLM2Vec-V2.0",
    )  # fmt: skip
    assert f"report: {folder / 'report' / 'report.html'}" in printed
    return folder


def test_the_leaderboards_files(reported: Path) -> None:
    whole = json.loads((reported / "report" / "score.json").read_text())
    scores = json.loads((reported / "scores.json").read_text())
    assert set(whole["metrics"]["image"]) == {"classes", "questions", "captions", "crops"}
    for name, found in whole["metrics"]["image"].items():
        assert found["hit@1"] == scores["data_sets"][name]["hit1"]
        assert found["num_pred"] == scores["data_sets"][name]["queries"]
        assert json.loads((reported / "report" / f"{name}_score.json").read_text()) == found
        lines = (reported / "report" / f"{name}_pred.jsonl").read_text().splitlines()
        told = [json.loads(line) for line in lines]
        assert len(told) == found["num_pred"]
        first = [line["prediction"][0] in line["label"] for line in told]
        assert np.mean(first) == found["hit@1"]
        assert all(line["prediction_scores"] == sorted(line["prediction_scores"], reverse=True)
                   for line in told)  # fmt: skip
    assert whole["metadata"]["space"] == scores["space"]


def test_the_page_needs_nothing_else_and_shows_the_worst(reported: Path) -> None:
    page = (reported / "report" / "report.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    for word in ("The worst queries", "VLM2Vec-V2.0", "+0.0000", "crops"):
        assert word in page
    # Words of data are text, whatever they hold.
    assert "<|image_pad|>" not in page
    assert "&lt;|image_pad|&gt;" in page


def test_missing_files_are_said_with_what_fetches_them(tmp_path: Path) -> None:
    suite = read_suite("mmeb_v2", tmp_path)
    for data_set in suite.data_sets:
        if data_set.modality == "video":
            trees.LAYOUTS[data_set.layout](suite, data_set)
    frame = next((tmp_path / "video-tasks/frames/video_ret/MSVD/frames/v0").iterdir())
    (tmp_path / "elsewhere").mkdir()
    for path in list(frame.parent.iterdir()):
        path.rename(tmp_path / "elsewhere" / path.name)
    told = run("--suite", "mmeb_v2", "--data", tmp_path, "--modality", "video", "--check", status=2)
    assert "ok       K700: 2 queries, 701 candidates\n" in told
    assert re.search(r"missing  data set MSVD: 1 not there: \S+/v0\n +hf download", told)
    assert "--local-dir" in told
    assert "1 of 18 data sets lack files" in told


def test_every_file_that_is_missing_is_said(tmp_path: Path) -> None:
    """Of a data set whose rows are there: folders of frames, pictures, and a table of grades."""
    suite = read_suite("mmeb_v3", tmp_path)
    chosen = {item.name: item for item in suite.data_sets
              if item.name in ("MSVD", "QVHighlight", "VisRAG_ChartQA", "MCMR")}  # fmt: skip
    for item in chosen.values():
        trees.LAYOUTS[item.layout](suite, item)
    for name in ("MSVD", "QVHighlight", "MCMR"):
        options = chosen[name].options
        shutil.rmtree(tmp_path / (options.get("frames") or options["pictures"]))
    shutil.rmtree(tmp_path / chosen["VisRAG_ChartQA"].path / "qrels")
    next((tmp_path / chosen["VisRAG_ChartQA"].options["pictures"]).iterdir()).unlink()
    found = {one.name: one.problem for one in check(suite, list(chosen.values()), None)}
    assert re.fullmatch(r"data set MSVD: 2 not there: \S+/v0, \S+/v1", found["MSVD"])
    assert re.search(r"QVHighlight: 2 not there: \S+/v, \S+/v/query$", found["QVHighlight"])
    assert re.search(r"MCMR: 3 not there: \S+/p0.png, \S+/p1.png, \S+/p2.png$", found["MCMR"])
    grades, pictures = found["VisRAG_ChartQA"].split("\n")
    assert "qrels: no .parquet" in grades
    assert "VisRAG_ChartQA: 1 not there: " in pictures


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--beside", "GPT-5"], "no published scores of GPT-5; there are those of VLM2Vec-V2.0"),
        (["--modality", "text"], "suite small has no data set of text"),
        (["--compare", "suite.yaml", "--report", "x"], "no scores that vlm2vec evaluate --output"),
        (["--compare", "suite.yaml"], "--compare is for --report"),
        (["--record", "--modality", "image"], "leave out --only, --modality and --limit"),
    ],
)
def test_what_cannot_be_is_refused(
    flags: list[str], problem: str, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small.parent)
    assert problem in run("--suite", small, *flags, status=2)


@pytest.mark.parametrize(
    ("suite", "mean"), [("mmeb_v1", 0.6492), ("mmeb_v2", 0.5907), ("mmeb_v3", 0.3821)]
)
def test_published_scores_average_as_published(suite: str, mean: float, tmp_path: Path) -> None:
    """VLM2Vec-V2.0 has 64.92, 59.1 over all 78 with the corrected pages, and 38.2 over all 190,
    where what it does not take counts 0."""
    known = published()["VLM2Vec-V2.0"]
    rows = {}
    for item in read_suite(suite, tmp_path).data_sets:
        score = known.get(item.name, 0.0)
        scores = Scores(score, 0, 0, 0, 0, 0, dict.fromkeys(METRICS, score))
        rows[item.name] = DataSetScores(
            item.name, item.meta_task, item.split, 1, "", scores, item.metric
        )
    assert np.mean([row.score for row in rows.values()]) == pytest.approx(mean, abs=5e-5)
    assert averages(rows)["overall"].hit1 == pytest.approx(mean, abs=5e-5)


def test_published_names_are_the_suites(tmp_path: Path) -> None:
    names = {item.name for suite in ("mmeb_v3", "omniset")
             for item in read_suite(suite, tmp_path).data_sets}  # fmt: skip
    for model, scores in of_models(",".join(published())).items():
        assert set(scores) <= names, model
    assert Counter(map(len, published().values()))[78] == 1


@pytest.mark.parametrize(("shift", "certain"), [(0.0, False), (0.15, True), (-0.15, True)])
def test_a_difference_is_certain_where_chance_does_not_make_it(shift: float, certain: bool) -> None:
    random = np.random.default_rng(0)
    before = random.uniform(size=400).astype(np.float32)
    after = before + random.normal(shift, 0.3, 400).astype(np.float32)
    after -= np.float32((after - before).mean() - shift)
    found = difference([(before, after)])
    assert found.mean == pytest.approx(shift, abs=1e-6)
    assert found.certain == certain
    # The interval of a mean of 400: twice its standard error to each side.
    assert found.high - found.low == pytest.approx(4 * 0.3 / 20, rel=0.15)


def test_of_several_data_sets_each_counts_once() -> None:
    small, large = np.zeros(10, np.float32), np.zeros(1000, np.float32)
    assert difference([(small, small + 1), (large, large)]).mean == pytest.approx(0.5)


def test_a_suite_of_nothing_that_the_model_takes_is_an_error(tmp_path: Path) -> None:
    suite = read_suite("mmeb_v3", tmp_path)
    sounds = [item for item in suite.data_sets if item.modality == "audio"]
    for item in sounds:
        trees.LAYOUTS[item.layout](suite, item)
    with pytest.raises(EvaluationError, match="takes the inputs of none"):
        evaluate(embed, [read_task(suite, item, "qwen2_vl") for item in sounds])
