"""Where parts are embedded: threads of this process, or tasks of Ray Data."""

import logging
import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from typing import Any, TypeAlias

from vlm2vec.errors import VLM2VecError
from vlm2vec.reembed.corpus import Part
from vlm2vec.reembed.embed import embed_part
from vlm2vec.reembed.job import EmbeddedPart, Job
from vlm2vec.sync.client import Client

Engine: TypeAlias = Callable[
    [Job, Sequence[Part], int, Callable[[int], object]], Generator[EmbeddedPart, None, None]
]
"""Embeds parts of a job, at most so many at a time, and yields each when its file is there.

The parts come in any order. The function at the end is called with the number of rows that were
done since it was called last.
"""


def local(
    job: Job, parts: Sequence[Part], streams: int, advance: Callable[[int], object]
) -> Generator[EmbeddedPart, None, None]:
    """Embeds ``parts`` in ``streams`` threads of this process.

    While one stream ends and its part is written, the others keep the server busy.
    """
    lock = threading.Lock()

    def count(rows: int) -> None:
        with lock:
            advance(rows)

    client = Client(**job.settings.connection)
    pool = ThreadPoolExecutor(streams)
    try:
        running = [pool.submit(embed_part, client, job, part, count) for part in parts]
        for future in as_completed(running):
            yield future.result()
    finally:
        # Ends streams under way as well: their parts are of no use when one has failed.
        client.close()
        pool.shutdown(cancel_futures=True)


def ray(
    job: Job, parts: Sequence[Part], streams: int, advance: Callable[[int], object]
) -> Generator[EmbeddedPart, None, None]:
    """Embeds ``parts`` as tasks of Ray Data, ``streams`` at a time.

    They run on the cluster that RAY_ADDRESS names, or on a local one that ends with this process.

    Corpus, pictures and output have to be at the same paths on every node.
    """
    # Else Ray reports to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("--engine ray needs Ray: pip install 'vlm2vec-client[ray]'") from error
    if not parts:
        return

    def embed(row: dict[str, Any]) -> dict[str, Any]:
        # An exception would come wrapped in others, and be tried again.
        try:
            with Client(**job.settings.connection) as client:
                return {**asdict(embed_part(client, job, Part(**row))), "error": ""}
        except (VLM2VecError, ValueError, OSError) as error:
            return {"index": row["index"], "rows": 0, "failed": 0, "error": str(error)}

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        ray.init(
            ignore_reinit_error=True,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = ray.data.from_items(list(map(asdict, parts)), override_num_blocks=len(parts))
        results = items.map(embed, compute=ray.data.TaskPoolStrategy(size=streams))
        for row in results.iter_rows():
            if problem := row.pop("error"):
                raise VLM2VecError(problem)
            done = EmbeddedPart(**row)
            advance(done.rows)
            yield done
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise VLM2VecError(f"Ray: {error}") from error


ENGINES: dict[str, Engine] = {"local": local, "ray": ray}
"""The engines by the names that ``--engine`` takes."""
