"""Flags that say which server and which model to use, and the client that they describe."""

import argparse
from typing import Any

from vlm2vec.command.flags import Parser, add_flag, add_switch, one_of
from vlm2vec.options import PRIORITIES, Options, Priority
from vlm2vec.sync.client import Client


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `open_client` and `options` read, and ``--timeout``."""
    server = add_connection_flags(parser)
    add_flag(server, "--timeout", "seconds for everything", type=float)
    model = parser.add_argument_group("model")
    add_flag(model, "--model", "its name; needed where the server has several")
    add_flag(model, "--alias", "a movable name for a version")
    add_flag(model, "--model-version", "one version")
    add_flag(model, "--space", "the vector space an index was built in")
    add_flag(model, "--routing-key", "calls with the same key get the same version")
    add_flag(model, "--priority", " or ".join(PRIORITIES), type=one_of(PRIORITIES))
    add_truncate_flag(model)


def add_connection_flags(parser: argparse.ArgumentParser, max_retries: int = 5) -> Parser:
    """Adds the flags that `connection` reads, and returns their group."""
    server = parser.add_argument_group("server")
    add_flag(server, "--server", "host:port", default="localhost:50051")
    add_flag(server, "--api-key", "sent as a bearer token; better set where only you can see it")
    add_flag(server, "--tls-ca", "PEM file of authorities to trust; implies --tls")
    add_flag(server, "--tls-cert", "PEM certificate chain of the client, for mutual TLS")
    add_flag(server, "--tls-key", "PEM key of --tls-cert")
    add_flag(server, "--max-retries", "tries after the first", type=int, default=max_retries)
    add_switch(server, "--tls", "encrypt, and trust the system's authorities")
    return server


def open_client(arguments: argparse.Namespace) -> Client:
    """Opens the client that the flags describe; raises ValueError and OSError as `Client` does."""
    return Client(**connection(arguments))


def connection(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `Client` that the flags describe.

    Raises ValueError for a certificate without its key, or a key without its certificate.
    """
    if bool(arguments.tls_cert) != bool(arguments.tls_key):
        raise ValueError("--tls-cert and --tls-key go together")
    return {
        "server": arguments.server,
        "tls": arguments.tls_ca or arguments.tls,
        "certificate": (arguments.tls_cert, arguments.tls_key) if arguments.tls_cert else None,
        "api_key": arguments.api_key,
        "max_retries": arguments.max_retries,
        "user_agent": "vlm2vec-command",
    }


def options(arguments: argparse.Namespace, priority: Priority) -> Options:
    """Returns the options that the flags describe, with ``priority`` if no flag says another."""
    return {
        "model": arguments.model or "",
        "alias": arguments.alias,
        "version": arguments.model_version,
        "space": arguments.space,
        "routing_key": arguments.routing_key or "",
        "priority": arguments.priority or priority,
        "truncate": truncate(arguments),
    }


def add_truncate_flag(parser: Parser) -> None:
    """Adds the flag that `truncate` reads."""
    add_flag(
        parser,
        "--truncate",
        "leave out the end of a text beyond so many tokens; 0 is as many as the server takes",
        type=int,
    )


def truncate(arguments: argparse.Namespace) -> bool | int:
    """Returns what the flag asks for, as `Options` has it."""
    most: int | None = arguments.truncate
    return most == 0 or most or False
