"""``python -m tests.soak --minutes 2 --seed 1``: runs, prints a table, and ends with status 1 if
anything was wrong, lost, twice, unexpected or not whole again."""

import sys
import tempfile
from pathlib import Path

import click

from tests.soak.soak import soak


@click.command()
@click.option("--minutes", default=2.0, show_default=True, help="How long callers call.")
@click.option("--seed", default=1, show_default=True, help="What is asked and what happens.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="An empty folder to run in, which is kept."
)
def main(minutes: float, seed: int, folder: Path | None) -> None:
    """Mixed load on a real server while everything around it breaks, every answer checked."""
    with tempfile.TemporaryDirectory(prefix="vlm2vec-soak-") as scratch:
        place = folder or Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        report = soak(place, minutes, seed)
    print(report.table())
    sys.exit(not report.good)


if __name__ == "__main__":
    main()
