"""Runs ``vlm2vec evaluate``."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from vlm2vec import Client, VLM2VecError
from vlm2vec_evaluation.check import check, line
from vlm2vec_evaluation.compare import Earlier
from vlm2vec_evaluation.data import read_task
from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.evaluation import Evaluation, Ranked, evaluate
from vlm2vec_evaluation.gallery import Example, worst
from vlm2vec_evaluation.leaderboard import PAGE, write_all, write_data_set
from vlm2vec_evaluation.page import Report, render
from vlm2vec_evaluation.prompts import takes
from vlm2vec_evaluation.published import of_models
from vlm2vec_evaluation.record import record
from vlm2vec_evaluation.report import table, to_json
from vlm2vec_evaluation.source import Embed, by_client
from vlm2vec_evaluation.suite import Suite, read_suite
from vlm2vec_evaluation.target import EvaluationTarget, find_target
from vlm2vec_evaluation.vector_file import open_vectors
from vlm2vec_registry.files import write_whole
from vlm2vec_service.settings import EngineSettings, Limits, VideoSettings

if TYPE_CHECKING:
    from vlm2vec_registry.snapshot import PublishedVersion
    from vlm2vec_registry.store import Registry


@dataclass(frozen=True)
class EvaluateArguments:
    """The arguments of ``vlm2vec evaluate``."""

    suite: str
    data: Path | None
    target: str
    model: str
    api_key: str | None
    tls: bool
    tls_ca: str | None
    window: int
    local: bool
    base: Path | None
    adapter: Path | None
    preprocess_threads: int
    only: tuple[str, ...]
    modality: tuple[str, ...]
    check: bool
    report: Path | None
    beside: str
    compare: Path | None
    limit: int | None
    cache: Path
    output: Path | None
    record: bool
    registry: str
    progress: bool
    engine: EngineSettings
    limits: Limits
    video: VideoSettings


def run(arguments: EvaluateArguments) -> None:
    """Evaluates, prints the table, and writes what was asked for. Raises `ServeError`."""
    suite = read_suite(arguments.suite, arguments.data)
    chosen = _chosen(suite, arguments.only, arguments.modality)
    if arguments.check:
        _check(chosen, arguments.limit)
        return
    beside = of_models(arguments.beside)
    earlier = Earlier.read(arguments.compare) if arguments.compare else None
    examples: dict[str, list[Example]] = {}
    if arguments.output and not arguments.output.parent.is_dir():
        raise EvaluationError(
            f"{arguments.output}: the folder {arguments.output.parent} does not exist"
        )
    audio = [item for item in chosen.data_sets if item.modality == "audio"]
    for data_set in chosen.data_sets:
        if data_set not in audio:
            suite.path(data_set)  # what is missing is said before hours of embedding
    with _source(arguments) as (embed, target):
        for data_set in audio if "audio" in takes(target.backbone) else []:
            suite.path(data_set)
        version = _version(arguments, target) if arguments.record else None
        with open_vectors(arguments.cache, target.space) as vectors:
            tasks = (
                read_task(suite, data_set, target.backbone, arguments.limit)
                for data_set in tqdm(
                    chosen.data_sets, "data sets", unit="", disable=not arguments.progress
                )
            )
            evaluation = evaluate(
                embed, tasks, vectors=vectors, missing=suite.missing,
                keep=_keeping(arguments.report, examples) if arguments.report else None,
                progress=arguments.progress,
            )  # fmt: skip
    click.echo(f"{target.model} version {target.version}, space {target.space}: {suite.name}\n")
    click.echo(table(evaluation, beside))
    if arguments.report:
        title = f"{suite.name}: {target.model} version {target.version}"
        report = Report(title, evaluation, beside, earlier, examples)
        write_all(arguments.report, evaluation, target.model, target.space, render(report))
        click.echo(f"\nreport: {arguments.report / PAGE}")
    if arguments.output:
        _write(arguments.output, target, suite, evaluation)
    if version:
        registry, published = version
        made = record(registry, published, suite, evaluation, target.space)
        click.echo(f"\nrecorded on {published.model} version {published.name}, run {made.run_id}")


def _check(chosen: Suite, limit: int | None) -> None:
    """Prints what the files are. Raises `EvaluationError` if some are missing."""
    lacking = 0
    for one in check(chosen, chosen.data_sets, limit):
        click.echo(line(one))
        lacking += bool(one.fetch)
    if lacking:
        raise EvaluationError(f"{lacking} of {len(chosen.data_sets)} data sets lack files")


def _keeping(folder: Path, examples: dict[str, list[Example]]) -> Callable[[Ranked], None]:
    def keep(ranked: Ranked) -> None:
        write_data_set(folder, ranked)
        examples[ranked.scores.name] = worst(ranked)

    return keep


def _chosen(suite: Suite, only: tuple[str, ...], modalities: tuple[str, ...]) -> Suite:
    names = [item.name for item in suite.data_sets]
    if unknown := sorted(set(only) - set(names)):
        raise EvaluationError(
            f"--only: suite {suite.name} has no {', '.join(unknown)}; it has {', '.join(names)}"
        )
    kept = tuple(
        item
        for item in suite.data_sets
        if (not only or item.name in only) and (not modalities or item.modality in modalities)
    )
    if not kept:
        raise EvaluationError(f"suite {suite.name} has no data set of {', '.join(modalities)}")
    return replace(suite, data_sets=kept)


@contextmanager
def _source(arguments: EvaluateArguments) -> Iterator[tuple[Embed, EvaluationTarget]]:
    """Gives what embeds, and which version that is."""
    if arguments.local:
        from vlm2vec_evaluation.local import load  # torch

        assert arguments.base is not None
        model = load(
            arguments.base,
            arguments.adapter,
            arguments.engine,
            arguments.limits,
            arguments.video,
            arguments.preprocess_threads,
        )
        name, _, version = arguments.model.partition("@")
        place = arguments.adapter or arguments.base
        yield (
            model.embed,
            EvaluationTarget(name or str(place), version or "-", model.space, model.backbone),
        )
        return
    try:
        with Client(
            arguments.target,
            tls=arguments.tls_ca or arguments.tls,
            api_key=arguments.api_key,
            user_agent="vlm2vec-evaluate",
        ) as client:
            target = find_target(client.models(), arguments.model)
            # The space pins the version, also while a canary takes a share or the champion changes.
            yield (
                by_client(client, arguments.window, model=target.model, space=target.space),
                target,
            )
    except (VLM2VecError, OSError) as error:
        raise EvaluationError(f"{arguments.target}: {error}") from error


def _version(
    arguments: EvaluateArguments, target: EvaluationTarget
) -> "tuple[Registry, PublishedVersion]":
    """Finds the version to record on, before anything is embedded."""
    from vlm2vec_registry.errors import RegistryError
    from vlm2vec_registry.store import Registry
    from vlm2vec_registry.uri import without_secrets

    try:
        registry = Registry(arguments.registry)
        version = registry.version(target.model, target.version)
    except RegistryError as error:
        shown = without_secrets(arguments.registry)
        raise EvaluationError(f"--registry {shown}: {error}") from error
    if version.space != target.space:
        raise EvaluationError(
            f"{target.model} version {target.version} has space {version.space} in the registry, "
            f"but {target.space} is what answers"
        )
    return registry, version


def _write(path: Path, target: EvaluationTarget, suite: Suite, evaluation: Evaluation) -> None:
    """Writes the JSON file."""
    about = {
        "model": target.model, "version": target.version, "space": target.space,
        "suite": suite.name, "suite_digest": suite.digest,
    }  # fmt: skip
    try:
        write_whole(path, json.dumps({**about, **to_json(evaluation)}, indent=2) + "\n")
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror}") from error
