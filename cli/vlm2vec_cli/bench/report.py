"""What came of loads: as a table, as JSON, and as a plot of latency over rate."""

import math
from collections.abc import Sequence
from typing import Any

from vlm2vec_cli.bench.load import Outcome

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
COLOURS = {"p50": "#2a78d6", "p90": "#8a5cc9", "p99": "#d6532a"}
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 420, 70, 50, 30, 60
"""Of the plot, in pixels, with the margins around its axes."""


def row(outcome: Outcome) -> dict[str, Any]:
    """The numbers of an outcome: latencies in milliseconds, None where nothing was answered."""
    percentiles = {name: 1000 * outcome.percentile(share) for name, share in SHARES.items()}
    return {
        "load": outcome.load,
        "offered": outcome.offered,
        "answered": len(outcome.latencies) * outcome.inputs,
        "rate": outcome.rate,
        **{name: None if math.isnan(value) else value for name, value in percentiles.items()},
        "errors": dict(outcome.errors),
    }


HEAD = f"{'load':>22} | inputs/s |  p50 ms |  p90 ms |  p99 ms | failed"


def line(outcome: Outcome) -> str:
    """A line of the table under `HEAD`."""
    shown = " | ".join(f"{1000 * outcome.percentile(share):7.1f}" for share in SHARES.values())
    failed = ", ".join(f"{count} {code}" for code, count in outcome.errors.most_common())
    return f"{outcome.load:>22} | {outcome.rate:8.1f} | {shown} | {failed or '-'}"


def plot(outcomes: Sequence[Outcome], title: str) -> str:
    """Draws latency over rate as SVG: a line for each share of the answers, the latency on a scale
    of powers of ten, since it grows without bound near the most that a server can do."""
    shown = sorted((one for one in outcomes if one.latencies), key=lambda one: one.rate)
    most = max((one.rate for one in shown), default=1.0) * 1.05
    values = [1000 * one.percentile(share) for one in shown for share in SHARES.values()]
    low = math.floor(math.log10(max(min(values, default=1.0), 0.1)))
    high = max(low + 1, math.ceil(math.log10(max(values, default=10.0))))

    def x(rate: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * rate / most

    def y(ms: float) -> float:
        share = (math.log10(max(ms, 10.0**low)) - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share

    parts = [_text(LEFT, 18, f"{title}: ms over inputs/s", "start")]
    for power in range(low, high + 1):
        parts += [_line(x(0), y(10.0**power), x(most), y(10.0**power), "#ddd"),
                  _text(LEFT - 8, y(10.0**power) + 4, f"{10.0**power:g}", "end")]  # fmt: skip
    step = _step(most)
    for number in range(int(most / step) + 1):
        rate = number * step
        parts.append(_text(x(rate), HEIGHT - BOTTOM + 20, f"{rate:g}", "middle"))
    for name, share in SHARES.items():
        points = [(x(one.rate), y(1000 * one.percentile(share))) for one in shown]
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{COLOURS[name]}"/>'
                  for a, b in points]  # fmt: skip
        if points:
            parts.append(_text(points[-1][0] + 8, points[-1][1] + 4, name, "start", COLOURS[name]))
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    drawn = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{drawn}\n</svg>\n'
    )


def _step(most: float) -> float:
    """The distance of marks on an axis up to ``most``: 1, 2 or 5 times a power of ten, such that
    there are three to six of them."""
    power = 10.0 ** math.floor(math.log10(most / 5))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= most / 5)


def _line(left: float, top: float, right: float, bottom: float, colour: str) -> str:
    return (
        f'<line x1="{left:.1f}" y1="{top:.1f}" x2="{right:.1f}" y2="{bottom:.1f}" '
        f'stroke="{colour}"/>'
    )


def _text(left: float, top: float, text: str, anchor: str, colour: str = "#333") -> str:
    kept = text.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f'<text x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}" fill="{colour}">{kept}</text>'
    )
