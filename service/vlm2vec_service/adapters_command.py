"""``vlm2vec adapters``: what a model owner does with versions, all of it plain MLflow."""

import difflib
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlm2vec_evaluation.gate import EXAMPLE
from vlm2vec_registry.space_ready import read_ready
from vlm2vec_service.errors import NotFoundError

if TYPE_CHECKING:
    from vlm2vec_registry.store import PublishedVersion, Registry

DEFAULT_REGISTRY = "~/.local/share/vlm2vec/registry"
MOST_BYTES = 1 << 40


class Share(click.ParamType[float]):
    """``5%`` or ``0.05``."""

    name = "share"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """A number from 0 to 1."""
        text = str(value)
        try:
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            share = -1.0
        if not 0.0 <= share <= 1.0:
            self.fail(f"{text!r} is neither 0% to 100% nor 0 to 1", param, ctx)
        return share


VERSION = click.option("--version", "version", required=True, help="A version, or an alias of one.")


@click.group()
@click.option(
    "--registry",
    envvar=["VLM2VEC_REGISTRY", "MLFLOW_TRACKING_URI"],
    show_envvar=True,
    default=DEFAULT_REGISTRY,
    help="An MLflow server's URL, a database URI, or a folder, in which an SQLite store is made.",
)
@click.pass_context
def adapters(context: click.Context, registry: str) -> None:
    """Publish adapter versions, and decide which of them answers.

    A version is a plain MLflow model version, who gets traffic are its aliases champion, canary and
    shadow: the MLflow UI and any MLflow client do the same as these commands. Servers that follow
    the registry (vlm2vec serve --registry) act on it within their --poll-seconds.

    \b
    Example:
      vlm2vec adapters publish ./my-adapter --model v2 --base Qwen2-VL-2B-Instruct
      vlm2vec adapters canary v2 --version 7 --share 5%
      vlm2vec adapters promote v2 --version 7
    """
    context.obj = registry


def _open(context: click.Context) -> "Registry":
    from vlm2vec_registry.store import Registry  # MLflow takes seconds to import

    uri: str = context.obj
    return Registry(uri if "://" in uri else str(Path(uri).expanduser()))


@adapters.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", required=True, help="The model it is a version of; made if it is new.")
@click.option(
    "--base",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Checkpoint folder it was trained on. Default: what adapter_config.json names, where that "
    "is a folder here.",
)
@click.option("--alias", help="Point this alias to it, such as canary.")
@click.option(
    "--metrics",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON file of numbers to record with it.",
)
@click.option("--run", "run_id", help="MLflow run that made it; default: a run of its own.")
@click.pass_context
def publish(
    context: click.Context,
    folder: Path,
    model: str,
    base: Path | None,
    alias: str | None,
    metrics: Path | None,
    run_id: str | None,
) -> None:
    """Make the PEFT folder FOLDER a version of a model.

    Every tensor is checked against the shapes of the base, whose weights are read only for their
    digest; pickles are refused. The same bytes on the same base are the same vector space.
    """
    base = base or _named_base(folder)
    _check(folder, base)
    published = _open(context).publish(
        model, folder, base=base, alias=alias, metrics=_numbers(metrics), run_id=run_id
    )
    click.echo(f"{model} version {published.name}, space {published.space}")
    if alias:
        click.echo(f"{alias} is version {published.name} now")


@adapters.command("list")
@click.argument("model", required=False)
@click.pass_context
def list_(context: click.Context, model: str | None) -> None:
    """List the versions of MODEL, or of all models."""
    registry = _open(context)
    rows: list[tuple[str, ...]] = [("MODEL", "VERSION", "CREATED", "SPACE", "ALIASES")]
    for name in [model] if model else registry.models():
        snapshot = registry.snapshot(name)
        for version in sorted(snapshot.versions.values(), key=lambda item: -item.created):
            aliases = [a for a, target in snapshot.aliases.items() if target == version.name]
            if "canary" in aliases:
                aliases[aliases.index("canary")] = f"canary ({snapshot.canary_share:.1%})"
            created = _day(version.created)
            rows.append((name, version.name, created, version.space, ", ".join(sorted(aliases))))
        for version_name, reason in snapshot.broken.items():
            rows.append((name, version_name, "", "-", reason))
    _table(rows)


@adapters.command()
@click.argument("model")
@VERSION
@click.pass_context
def show(context: click.Context, model: str, version: str) -> None:
    """Show everything about one version."""
    registry = _open(context)
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
    registry = _open(context)
    first, second = (registry.version(model, name) for name in (a, b))
    left, right = (_comparable(registry, item) for item in (first, second))
    old, new = (f"{model} version {item.name}" for item in (first, second))
    for line in difflib.unified_diff(left, right, old, new, lineterm="", n=1):
        click.echo(line)
    sys.exit(0 if first.space == second.space else 1)


@adapters.command()
@click.argument("model")
@click.option("--version", help="A version, or an alias of one.")
@click.option("--share", type=Share(), help="Share of the calls that name no version: 5% or 0.05.")
@click.option("--off", is_flag=True, help="End it: all calls go to the champion.")
@click.pass_context
def canary(
    context: click.Context, model: str, version: str | None, share: float | None, off: bool
) -> None:
    """Give a version a share of MODEL's traffic.

    Calls with the same routing key get the same version; without a key, a caller's address is it.
    """
    from vlm2vec_registry.traffic import start_canary, stop_canary

    registry = _open(context)
    if off:
        stop_canary(registry, model)
        click.echo(f"{model}: no canary")
        return
    if version is None or share is None:
        raise click.UsageError("give --version and --share, or --off")
    name = start_canary(registry, model, version, share)
    click.echo(f"{model}: version {name} gets {share:.1%}")


@adapters.command()
@click.argument("model")
@click.option("--version", help="A version, or an alias of one.")
@click.option("--off", is_flag=True, help="End it.")
@click.pass_context
def shadow(context: click.Context, model: str, version: str | None, off: bool) -> None:
    """Have a version compute what the champion answers, and compare the two in metrics."""
    registry = _open(context)
    if off:
        registry.delete_alias(model, "shadow")
        click.echo(f"{model}: no shadow")
        return
    if version is None:
        raise click.UsageError("give --version, or --off")
    name = registry.version(model, version).name
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
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Refuse unless this file, which python -m vlm2vec reembed writes at its end, says that a "
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
    met; nothing was changed then.
    """
    from vlm2vec_registry import traffic

    registry = _open(context)
    candidate = registry.version(model, version)
    if reasons := [*_unmet(registry, candidate, require), *_not_ready(candidate, ready)]:
        click.echo(f"{model} version {candidate.name} is not promoted:", err=True)
        for reason in reasons:
            click.echo(f"  {reason}", err=True)
        sys.exit(3)
    traffic.promote(registry, model, candidate.name)
    click.echo(f"{model}: champion is version {candidate.name}, space {candidate.space}")


@adapters.command()
@click.argument("model")
@click.pass_context
def rollback(context: click.Context, model: str) -> None:
    """Make the champion before the champion of MODEL again; a second rollback undoes the first."""
    from vlm2vec_registry import traffic

    version, before = traffic.rollback(_open(context), model)
    click.echo(f"{model}: champion is version {version} again, it was {before}")


def _named_base(folder: Path) -> Path:
    config = folder / "adapter_config.json"
    try:
        named = str(json.loads(config.read_text()).get("base_model_name_or_path") or "")
    except (OSError, ValueError, AttributeError) as error:
        raise NotFoundError(f"{config}: {error}") from error
    if named and Path(named).is_dir():
        return Path(named)
    raise NotFoundError(
        f"{config} names no base that is a folder here ({named!r}); give --base DIR"
    )


def _check(folder: Path, base: Path) -> None:
    """Raises `AdapterError` where loading the adapter on ``base`` would."""
    from vlm2vec_service.engine.adapter import check_adapter
    from vlm2vec_service.engine.engine import build_backbone
    from vlm2vec_service.engine.linear import Rows, install

    backbone = build_backbone(base)
    check_adapter(folder, backbone, install(backbone, Rows()))


def _numbers(path: Path | None) -> dict[str, float]:
    if path is None:
        return {}
    try:
        return {str(key): float(value) for key, value in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise NotFoundError(f"{path}: a JSON object of numbers is needed: {error}") from error


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
    """What two versions may differ in, the adapter's settings with it, as lines of JSON."""
    facts = _facts(registry, version)
    facts = {key: facts[key] for key in ("space", "base", "digests", "embedding", "metrics")}
    with tempfile.TemporaryDirectory() as scratch:
        registry.download(version, Path(scratch), MOST_BYTES)
        facts["adapter"] = json.loads((Path(scratch) / "adapter_config.json").read_text())
    return json.dumps(facts, indent=2, sort_keys=True).splitlines()


_SHOWN = ("vlm2vec.space", "vlm2vec.base", "vlm2vec.digests", "vlm2vec.embedding")


def _day(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
