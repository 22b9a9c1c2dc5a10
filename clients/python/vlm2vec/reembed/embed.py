"""How one part of a corpus becomes one file of vectors, wherever it runs."""

from collections.abc import Callable, Iterator

import grpc
import numpy as np

from vlm2vec.errors import InvalidInput, VLM2VecError
from vlm2vec.inputs import Input
from vlm2vec.options import Options
from vlm2vec.reembed.corpus import Part, read
from vlm2vec.reembed.job import EmbeddedPart, Job, Target
from vlm2vec.reembed.part_files import FailedRow, write_part
from vlm2vec.reembed.rows import parse
from vlm2vec.results import OneSpace
from vlm2vec.stream_items import Id
from vlm2vec.sync.client import Client

ROW_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""Status codes of errors of one row.

Any other says that the server or the version is gone, and ends the run.
"""
PROBE = "Which space is this?"
"""A text that is embedded only for the name of the space that its vector is in."""


def resolve(client: Client, asked: Options, dimensions: int) -> Target:
    """Asks for one vector, to find the version and the space that ``asked`` stands for now.

    Raises `VLM2VecError` where the server cannot answer.
    """
    options: Options = {**asked, "dimensions": dimensions, "priority": "bulk"}
    found = client.embed(PROBE, details=True, **options)
    return Target(found.model, found.version, found.space, len(found.vector))


def embed_part(
    client: Client, job: Job, part: Part, advance: Callable[[int], object] = lambda rows: None
) -> EmbeddedPart:
    """Embeds the rows of a part and writes its file, which is there whole or not at all.

    ``advance`` is called with the number of rows that were done since it was called last. Raises
    `VLM2VecError` if the server cannot go on, `SpaceChanged` if it answers in another space, and
    OSError or ValueError for a corpus that cannot be read or a folder that cannot be written.
    """
    settings = job.settings
    ids: dict[int, Id] = {}
    vectors = np.empty((part.rows, job.target.dimension), np.float32)
    failed: dict[int, FailedRow] = {}

    def fail(number: int, id: object, error: VLM2VecError) -> None:
        failed[number] = FailedRow(
            part.first + number, id, error.code.name, error.field, error.message
        )
        advance(1)

    def items() -> Iterator[tuple[int, Input]]:
        for number, row in enumerate(read(settings.source, part)):
            if isinstance(row, InvalidInput):
                fail(number, None, row)
                continue
            try:
                ids[number], source = parse(
                    row, settings.source.parent, job.id_type, settings.ignore
                )
            except InvalidInput as error:
                fail(number, row.get("id"), error)
            else:
                yield number, source

    space = OneSpace()
    space.check(job.target)
    asked: Options = {
        "model": job.target.model,
        "space": job.target.space,
        "priority": "bulk",
        "dimensions": settings.dimensions,
        "truncate": settings.truncate,
    }
    stream = client.stream(
        items(),
        window=settings.window,
        instruction=settings.instruction,
        details=True,
        on_error="yield",
        **asked,
    )
    for key, result in stream:
        number = int(key)
        if isinstance(result, VLM2VecError):
            if result.code not in ROW_CODES:
                raise result
            fail(number, ids[number], result)
        else:
            space.check(result)
            vectors[number] = result.vector
            advance(1)
    embedded = [number for number in range(part.rows) if number not in failed]
    write_part(
        job,
        part,
        [ids[number] for number in embedded],
        vectors[embedded] if failed else vectors,
        [failed[number] for number in sorted(failed)],
    )
    return EmbeddedPart(part.index, part.rows, len(failed))
