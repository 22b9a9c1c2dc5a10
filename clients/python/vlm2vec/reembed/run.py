"""A whole run: it surveys the corpus, embeds what is missing, and writes the ready file."""

import contextlib
import json
import shutil
import sys
from dataclasses import replace
from typing import Any

from vlm2vec.errors import VLM2VecError
from vlm2vec.files import whole
from vlm2vec.progress import bar
from vlm2vec.reembed import folder
from vlm2vec.reembed.corpus import Corpus, Part, survey
from vlm2vec.reembed.embed import resolve
from vlm2vec.reembed.engines import ENGINES
from vlm2vec.reembed.folder import Layout
from vlm2vec.reembed.job import Job, Target
from vlm2vec.reembed.part_files import check_part, failed_rows, merge, part_path
from vlm2vec.reembed.settings import Result, Settings
from vlm2vec.sync.client import Client

FORMAT = "vlm2vec-space-ready/1"
"""The format of the manifest and the ready file, which each names itself."""


def run(settings: Settings) -> Result:
    """Embeds what is not embedded yet, and at the end writes the ready file.

    Raises `VLM2VecError`, OSError and ValueError. The parts that are written by then stay, and the
    next run with the same settings goes on from them.
    """
    places = folder.layout(settings.output)
    corpus = survey(settings.source, settings.part_rows, settings.ignore)
    with Client(**settings.connection) as client:
        target = resolve(client, settings.selector, settings.dimensions)
        _check_spaces(settings, corpus, target)
        manifest = _manifest(settings, corpus, target)
        if (earlier := folder.finished(places, manifest)) is not None and not (
            earlier and settings.retry_failed
        ):
            return Result(corpus.rows, earlier, target.space, places)
        job = _job(settings, corpus, target, places, manifest)
        with folder.locked(places):
            resuming = folder.begin(places, manifest)
            failed = _embed(settings, corpus, job, places, resuming)
            corpus.check_unchanged()
            if places.single:
                merge(job, corpus.parts, places.output)
            folder.write_json(places.ready, {**manifest, "failed": failed, "complete": True})
            if places.single and not failed:
                shutil.rmtree(places.folder)
        if settings.to.startswith("alias:"):
            _warn_if_moved(settings, client, target)
    return Result(corpus.rows, failed, target.space, places)


def _embed(settings: Settings, corpus: Corpus, job: Job, places: Layout, resuming: bool) -> int:
    """Embeds the parts that are not there yet; returns the number of failed rows in all."""
    with bar(settings.progress, corpus.rows) as shown:
        failed: dict[int, int] = {}
        for part in corpus.parts if resuming else ():
            found = check_part(job, part)
            if found is not None and not (found and settings.retry_failed):
                failed[part.index] = found
                shown.update(part.rows)
        pending = [part for part in corpus.parts if part.index not in failed]
        _drop(pending, places)
        try:
            parts = ENGINES[settings.engine](job, pending, settings.streams, shown.update)
            with contextlib.closing(parts):
                for done in parts:
                    failed[done.index] = done.failed
                    _check_failed(sum(failed.values()), settings, places)
        except BaseException:
            rows = sum(part.rows for part in corpus.parts if part.index in failed)
            told = f"{rows} of {corpus.rows} rows are done; the same command goes on from there"
            print(told, file=sys.stderr)
            raise
        finally:
            _write_errors(job, failed, places)
        return _check_failed(sum(failed.values()), settings, places)


def _drop(pending: list[Part], places: Layout) -> None:
    """Deletes what is not true any more: the ready file first, then the files of these parts."""
    if not pending:
        return
    places.ready.unlink(missing_ok=True)
    for part in pending:
        path = part_path(places.folder, part.index)
        if path.exists():
            print(f"{path}: not whole, or to be tried again; dropped", file=sys.stderr)
            path.unlink()


def _check_failed(failed: int, settings: Settings, places: Layout) -> int:
    if failed > settings.max_failed:
        raise ValueError(
            f"{failed} rows failed, more than --max-failed {settings.max_failed}: see "
            f"{places.errors}; mend them and give --retry-failed, or raise the limit"
        )
    return failed


def _write_errors(job: Job, failed: dict[int, int], places: Layout) -> None:
    """Lists the failed rows of all parts that are there, in the order of the corpus."""
    indices = sorted(index for index, count in failed.items() if count)
    if not indices:
        places.errors.unlink(missing_ok=True)
        return
    with whole(places.errors) as path, path.open("w") as file:
        for index in indices:
            file.writelines(json.dumps(row) + "\n" for row in failed_rows(job, index))


def _check_spaces(settings: Settings, corpus: Corpus, target: Target) -> None:
    if target.space in (settings.from_space, corpus.space):
        raise ValueError(
            f"the corpus is in space {target.space!r} already, which --to {settings.to} is: "
            "there is nothing to do"
        )
    if corpus.space not in (None, settings.from_space):
        raise ValueError(
            f"{corpus.path} says that its vectors are in space {corpus.space!r}, "
            f"not {settings.from_space!r}: correct --from-space"
        )


def _manifest(settings: Settings, corpus: Corpus, target: Target) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "space": target.space,
        "from_space": settings.from_space,
        "to": settings.to,
        "model": target.model,
        "version": target.version,
        "dimension": target.dimension,
        "instruction": settings.instruction,
        "input": str(settings.source),
        "input_sha256": corpus.sha256,
        "rows": corpus.rows,
        "part_rows": settings.part_rows,
        **({"truncate": settings.truncate} if settings.truncate else {}),
    }


def _job(
    settings: Settings, corpus: Corpus, target: Target, places: Layout, manifest: dict[str, Any]
) -> Job:
    return Job(
        # Tasks may run in another working directory.
        settings=replace(settings, source=settings.source.absolute()),
        target=target,
        id_type=corpus.id_type,
        folder=places.folder.absolute(),
        digest=folder.job_digest(manifest),
    )


def _warn_if_moved(settings: Settings, client: Client, target: Target) -> None:
    """Warns if the alias means another space now than at the start, which all vectors are of."""
    try:
        now = resolve(client, settings.selector, settings.dimensions)
    except VLM2VecError as error:
        print(f"--to {settings.to} is not served any more: {error}", file=sys.stderr)
        return
    if now.space != target.space:
        print(
            f"--to {settings.to} is space {now.space!r} now; all vectors are of "
            f"{target.space!r}, which it was at the start",
            file=sys.stderr,
        )
