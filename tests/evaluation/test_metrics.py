"""Scores equal those of scikit-learn on the same vectors."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import (
    label_ranking_average_precision_score,
    ndcg_score,
    top_k_accuracy_score,
)
from sklearn.metrics.pairwise import cosine_similarity

from vlm2vec.inputs import InputLike
from vlm2vec_evaluation import EvaluationError, Record, Task, evaluate
from vlm2vec_evaluation.source import key_of

QUERIES, CANDIDATES, DIM = 40, 30, 12
Vector = npt.NDArray[np.float32]


class Table:
    """Vectors by text, and which texts were asked for."""

    def __init__(self, vectors: dict[str, Vector]) -> None:
        self.vectors = vectors
        self.asked: list[str] = []

    def __call__(
        self, items: Iterable[tuple[bytes, InputLike]]
    ) -> Iterator[tuple[bytes, Vector | Exception]]:
        for key, item in items:
            assert isinstance(item, str)
            self.asked.append(item)
            found = self.vectors.get(item)
            yield key, ValueError(f"no {item}") if found is None else found


def random_table(seed: int) -> Table:
    random = np.random.default_rng(seed)
    vectors = {f"c{index}": random.normal(size=DIM) for index in range(CANDIDATES)}
    # Close to the right candidate, so that ranks are low but not all 1; of any length.
    queries = {
        f"q{index}": (vectors[f"c{index % CANDIDATES}"] + 1.5 * random.normal(size=DIM))
        * random.uniform(0.1, 9)
        for index in range(QUERIES)
    }
    return Table({name: value.astype(np.float32) for name, value in (vectors | queries).items()})


def task(name: str, meta_task: str = "retrieval", split: str = "ind", shift: int = 0) -> Task:
    """The right candidate is another one for every query, and at another place."""
    candidates = [f"c{index}" for index in range(CANDIDATES)]
    records = [
        Record(f"q{index}", candidates[shift:] + candidates[:shift],
               ((index - shift) % CANDIDATES,))
        for index in range(QUERIES)
    ]  # fmt: skip
    return Task(name, meta_task, records, split)


@pytest.mark.parametrize("seed", [0, 1])
def test_scores_equal_scikit_learn(seed: int) -> None:
    table = random_table(seed)
    found = evaluate(table, [task("a")]).data_sets["a"].scores
    queries = np.stack([table.vectors[f"q{index}"] for index in range(QUERIES)])
    candidates = np.stack([table.vectors[f"c{index}"] for index in range(CANDIDATES)])
    cosines = cosine_similarity(queries, candidates)
    labels = np.arange(QUERIES) % CANDIDATES
    relevance = np.eye(CANDIDATES)[labels]
    for k, hit in ((1, found.hit1), (5, found.hit5), (10, found.hit10)):
        assert hit == pytest.approx(
            top_k_accuracy_score(labels, cosines, k=k, labels=range(CANDIDATES)), abs=1e-12
        )
    assert found.mrr == pytest.approx(label_ranking_average_precision_score(relevance, cosines))
    assert found.ndcg5 == pytest.approx(ndcg_score(relevance, cosines, k=5))
    assert found.chance == pytest.approx(1 / CANDIDATES)
    assert 0.1 < found.hit1 < found.hit5 < found.hit10 < 1


def test_order_and_repetition_of_candidates_change_nothing() -> None:
    table = random_table(0)
    plain = evaluate(table, [task("a")]).data_sets["a"]
    shifted = evaluate(table, [task("a", shift=11)]).data_sets["a"]
    doubled = Task(
        "a",
        "retrieval",
        [Record(item.query, [*item.candidates, *item.candidates], (item.right[0] + CANDIDATES,))
         for item in task("a").records],
    )  # fmt: skip
    assert shifted.scores == plain.scores == evaluate(table, [doubled]).data_sets["a"].scores


def test_of_several_that_are_right_the_best_placed_counts() -> None:
    table = random_table(0)
    labels = np.arange(CANDIDATES) % 4
    records = [
        Record(item.query, item.candidates, tuple(np.flatnonzero(labels == number % 4)))
        for number, item in enumerate(task("a").records)
    ]
    found = evaluate(table, [Task("a", "retrieval", records)]).data_sets["a"].scores
    queries = np.stack([table.vectors[f"q{index}"] for index in range(QUERIES)])
    candidates = np.stack([table.vectors[f"c{index}"] for index in range(CANDIDATES)])
    order = cosine_similarity(queries, candidates).argsort()[:, ::-1]
    hits = labels[order] == (np.arange(QUERIES) % 4)[:, None]
    assert found.hit1 == hits[:, 0].mean()
    assert found.hit5 == hits[:, :5].any(1).mean()
    assert found.mrr == pytest.approx((1 / (1 + hits.argmax(1))).mean())
    assert found.chance == pytest.approx(np.bincount(labels)[labels].mean() / CANDIDATES, rel=0.05)


def test_candidates_may_be_made_as_they_are_asked_for() -> None:
    table = random_table(0)
    made = [
        Record(item.query, np.array(item.candidates), item.right)  # type: ignore[arg-type]
        for item in task("a").records
    ]
    plain = evaluate(table, [task("a")]).data_sets["a"]
    assert evaluate(table, [Task("a", "retrieval", made)]).data_sets["a"] == plain


def test_averages_count_each_data_set_once() -> None:
    table = random_table(3)
    parts = {
        "a": task("a", "classification"),
        "b": Task("b", "classification", task("b").records[:5], "ood"),
        "c": Task("c", "grounding", task("c").records[5:8], "ood"),
    }
    found = evaluate(table, parts.values())
    hit1 = {name: row.scores.hit1 for name, row in found.data_sets.items()}
    averages = found.averages
    assert list(averages) == ["classification", "grounding", "ind", "ood", "overall"]
    assert averages["classification"].hit1 == pytest.approx((hit1["a"] + hit1["b"]) / 2)
    assert averages["grounding"] == found.data_sets["c"].scores
    assert averages["ind"] == found.data_sets["a"].scores
    assert averages["ood"].hit1 == pytest.approx((hit1["b"] + hit1["c"]) / 2)
    assert averages["overall"].hit1 == pytest.approx(sum(hit1.values()) / 3)


def test_one_vector_for_everything_scores_nothing() -> None:
    table = random_table(0)
    same = Table(dict.fromkeys(table.vectors, np.ones(DIM, np.float32)))
    found = evaluate(same, [task("a")]).data_sets["a"].scores
    assert found.hit1 == 0
    assert found.mrr == pytest.approx(1 / CANDIDATES)


def test_only_what_is_new_is_asked_for() -> None:
    table = random_table(0)
    vectors: dict[bytes, Vector] = {key_of("c3"): table.vectors["c3"]}
    evaluate(table, [task("a"), task("b", shift=4)], vectors=vectors)
    assert len(table.asked) == len(set(table.asked)) == QUERIES + CANDIDATES - 1
    assert "c3" not in table.asked
    assert len(vectors) == QUERIES + CANDIDATES


def test_data_digest_is_of_inputs_and_answers() -> None:
    table = random_table(0)
    (digest,) = {evaluate(table, [task(name)]).data_sets[name].data for name in ("a", "b")}
    records = list(task("a").records)
    records[0] = Record(records[0].query, records[0].candidates, (1,))
    assert evaluate(table, [Task("a", "vqa", records)]).data_sets["a"].data != digest
    assert evaluate(table, [Task("a", "vqa", records[1:])]).data_sets["a"].data != digest


@pytest.mark.parametrize("bad", [None, np.full(DIM, np.nan), np.zeros(DIM)])
def test_an_input_without_a_vector_is_an_error_after_the_others(bad: Vector | None) -> None:
    table = random_table(0)
    del table.vectors["c7"]
    if bad is not None:
        table.vectors["c7"] = bad
    vectors: dict[bytes, Vector] = {}
    with pytest.raises(EvaluationError, match="a: 1 of 70 inputs have no vector, the first c7: "):
        evaluate(table, [task("a")], vectors=vectors)
    assert len(vectors) == QUERIES + CANDIDATES - 1
