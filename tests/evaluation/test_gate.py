"""Recorded evaluations and the gate, on a real MLflow store."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.conftest import adapter_folder
from tests.evaluation.small import write_suite
from vlm2vec_cli.main import vlm2vec
from vlm2vec_evaluation import Evaluation, EvaluationError, Scores
from vlm2vec_evaluation.gate import Requirement, check, parse
from vlm2vec_evaluation.metrics import DataSetScores
from vlm2vec_evaluation.record import PREFIX, read, record, scores
from vlm2vec_evaluation.suite import Suite, read_suite
from vlm2vec_evaluation.vector_file import Vector
from vlm2vec_registry.errors import MissingError
from vlm2vec_registry.snapshot import LOGGED_MODEL
from vlm2vec_registry.store import Registry

HIT1 = {"classes": 0.9, "questions": 0.8, "captions": 0.7, "crops": 0.6}
Publish = Callable[[], str]


@pytest.fixture(scope="module")
def registry(registry_folder: Path) -> Registry:
    return Registry(str(registry_folder))


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return read_suite(write_suite(tmp_path_factory.mktemp("suite") / "small"))


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)[:60].replace("[", "-").strip("]")


@pytest.fixture
def versions(registry: Registry, model: str, checkpoints: Path) -> list[str]:
    """Two versions of ``model``, of different spaces; the first is the champion."""
    base = checkpoints / "qwen2_vl"
    return [
        registry.publish(
            model, adapter_folder("qwen2_vl", name), base=base, alias=alias
        ).name
        for name, alias in (("lora", "champion"), ("dora", None))
    ]  # fmt: skip


def evaluation(suite: Suite, data: str = "d" * 32, **hit1: float) -> Evaluation:
    """Scores as an evaluation would give them."""
    values = HIT1 | hit1
    rows = {}
    for item in suite.data_sets:
        scores = Scores(values[item.name], 1.0, 1.0, 0.95, 0.96, 0.1)
        rows[item.name] = DataSetScores(item.name, item.meta_task, item.split, 100, data, scores)
    return Evaluation(rows)


def write(
    registry: Registry, model: str, version: str, suite: Suite, data: str = "d" * 32, **hit1: float
) -> None:
    found = registry.version(model, version)
    record(registry, found, suite, evaluation(suite, data, **hit1), found.space)


def test_scores_are_in_a_run_and_in_a_tag(
    registry: Registry, model: str, versions: list[str], suite: Suite
) -> None:
    version = registry.version(model, versions[1])
    assert read(version, suite) is None
    made = record(registry, version, suite, evaluation(suite), version.space)
    assert read(registry.version(model, versions[1]), suite) == made
    assert made.hit1 == HIT1
    assert made.overall["hit1"] == pytest.approx(0.75)
    run = registry.client.get_run(made.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["crops/hit1"] == 0.6
    assert run.data.metrics["overall/hit1"] == pytest.approx(0.75)
    assert run.data.metrics["ood/hit1"] == pytest.approx(0.7)
    assert run.data.metrics["vqa/mrr"] == 0.95
    assert run.data.tags["vlm2vec.version"] == version.name
    assert run.data.tags["mlflow.user"]
    assert run.inputs is not None
    read_by_run = {item.dataset.name: item.dataset.digest for item in run.inputs.dataset_inputs}
    assert read_by_run == made.data
    (path,) = [item.path for item in registry.client.list_artifacts(made.run_id)]
    local = registry.client.download_artifacts(made.run_id, path)
    whole = json.loads(Path(local).read_text())
    assert whole["vlm2vec.suite_digest"] == suite.digest
    assert whole["data_sets"]["crops"]["hit1"] == 0.6
    assert whole["data_sets"]["crops"]["queries"] == 100


def test_scores_are_where_people_look(
    registry: Registry, model: str, versions: list[str], suite: Suite
) -> None:
    for crops in (0.6, 0.5):
        write(registry, model, versions[1], suite, crops=crops)
    version = registry.version(model, versions[1])
    assert version.tags[f"vlm2vec.hit1.{suite.name}"] == "0.7250"
    assert scores(version) == {suite.name: pytest.approx(0.725)}
    logged = registry.client.get_logged_model(version.tags[LOGGED_MODEL])
    crops_of = [item for item in logged.metrics or [] if item.key == "crops/hit1"]
    assert {(item.dataset_name, item.dataset_digest) for item in crops_of} == {("crops", "d" * 32)}
    described = registry.client.get_model_version(model, version.name).description
    assert described is not None
    assert described.count("| overall |") == 1
    assert "0.725 |" in described
    assert "| Base |" in described
    shown = CliRunner().invoke(vlm2vec, ["adapters", "--registry", registry.uri, "list", model])
    assert f"{suite.name} 0.7250" in shown.output
    registry.tag(model, version.name, PREFIX + "other", "[]")
    assert set(scores(registry.version(model, version.name))) == {suite.name}


def test_a_good_version_passes(
    registry: Registry, model: str, versions: list[str], suite: Suite
) -> None:
    write(registry, model, versions[0], suite)
    write(registry, model, versions[1], suite, crops=0.6, classes=0.95)
    assert check(registry, model, versions[1], Requirement(suite, minimum=0.7)) == []
    # The champion itself, and a first version, have nothing to be compared with.
    assert check(registry, model, versions[0], Requirement(suite)) == []
    registry.delete_alias(model, "champion")
    assert check(registry, model, versions[1], Requirement(suite)) == []


def test_what_fell_is_named_with_by_how_much(
    registry: Registry, model: str, versions: list[str], suite: Suite
) -> None:
    write(registry, model, versions[0], suite)
    write(registry, model, versions[1], suite, questions=0.799, crops=0.5, classes=0.949)
    crops = "crops: hit@1 fell by 0.1000, from 0.6000 to 0.5000; max_drop is "
    questions = "questions: hit@1 fell by 0.0010, from 0.8000 to 0.7990; max_drop is "
    overall = "overall: hit@1 fell by 0.0130, from 0.7500 to 0.7370; max_drop is "

    def problems(minimum: float = 0.0, max_drop: float = 0.0) -> list[str]:
        return check(registry, model, versions[1], Requirement(suite, minimum, max_drop))

    assert problems() == [questions + "0.0000", crops + "0.0000", overall + "0.0000"]
    assert problems(max_drop=0.0010) == [crops + "0.0010", overall + "0.0010"]
    assert problems(max_drop=0.02) == [crops + "0.0200"]
    assert problems(max_drop=0.1) == []
    low = "overall hit@1 is 0.7370, min_hit1 is 0.7400"
    assert problems(max_drop=0.1, minimum=0.74) == [low]
    assert problems(max_drop=0.02, minimum=0.74) == [low, crops + "0.0200"]


def test_a_drop_by_another_metric_may_have_to_be_more_than_chance(
    registry: Registry, model: str, versions: list[str], suite: Suite
) -> None:
    """Of 100 queries 10 are answered worse, which is more than chance; or 30 worse and 26 better,
    which is not, though the mean fell all the same."""
    before = np.tile(np.array([1, 0], np.float32), 50)
    worse, mixed = before.copy(), before.copy()
    worse[np.flatnonzero(before)[:10]] = 0
    mixed[np.flatnonzero(before)[:30]] = 0
    mixed[np.flatnonzero(before == 0)[:26]] = 1

    def put(version: str, each: Vector) -> None:
        rows = {
            name: replace(row, scores=replace(row.scores, hit1=float(each.mean())), each=each)
            for name, row in evaluation(suite).data_sets.items()
        }
        published = registry.version(model, version)
        record(registry, published, suite, Evaluation(rows), published.space)

    put(versions[0], before)
    significant = Requirement(suite, metric="score", significant=True)
    put(versions[1], worse)
    problems = check(registry, model, versions[1], significant)
    assert len(problems) == 5
    assert "classes: score fell by 0.1000, from 0.5000 to 0.4000; max_drop" in problems[0]
    assert "the drop is from 0.0" in problems[0]
    put(versions[1], mixed)
    assert len(check(registry, model, versions[1], replace(significant, significant=False))) == 5
    # Of one data set it may be chance; that all four fell alike is hardly.
    assert [one for one in check(registry, model, versions[1], significant)
            if not one.startswith("overall")] == []  # fmt: skip
    assert check(registry, model, versions[1], Requirement(suite, 0.9, metric="mrr")) == []
    low = check(registry, model, versions[1], Requirement(suite, 0.5, metric="score"))
    assert low[0] == "overall score is 0.4600, min_score is 0.5000"


def test_what_is_missing_or_stale_is_refused(
    registry: Registry, model: str, versions: list[str], suite: Suite
) -> None:
    champion, candidate = versions

    def only_problem(required: Suite = suite) -> str:
        (problem,) = check(registry, model, candidate, Requirement(required))
        return problem

    assert (
        f"{model} version {candidate} has no recorded evaluation on small: run " in only_problem()
    )
    write(registry, model, candidate, suite)
    assert f"{model} version {champion} has no recorded evaluation on small" in only_problem()
    write(registry, model, champion, suite, data="e" * 32)
    assert only_problem() == (
        "the champion was evaluated on other data of captions, classes, crops, questions: evaluate "
        "both on the same"
    )
    write(registry, model, champion, suite)
    assert check(registry, model, candidate, Requirement(suite)) == []

    edited = replace(suite, data_sets=suite.data_sets[1:])
    assert "is of another edition of suite small" in only_problem(edited)
    assert f"({suite.digest}, now {edited.digest})" in only_problem(edited)
    tag = json.loads(registry.version(model, candidate).tags[PREFIX + "small"])
    registry.tag(model, candidate, PREFIX + "small", json.dumps({**tag, "space": "0" * 32}))
    assert f"its evaluation is of space {'0' * 32}, its space is {tag['space']}" in only_problem()
    registry.tag(model, candidate, PREFIX + "small", json.dumps({**tag, "hit1": {}}))
    assert "its evaluation on small is incomplete" in only_problem()
    registry.tag(model, candidate, PREFIX + "small", "good")
    assert "was not made by an evaluation" in only_problem()
    with pytest.raises(MissingError):
        check(registry, model, "99", Requirement(suite))


def test_only_whole_evaluations_of_the_versions_space_are_recorded(
    registry: Registry, model: str, versions: list[str], suite: Suite
) -> None:
    version = registry.version(model, versions[0])
    with pytest.raises(EvaluationError, match=f"has space {version.space} in the registry, the "):
        record(registry, version, suite, evaluation(suite), "0" * 32)
    lost = replace(version, run_id="0" * 32)
    with pytest.raises(EvaluationError, match=r"not recorded: MLflow: .*; run it again"):
        record(registry, lost, suite, evaluation(suite), version.space)
    part = Evaluation(dict(list(evaluation(suite).data_sets.items())[:3]))
    with pytest.raises(EvaluationError, match="not recorded: crops were not evaluated"):
        record(registry, version, suite, part, version.space)
    assert read(registry.version(model, versions[0]), suite) is None


def test_requirements_are_parsed(tmp_path: Path) -> None:
    path = write_suite(tmp_path / "a")
    suite = read_suite(path)
    assert parse(f"{path}:min_hit1=0.60,max_drop=0.005") == Requirement(suite, 0.6, 0.005)
    assert parse(f"{path}:max_drop=0.005") == Requirement(suite, 0.0, 0.005)
    assert parse(str(path)) == Requirement(suite)
    assert parse("mmeb_v1:min_hit1=0.6").suite.name == "mmeb_v1"
    assert parse(f"{path}:min_mrr=0.5") == Requirement(suite, 0.5, metric="mrr")
    assert parse(f"{path}:metric=score,max_drop=0.1,significant=yes") == Requirement(
        suite, 0.0, 0.1, "score", significant=True
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "mmeb_v1:min_hit=0.6",
            "'min_hit=0.6' is not as in suite.yaml:min_hit1=0.60,max_drop=0.005",
        ),
        ("mmeb_v1:min_hit1=0.6,min_hit1=0.7", "'min_hit1=0.7' is not as in"),
        ("mmeb_v1:min_hit1=60%", "min_hit1: '60%' is no number"),
        ("mmeb_v1:min_hit1=60", "min_hit1: 60 is not between 0 and 1"),
        ("mmeb_v1:max_drop=nan", "max_drop: nan is not between 0 and 1"),
        ("none.yaml:max_drop=0", "suite none.yaml: no such file"),
        ("mmeb_v1:min_recall=0.5", "'min_recall=0.5' is not as in"),
        ("mmeb_v1:metric=acc", "'metric=acc' is not as in"),
        ("mmeb_v1:min_mrr=0.5,min_hit1=0.5", "'min_hit1=0.5' is not as in"),
        ("mmeb_v1:min_mrr=0.5,metric=score", "a requirement has one metric; give several"),
        ("mmeb_v1:significant=yes", "significant=yes is for metric=score"),
        ("mmeb_v1:significant=1", "'significant=1' is not as in"),
    ],
)
def test_requirements_that_make_no_sense_are_refused(text: str, problem: str) -> None:
    with pytest.raises(EvaluationError, match=problem):
        parse(text)
