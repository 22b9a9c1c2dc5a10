"""The command ``vlm2vec keys``, which makes API keys for the file of callers."""

from typing import Any

import click


@click.group()
def keys() -> None:
    """Make API keys for callers."""


@keys.command()
@click.option("--name", required=True, help="Who gets it: a team, a service.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("embed",),
    show_default=True,
    metavar="SCOPE",
    help="What it is good for: embed, adapters:read or adapters:write. Repeatable.",
)
@click.option(
    "--model", "models", multiple=True, help="A model that it is good for; all if none. Repeatable."
)
@click.option("--requests-per-second", type=float, help="Its own rate; 0 is no limit.")
@click.option("--tokens-per-second", type=float, help="Its own rate; 0 is no limit.")
@click.option("--expires", metavar="DATE", help="First day on which it is refused: 2030-12-31.")
def new(name: str, scopes: tuple[str, ...], models: tuple[str, ...], **values: Any) -> None:
    """Make an API key: the key to standard error, once, and its line to standard output.

    The line holds the key's digest, not the key; a server with --callers FILE reads it within
    --reload-seconds. Taking the line out of the file revokes the key.

    \b
    Example:
      vlm2vec keys new --name search --scope embed >> callers.jsonl
    """
    # The front end imports gRPC, --help should not.
    from vlm2vec_service.frontend.auth.callers import new_key

    key, line = new_key(name, scopes, models=list(models), **values)
    click.echo(f"The key, shown only now: {key}", err=True)
    click.echo(line)
