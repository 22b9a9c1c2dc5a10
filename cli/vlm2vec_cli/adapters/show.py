"""The commands ``vlm2vec adapters list``, ``show``, ``diff`` and ``history``, which only read."""

import difflib
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlm2vec_cli.adapters.group import VERSION, adapters, open_registry
from vlm2vec_registry.strict import read_object

if TYPE_CHECKING:
    from vlm2vec_registry.history import Event
    from vlm2vec_registry.snapshot import PublishedVersion, Snapshot
    from vlm2vec_registry.store import Registry

MOST_BYTES = 1 << 40


@adapters.command("list")
@click.argument("model", required=False)
@click.pass_context
def list_(context: click.Context, model: str | None) -> None:
    """List the versions of MODEL, or of all models.

    SCORES are the overall hit@1 of each suite that the version was evaluated on, as recorded.
    """
    from vlm2vec_evaluation.record import scores

    registry = open_registry(context)
    rows: list[tuple[str, ...]] = [("MODEL", "VERSION", "CREATED", "SPACE", "SCORES", "ALIASES")]
    for name in [model] if model else registry.models():
        snapshot = registry.snapshot(name)
        for version in sorted(snapshot.versions.values(), key=lambda item: -item.created):
            aliases = [a for a, target in snapshot.aliases.items() if target == version.name]
            if "canary" in aliases:
                aliases[aliases.index("canary")] = f"canary ({snapshot.canary_share:.1%})"
            found = ", ".join(f"{suite} {hit1:.4f}" for suite, hit1 in scores(version).items())
            created, pointing = _day(version.created), ", ".join(sorted(aliases))
            rows.append((name, version.name, created, version.space, found or "-", pointing))
        for version_name, reason in snapshot.broken.items():
            rows.append((name, version_name, "", "-", "-", reason))
    _table(rows)


@adapters.command()
@click.argument("model")
@click.pass_context
def history(context: click.Context, model: str) -> None:
    """Show who published versions of MODEL and changed its traffic, the newest first.

    These are the changes that these commands made. What the MLflow UI and other clients change is
    not among them, but for a champion that is not the last one named here: that is said.
    """
    from vlm2vec_registry.history import history as history_of

    registry = open_registry(context)
    events = history_of(registry, model)
    rows: list[tuple[str, ...]] = [("WHEN", "WHO", "WHAT", "VERSION", "BEFORE", "NOTE")]
    for event in events:
        note = event.note if event.status == "FINISHED" else f"{event.status.lower()} {event.note}"
        rows.append(
            (_day(event.at), event.who, event.action, event.version, event.before, note.strip())
        )
    _table(rows)
    if problem := _unknown_champion(registry.snapshot(model), events):
        click.echo(problem, err=True)


@adapters.command()
@click.argument("model")
@VERSION
@click.pass_context
def show(context: click.Context, model: str, version: str) -> None:
    """Show everything about one version."""
    registry = open_registry(context)
    click.echo(json.dumps(_facts(registry, registry.version(model, version)), indent=2))


@adapters.command()
@click.argument("model")
@click.argument("a")
@click.argument("b")
@click.pass_context
def diff(context: click.Context, model: str, a: str, b: str) -> None:
    """Show what differs between versions A and B: settings, weights, space, metrics.

    Exit status: 0 when nothing differs that changes a vector, 1 when something does.
    """
    registry = open_registry(context)
    first, second = (registry.version(model, name) for name in (a, b))
    left, right = (_comparable(registry, item) for item in (first, second))
    old, new = (f"{model} version {item.name}" for item in (first, second))
    for line in difflib.unified_diff(left, right, old, new, lineterm="", n=1):
        click.echo(line)
    sys.exit(0 if first.space == second.space else 1)


def _unknown_champion(snapshot: "Snapshot", events: "list[Event]") -> str:
    """Says that somebody else made the champion what it is; empty where one of ``events`` did."""
    champion = snapshot.aliases.get("champion", "")
    known = next((event.version for event in events if event.made_champion), "")
    if champion == known:
        return ""
    return f"champion is {champion or 'nothing'} now, which none of these commands made it"


def _facts(registry: "Registry", version: "PublishedVersion") -> dict[str, Any]:
    aliases = registry.snapshot(version.model).aliases
    return {
        "model": version.model,
        "version": version.name,
        "created": _day(version.created),
        "aliases": sorted(alias for alias, name in aliases.items() if name == version.name),
        "space": version.space,
        "base": version.base,
        "run": version.run_id,
        "uri": version.uri,
        "digests": version.digests,
        "embedding": version.embedding,
        "metrics": registry.metrics(version),
        "tags": {key: text for key, text in version.tags.items() if key not in _SHOWN},
    }


def _comparable(registry: "Registry", version: "PublishedVersion") -> list[str]:
    """What two versions may differ in, an adapter's settings with it, as lines of JSON."""
    facts = _facts(registry, version)
    facts = {key: facts[key] for key in ("space", "base", "digests", "embedding", "metrics")}
    if not version.is_base:
        with tempfile.TemporaryDirectory() as scratch:
            registry.download(version, Path(scratch), MOST_BYTES)
            facts["adapter"] = read_object(Path(scratch) / "adapter_config.json")
    return json.dumps(facts, indent=2, sort_keys=True).splitlines()


_SHOWN = ("vlm2vec.space", "vlm2vec.base", "vlm2vec.digests", "vlm2vec.embedding")


def _day(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
