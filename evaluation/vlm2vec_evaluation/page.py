"""Writes an evaluation as one HTML page, which needs no other file and no network."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from vlm2vec_evaluation.compare import Difference, Earlier, difference
from vlm2vec_evaluation.evaluation import Evaluation
from vlm2vec_evaluation.gallery import Example, Shown
from vlm2vec_evaluation.report import of_group
from vlm2vec_evaluation.suite import META_TASKS, OVERALL

STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #3f6fd1; --other: #9a9a9a; --bad: #c4452f;
  --good: #2f8f4e; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line) }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.bar { height: .7rem; background: var(--bar); border-radius: 2px; min-width: 1px }
.other { height: .3rem; background: var(--other); margin-top: 2px; border-radius: 2px }
.lower { color: var(--bad) } .higher { color: var(--good) }
.case { display: flex; flex-wrap: wrap; gap: 1rem; border: 1px solid var(--line);
  border-radius: 6px; padding: .8rem; margin: .8rem 0 }
figure { margin: 0; max-width: 15rem } figure img, audio { display: block; max-width: 100% }
figcaption { font-size: 13px; overflow-wrap: anywhere } .muted { opacity: .7 }
"""


@dataclass(frozen=True)
class Report:
    """All that a page shows. ``beside`` has the scores of other models by data set, ``examples``
    the worst queries by data set."""

    title: str
    evaluation: Evaluation
    beside: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    earlier: Earlier | None = None
    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)


def render(report: Report) -> str:
    """Returns the page."""
    parts = [
        f"<h1>{escape(report.title)}</h1>",
        *_averages(report),
        *_differences(report),
        *_data_sets(report),
        *_examples(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _averages(report: Report) -> Iterable[str]:
    evaluation, headline = report.evaluation, report.evaluation.headline
    yield "<h2>Averages</h2><table>"
    yield _head("", ["score", "hit@1", "MRR", "nDCG@5", *report.beside])
    for group, scores in evaluation.averages.items():
        score = headline[group]
        theirs = [of_group(evaluation, group, known) for known in report.beside.values()]
        numbers = [score, scores.hit1, scores.mrr, scores.ndcg5, *theirs]
        yield _row(escape(group), _bars([score, *theirs]), numbers)
    yield "</table>"
    for name, reason in evaluation.skipped.items():
        counted = ", counts 0" if name in evaluation.zeros else ""
        yield f'<p class="muted">skipped{counted}: {escape(name)}: {escape(reason)}</p>'


def _differences(report: Report) -> Iterable[str]:
    if report.earlier is None:
        return
    earlier, rows = report.earlier, report.evaluation.data_sets
    pairs = {
        name: (earlier.each[name], row.each)
        for name, row in rows.items()
        if earlier.data.get(name) == row.data
    }
    yield f"<h2>Beside {escape(earlier.name)}</h2>"
    if not pairs:
        yield "<p>It has no data set with the same queries and candidates.</p>"
        return
    yield "<p>The interval is that of 95 % of resampled sets of queries.</p><table>"
    yield _head("", ["difference", "from", "to"])
    found = {name: difference([pair]) for name, pair in pairs.items()}
    for name, one in sorted(found.items(), key=lambda item: item[1].mean):
        yield _difference(name, one)
    yield _difference(OVERALL, difference(list(pairs.values()))) + "</table>"


def _difference(name: str, one: Difference) -> str:
    kind = ("higher" if one.mean > 0 else "lower") if one.certain else "muted"
    return (
        f'<tr class="{kind}"><th>{escape(name)}</th><td></td><td class="n">{one.mean:+.4f}</td>'
        f'<td class="n">{one.low:+.4f}</td><td class="n">{one.high:+.4f}</td></tr>'
    )


def _data_sets(report: Report) -> Iterable[str]:
    yield "<h2>Data sets</h2><table>"
    yield _head("", ["score", "hit@1", "MRR", "nDCG@5", "queries", *report.beside])
    for name, row in report.evaluation.data_sets.items():
        scores, theirs = row.scores, [known.get(name) for known in report.beside.values()]
        about = f'{escape(name)} <span class="muted">{escape(row.meta_task)}, {row.metric}</span>'
        numbers = [row.score, scores.hit1, scores.mrr, scores.ndcg5, row.queries, *theirs]
        yield _row(about, _bars([row.score, *theirs]), numbers)
    yield "</table>"


def _head(first: str, names: Sequence[str]) -> str:
    cells = "".join(f'<th class="n">{escape(name)}</th>' for name in names)
    return f'<tr><th>{first}</th><th style="width: 30%"></th>{cells}</tr>'


def _row(first: str, bars: str, numbers: Sequence[float | None]) -> str:
    cells = "".join(f'<td class="n">{_number(number)}</td>' for number in numbers)
    return f"<tr><th>{first}</th><td>{bars}</td>{cells}</tr>"


def _number(number: float | None) -> str:
    if number is None:
        return "-"
    return str(number) if isinstance(number, int) else f"{number:.4f}"


def _bars(scores: Sequence[float | None]) -> str:
    return "".join(
        f'<div class="{"other" if index else "bar"}" style="width: {100 * score:.1f}%"></div>'
        for index, score in enumerate(scores)
        if score is not None
    )


def _examples(report: Report) -> Iterable[str]:
    if not any(report.examples.values()):
        return
    yield "<h2>The worst queries</h2>"
    for name, examples in report.examples.items():
        if examples:
            meta_task = report.evaluation.data_sets[name].meta_task
            yield f"<h3>{escape(name)} <small>{escape(META_TASKS[meta_task])}</small></h3>"
        for one in examples:
            yield '<div class="case">' + _figure(f"query, {one.score:.3f}", one.query)
            for number, (score, found) in enumerate(one.found, 1):
                yield _figure(f"found {number}, {score:.3f}", found)
            yield (_figure("right", one.right) if one.right else "") + "</div>"


def _figure(title: str, shown: Shown) -> str:
    pictures = "".join(f'<img alt="" src="{uri}">' for uri in shown.pictures)
    audios = "".join(f'<audio controls src="{uri}"></audio>' for uri in shown.audios)
    text = f"<b>{escape(title)}</b> {escape(shown.text)}"
    return f"<figure>{pictures}{audios}<figcaption>{text}</figcaption></figure>"
