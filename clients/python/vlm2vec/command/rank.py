"""``vlm2vec-client rank``: images, audios and texts, in the order in which they match a query."""

import argparse

from vlm2vec.command.flags import add_flag
from vlm2vec.command.server_flags import add_server_flags, open_client, options
from vlm2vec.command.sources import add_source_flags, sources

DESCRIPTION = """\
Orders images, audios and texts by how well they match a query, and prints a table: the rank, the
cosine of the vectors, and the path or text."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command to its parser."""
    add_source_flags(parser)
    add_flag(parser, "--query", "what to look for", required=True)
    add_flag(parser, "--top-k", "print only the best so many; 0 is all", type=int, default=0)
    add_flag(parser, "--instruction", "the task of the query")
    add_flag(parser, "--candidate-instruction", "the task of what is ranked")
    add_server_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ranks the candidates and prints a table; returns 0.

    Raises `VLM2VecError`, ValueError and OSError where that cannot be done.
    """
    named = sources(arguments)
    with open_client(arguments) as client:
        ranking = client.rank(
            arguments.query,
            [source for _, source in named],
            top_k=arguments.top_k,
            instruction=arguments.instruction,
            candidate_instruction=arguments.candidate_instruction,
            timeout=arguments.timeout,
            **options(arguments, "interactive"),
        )
    print("rank    score  candidate")
    for place, ranked in enumerate(ranking.candidates, start=1):
        print(f"{place:4}  {ranked.score:7.4f}  {named[ranked.index][0]}")
    return 0
