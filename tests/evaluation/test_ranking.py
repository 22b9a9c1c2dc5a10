"""Ranks of the right candidates, and every metric of them, beside those of others' code."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import pytrec_eval

from vlm2vec.inputs import InputLike
from vlm2vec_evaluation import EvaluationError, evaluate, ranking
from vlm2vec_evaluation.metrics import of_query
from vlm2vec_evaluation.task import PoolTask, Query

Matrix = npt.NDArray[np.float32]
DIM = 8


class Held:
    """A pool in memory, and the most of it that was asked for at once."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix, self.most = matrix, 0

    def __len__(self) -> int:
        return len(self.matrix)

    def take(self, indices: npt.NDArray[np.int64]) -> Matrix:
        self.most = max(self.most, len(indices))
        return self.matrix[indices]


def units(random: np.random.Generator, count: int) -> Matrix:
    matrix = random.normal(size=(count, DIM)).astype(np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


@pytest.mark.parametrize(("tile", "block"), [(1024, 8192), (7, 64), (3, 5)])
def test_ranks_are_those_of_sorting_everything(
    tile: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "TILE", tile)
    monkeypatch.setattr(ranking, "BLOCK", block)
    random = np.random.default_rng(0)
    queries, pool = units(random, 40), Held(units(random, 500))
    right = [random.choice(500, size=random.integers(0, 6), replace=False) for _ in queries]
    found = ranking.rank(queries, pool, right)
    for query, places, one in zip(queries, right, found, strict=True):
        order = np.argsort(-(pool.matrix @ query))
        ranks = 1 + np.argsort(order)[places]
        exact = (ranks <= ranking.TOP) | (ranks == ranks.min(initial=501))
        assert one.ranks[exact].tolist() == ranks[exact].tolist()
        assert (one.ranks[~exact] > max(ranking.TOP, ranks.min(initial=501))).all()
        assert one.top.tolist() == order[: ranking.TOP].tolist()
        np.testing.assert_allclose(one.scores, (pool.matrix @ query)[one.top], atol=1e-6)
    assert pool.most <= block


def test_of_equal_scores_the_wrong_ones_are_first_and_twins_of_right_ones_do_not_count() -> None:
    same = np.tile(units(np.random.default_rng(1), 1), (30, 1))
    right, twin = np.array([4, 7]), np.array([12])
    (found,) = ranking.rank(same[:1], Held(same), [right], [twin])
    assert sorted(found.ranks.tolist()) == [28, 29]
    assert not {4, 7, 12} & set(found.top.tolist())


def test_a_query_without_a_right_candidate_scores_nothing() -> None:
    random = np.random.default_rng(2)
    (found,) = ranking.rank(units(random, 1), Held(units(random, 3)), [np.empty(0, np.int64)])
    assert len(found.top) == 3
    assert set(of_query(found.ranks.tolist(), []).values()) == {0.0}


@pytest.mark.parametrize("graded", [False, True])
def test_metrics_are_those_of_trec_eval(graded: bool) -> None:
    random = np.random.default_rng(3)
    names = [f"d{index}" for index in range(60)]
    qrels, run, found = {}, {}, {}
    for number in range(80):
        scores = random.permutation(60).astype(float)
        right = random.choice(60, size=random.integers(1, 15), replace=False)
        grades = random.integers(1, 4, size=len(right)) if graded else np.ones(len(right), int)
        qrels[f"q{number}"] = {names[i]: int(grade) for i, grade in zip(right, grades, strict=True)}
        run[f"q{number}"] = {name: float(score) for name, score in zip(names, scores, strict=True)}
        ranks = 1 + (scores[None] > scores[right][:, None]).sum(axis=1)
        found[f"q{number}"] = of_query(ranks.tolist(), grades.astype(float).tolist())
    cuts = ",".join(map(str, (1, 5, 10)))
    measures = {f"{name}.{cuts}" for name in ("success", "P", "recall", "ndcg_cut")}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, measures | {"recip_rank"}).evaluate(run)
    for query, ours in found.items():
        for name, other in (
            ("hit", "success"), ("precision", "P"), ("recall", "recall"),
            ("ndcg_linear", "ndcg_cut"),
        ):  # fmt: skip
            for cut in (1, 5, 10):
                assert ours[f"{name}@{cut}"] == pytest.approx(theirs[query][f"{other}_{cut}"])
        assert ours["mrr"] == pytest.approx(theirs[query]["recip_rank"])


def test_metrics_that_are_computed_by_hand() -> None:
    values = of_query([2, 5, 9], [1.0, 3.0, 2.0])
    log = np.log2
    assert values["f1@5"] == pytest.approx(2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3))
    assert values["map@5"] == pytest.approx((1 / 2 + 2 / 5) / 3)
    assert values["map@1"] == values["mrr@1"] == values["f1@1"] == 0
    assert values["mrr@5"] == values["mrr"] == 1 / 2
    ideal = 7 / log(2) + 3 / log(3) + 1 / log(4)
    assert values["ndcg_exponential@5"] == pytest.approx((1 / log(3) + 7 / log(6)) / ideal)
    ideal = 3 / log(2) + 2 / log(3) + 1 / log(4)
    assert values["ndcg_linear@10"] == pytest.approx(
        (1 / log(3) + 3 / log(6) + 2 / log(10)) / ideal
    )


def embed(
    items: Iterable[tuple[bytes, InputLike]],
) -> Iterator[tuple[bytes, Matrix | Exception]]:
    """A vector for every text, drawn from it."""
    for key, _ in items:
        yield key, np.random.default_rng(list(key)).normal(size=DIM).astype(np.float32)


def pool_task(right: dict[str, float], among: list[str] | None = None) -> PoolTask:
    names = [f"c{index}" for index in range(20)]
    return PoolTask(
        "pool", "retrieval",
        lambda: [Query("a query", right, among), Query("another", {"c1": 1.0})],
        # Of one name the first counts: the second text is never asked for.
        lambda: [*((name, name) for name in names), ("c3", "something else")],
        metric="ndcg_linear@5",
    )  # fmt: skip


def test_a_pool_is_embedded_once_and_ranked_by_name() -> None:
    vectors: dict[bytes, Matrix] = {}
    found = evaluate(embed, [pool_task({"c1": 1.0, "c2": 2.0})], vectors=vectors)
    assert len(vectors) == 20 + 2
    row = found.data_sets["pool"]
    assert (row.queries, row.metric) == (2, "ndcg_linear@5")
    assert row.score == row.scores.ndcg5 == pytest.approx(row.each.mean())
    assert row.scores.chance == pytest.approx((2 / 20 + 1 / 20) / 2)
    assert found.headline["overall"] == row.score


def test_the_digest_of_a_pool_is_of_candidates_grades_and_what_is_ranked() -> None:
    tasks = [
        pool_task({"c1": 1.0}), pool_task({"c1": 2.0}), pool_task({"c2": 1.0}),
        pool_task({"c1": 1.0}, ["c1", "c4"]),
    ]  # fmt: skip
    digests = [evaluate(embed, [task]).data_sets["pool"].data for task in [*tasks, tasks[0]]]
    assert digests[0] == digests[-1]
    assert len(set(digests)) == len(tasks)


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (pool_task({"c77": 1.0}), "pool: query 1: there is no candidate 'c77'"),
        (pool_task({"c1": 1.0}, ["c2"]), "query 1: 1 right candidates are not among those that"),
    ],
)
def test_what_does_not_fit_is_named(task: PoolTask, problem: str) -> None:
    with pytest.raises(EvaluationError, match=problem):
        evaluate(embed, [task])
