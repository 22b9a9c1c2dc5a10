"""The commands ``vlm2vec adapters canary``, ``shadow``, ``promote`` and ``rollback``.

They decide which version of a model answers.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlm2vec_cli.adapters.group import VERSION, adapters, open_registry
from vlm2vec_cli.parse import FILE
from vlm2vec_evaluation.gate import EXAMPLE
from vlm2vec_registry.space_ready import read_ready

if TYPE_CHECKING:
    from vlm2vec_registry.snapshot import PublishedVersion
    from vlm2vec_registry.store import Registry


class ShareType(click.ParamType[float]):
    """The type of an option that takes a share of traffic: ``5%`` or ``0.05``."""

    name = "share"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Returns the share as a number from 0 to 1."""
        text = str(value)
        try:
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            share = -1.0
        if not 0.0 <= share <= 1.0:
            self.fail(f"{text!r} is neither 0% to 100% nor 0 to 1", param, ctx)
        return share


@adapters.command()
@click.argument("model")
@click.option("--version", help="A version, or an alias of one.")
@click.option(
    "--share", type=ShareType(), help="Share of the calls that name no version: 5% or 0.05."
)
@click.option("--off", is_flag=True, help="End it: all calls go to the champion.")
@click.pass_context
def canary(
    context: click.Context, model: str, version: str | None, share: float | None, off: bool
) -> None:
    """Give a version a share of MODEL's traffic.

    Calls with the same routing key get the same version; without a key, a caller's address is it.
    """
    from vlm2vec_registry.history import recorded
    from vlm2vec_registry.traffic import start_canary, stop_canary

    registry = open_registry(context)
    before = registry.snapshot(model).aliases.get("canary", "")
    if off:
        with recorded(registry, model, "canary --off", before=before):
            stop_canary(registry, model)
        click.echo(f"{model}: no canary")
        return
    if version is None or share is None:
        raise click.UsageError("give --version and --share, or --off")
    name = registry.version(model, version).name
    with recorded(registry, model, "canary", name, before, f"{share:.1%}"):
        start_canary(registry, model, name, share)
    click.echo(f"{model}: version {name} gets {share:.1%}")


@adapters.command()
@click.argument("model")
@click.option("--version", help="A version, or an alias of one.")
@click.option("--off", is_flag=True, help="End it.")
@click.pass_context
def shadow(context: click.Context, model: str, version: str | None, off: bool) -> None:
    """Have a version compute what the champion answers, and compare the two in metrics."""
    from vlm2vec_registry.history import recorded

    registry = open_registry(context)
    before = registry.snapshot(model).aliases.get("shadow", "")
    if off:
        with recorded(registry, model, "shadow --off", before=before):
            registry.delete_alias(model, "shadow")
        click.echo(f"{model}: no shadow")
        return
    if version is None:
        raise click.UsageError("give --version, or --off")
    name = registry.version(model, version).name
    with recorded(registry, model, "shadow", name, before):
        registry.set_alias(model, "shadow", name)
    click.echo(f"{model}: version {name} is the shadow")


@adapters.command()
@click.argument("model")
@VERSION
@click.option(
    "--require",
    multiple=True,
    metavar="SUITE[:KEY=VALUE,...]",
    help=f"Refuse unless its recorded evaluation is good enough: {EXAMPLE}. Repeatable.",
)
@click.option(
    "--require-space-ready",
    "ready",
    multiple=True,
    type=FILE,
    help="Refuse unless this file, which vlm2vec-client reembed writes at its end, says that a "
    "corpus is in the version's space. Repeatable.",
)
@click.pass_context
def promote(
    context: click.Context,
    model: str,
    version: str,
    require: tuple[str, ...],
    ready: tuple[Path, ...],
) -> None:
    """Make a version the champion of MODEL: it answers all calls that name no version.

    What the champion was is remembered for rollback. Exit status 3 means that a requirement is not
    met; the champion stays then. The verdict is noted as a tag of the version either way.
    """
    from vlm2vec_registry import traffic
    from vlm2vec_registry.history import GATE, recorded

    registry = open_registry(context)
    candidate = registry.version(model, version)
    before = registry.snapshot(model).aliases.get("champion", "")
    reasons = [*_unmet(registry, candidate, require), *_not_ready(candidate, ready)]
    verdict = _verdict([*require, *map(str, ready)], reasons)
    with recorded(registry, model, "promote", candidate.name, before, verdict):
        if verdict:
            registry.tag(model, candidate.name, GATE, verdict)
        if not reasons:
            traffic.promote(registry, model, candidate.name)
    if reasons:
        click.echo(f"{model} version {candidate.name} is not promoted:", err=True)
        for reason in reasons:
            click.echo(f"  {reason}", err=True)
        sys.exit(3)
    click.echo(f"{model}: champion is version {candidate.name}, space {candidate.space}")


@adapters.command()
@click.argument("model")
@click.pass_context
def rollback(context: click.Context, model: str) -> None:
    """Make the champion before the champion of MODEL again; a second rollback undoes the first."""
    from vlm2vec_registry import traffic
    from vlm2vec_registry.history import recorded

    registry = open_registry(context)
    version, before = traffic.champion_before(registry, model)
    with recorded(registry, model, "rollback", version, before):
        traffic.rollback(registry, model)
    click.echo(f"{model}: champion is version {version} again, it was {before}")


def _verdict(required: list[str], reasons: list[str]) -> str:
    """What the history and the version say of a promotion that something was required for."""
    from vlm2vec_registry.history import REFUSED

    if not required:
        return ""
    return f"{REFUSED}: {'; '.join(reasons)}" if reasons else f"passed: {', '.join(required)}"


def _unmet(
    registry: "Registry", candidate: "PublishedVersion", requirements: tuple[str, ...]
) -> list[str]:
    from vlm2vec_evaluation import gate

    reasons: list[str] = []
    for requirement in requirements:
        reasons += gate.check(registry, candidate.model, candidate.name, gate.parse(requirement))
    return reasons


def _not_ready(candidate: "PublishedVersion", files: tuple[Path, ...]) -> list[str]:
    reasons = []
    for path in files:
        try:
            ready = read_ready(path)
        except ValueError as error:
            reasons.append(str(error))
            continue
        if ready["space"] != candidate.space:
            reasons.append(
                f"{path}: that corpus is in space {ready['space']}, not {candidate.space}"
            )
        elif ready["failed"]:
            reasons.append(f"{path}: {ready['failed']} of {ready['rows']} rows have no vector")
    return reasons
