"""The group of commands ``vlm2vec adapters``, and how each of them opens the registry."""

from typing import TYPE_CHECKING

import click

from vlm2vec_cli.parse import registry_option

if TYPE_CHECKING:
    from vlm2vec_registry.store import Registry

VERSION = click.option("--version", "version", required=True, help="A version, or an alias of one.")


@click.group()
@registry_option
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


def open_registry(context: click.Context) -> "Registry":
    """Opens the registry that the group's ``--registry`` names."""
    from vlm2vec_registry.store import Registry  # MLflow takes seconds to import

    return Registry(context.obj)
