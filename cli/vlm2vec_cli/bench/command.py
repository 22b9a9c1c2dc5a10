"""The command ``vlm2vec bench``."""

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from vlm2vec_cli.parse import FILE, FOLDER
from vlm2vec_service.kinds import KINDS

if TYPE_CHECKING:
    from vlm2vec import Input
    from vlm2vec_cli.bench.load import Outcome
    from vlm2vec_cli.bench.ways import Target, Way

AT_ONCE = (1, 4, 16, 64)
"""Requests at a time, where nobody says what to do."""
SHARES = (0.25, 0.5, 0.75, 0.9)
"""Of the most that was answered then: the rates of the open loops."""
WORDS = "a photo of the small red temple and two boats on a lake under clouds at night"
MOST_FILES = 1000
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif", ".heic", ".tif", ".tiff"}


def numbers(kind: type) -> Any:
    """Makes a callback that parses numbers above 0, with commas between."""

    def parse(context: click.Context, parameter: click.Parameter, text: str | None) -> list[Any]:
        found = []
        for word in filter(None, (text or "").split(",")):
            try:
                number = kind(word)
            except ValueError:
                number = 0
            if not 0 < number < 1e9:
                raise click.BadParameter(f"{word!r} is not a number above 0")
            found.append(number)
        return found

    return parse


@click.command()
@click.option(
    "--server",
    required=True,
    type=KINDS["port"],
    metavar="HOST:PORT",
    help="A server that runs: its port for gRPC, or for HTTP with --over http.",
)
@click.option(
    "--over",
    type=click.Choice(["unary", "stream", "http"]),
    default="unary",
    help="How requests are sent: calls of gRPC, one stream, or POST /v1/embeddings.",
)
@click.option(
    "--at-once",
    callback=numbers(int),
    metavar="N[,N]",
    help="Closed loops: so many requests under way at a time.",
)
@click.option(
    "--rate",
    callback=numbers(float),
    metavar="N[,N]",
    help="Open loops: so many inputs a second by the clock, however long the answers take.",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=10.0, help="How long each load lasts."
)
@click.option("--texts", type=FILE, help="File with a text a line, instead of made-up ones.")
@click.option("--words", type=click.IntRange(1), default=16, help="Words of a made-up text.")
@click.option("--pictures", type=FOLDER, help="Folder with pictures to send instead of texts.")
@click.option("--instruction", help="The task that all inputs are read under.")
@click.option(
    "--batch", type=click.IntRange(1), default=1,
    help="Inputs of a request; those of a stream travel as they come.",
)  # fmt: skip
@click.option("--model", default="", metavar="NAME[@WHICH]", help="Which model is to answer.")
@click.option(
    "--priority", type=click.Choice(["interactive", "bulk"]), default="interactive",
    help="How urgent the requests are.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), default=60.0, help="Seconds for one request."
)
@click.option("--api-key", help="Sent to the server as a bearer token.")
@click.option("--tls", is_flag=True, help="Encrypt, and trust the system's authorities.")
@click.option("--tls-ca", type=FILE, help="PEM file of authorities to trust; implies --tls.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw latency over rate, as SVG.",
)
def bench(**values: Any) -> None:
    """Put load on a server that runs, and show how long it takes to answer.

    A closed loop finds out how much the server can do; an open loop, how long callers wait who do
    not know of each other. Without --at-once and --rate there are closed loops of 1, 4, 16 and 64
    requests at once, and then open loops at 25, 50, 75 and 90 % of the most that was answered.

    It is one process, which needs a core of its own: its last line says how busy it was, and near
    100 % it is what limits the rate.

    \b
    Examples:
      vlm2vec bench --server localhost:50051 --plot latency.svg
      vlm2vec bench --server localhost:8080 --over http --pictures examples/digits --rate 5,10,20
    """
    # grpc takes a second to import; --help should not.
    from vlm2vec_cli.bench.ways import WAYS, Target

    if values["texts"] and values["pictures"]:
        raise click.UsageError("--texts or --pictures, not both")
    if values["over"] == "stream" and values["batch"] > 1:
        raise click.UsageError("--batch is for requests; inputs of a stream travel as they come")
    target = Target(
        values["server"], read_inputs(**values), values["batch"], values["model"],
        values["priority"], values["api_key"], str(values["tls_ca"] or "") or values["tls"],
        values["timeout"],
    )  # fmt: skip
    outcomes = asyncio.run(run(WAYS[values["over"]], target, values))
    from vlm2vec_cli.bench import report

    if values["output"]:
        rows = [report.row(outcome) for outcome in outcomes]
        values["output"].write_bytes(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
    if values["plot"]:
        by_clock = [outcome for outcome in outcomes if outcome.offered is not None]
        title = f"{values['over']}, {'open' if by_clock else 'closed'} loop"
        values["plot"].write_text(report.plot(by_clock or outcomes, title))


def read_inputs(
    texts: Path | None, pictures: Path | None, words: int, instruction: str | None, **_: Any
) -> "list[Input]":
    """Reads what is sent, or makes it up. Raises `click.UsageError` where there is nothing."""
    from vlm2vec import Input

    if pictures:
        files = sorted(path for path in pictures.iterdir() if path.suffix.lower() in PICTURES)
        found = [
            Input(images=[path.read_bytes()], instruction=instruction)
            for path in files[:MOST_FILES]
        ]
    elif texts:
        lines = texts.read_text().splitlines()
        found = [Input(text=line, instruction=instruction) for line in lines if line.strip()]
    else:
        dice = random.Random(0)
        made = [" ".join(dice.choices(WORDS.split(), k=words)) for _ in range(MOST_FILES)]
        found = [Input(text=text, instruction=instruction) for text in made]
    if not found:
        raise click.UsageError(f"{pictures or texts}: there is nothing to send")
    return found


async def run(way_of: "type[Way]", target: "Target", values: dict[str, Any]) -> "list[Outcome]":
    """Puts one load after the other on the server, and writes the table as they end.

    Raises `click.ClickException` if the first request fails.
    """
    from vlm2vec_cli.bench import report

    way, seconds = way_of(target), values["seconds"]
    started, busy = time.perf_counter(), time.process_time()
    outcomes: list[Outcome] = []

    def show(outcome: "Outcome") -> None:
        outcomes.append(outcome)
        click.echo(report.line(outcome))

    try:
        if code := await way.send():
            raise click.ClickException(f"{target.server}: {code}: {way.problem}")
        click.echo(report.HEAD)
        rates: Sequence[float] = values["rate"]
        for at_once in values["at_once"] or (() if rates else AT_ONCE):
            show(await way.closed(at_once, seconds))
        if not rates and not values["at_once"]:
            best = max(outcome.rate for outcome in outcomes)
            rates = [float(f"{best * share:.3g}") for share in SHARES] if best else []
        for rate in rates:
            show(await way.opened(rate, seconds))
    finally:
        await way.close()
    share = (time.process_time() - busy) / (time.perf_counter() - started)
    click.echo(f"this process was busy for {share:.0%} of the time")
    return outcomes
