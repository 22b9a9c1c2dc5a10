"""Runs ``vlm2vec demo``: one rollout, from the registry to the scores of both versions."""

import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import click
from tqdm import tqdm

from vlm2vec import Client, Input, VLM2VecError
from vlm2vec.inputs import InputLike
from vlm2vec_demo.digits import MODEL
from vlm2vec_demo.served import DemoError, DemoServer, serving
from vlm2vec_demo.sheet import draw
from vlm2vec_evaluation import Evaluation, Task, evaluate
from vlm2vec_evaluation.source import Embed, Key, by_client, key_of
from vlm2vec_evaluation.suite import META_TASKS
from vlm2vec_evaluation.vector_file import Vector, Vectors
from vlm2vec_registry import traffic
from vlm2vec_registry.space import base_digest, space_of
from vlm2vec_registry.store import Registry

NAME = "digits"
ANSWERS = 300
"""How many answers of each version the stream waits for."""
STREAM_SECONDS = 120.0


@dataclass(frozen=True)
class DemoArguments:
    """The arguments of ``vlm2vec demo``."""

    folder: Path
    scenes: int
    keep: bool
    progress: bool


@dataclass(frozen=True)
class Scored:
    """The scores of a version, and the vectors that they were computed of."""

    evaluation: Evaluation
    vectors: Vectors


def run(arguments: DemoArguments) -> int:
    """Runs the demo and prints what it finds; returns the number of requests that failed.

    Raises `ServeError`.
    """
    if not (MODEL / "base").is_dir():
        raise DemoError(f"{MODEL} is not there: make train-default makes it, in half an hour")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    store, say = arguments.folder / "registry", _clock()
    say(f"publish v1 and v2 of {NAME} to an SQLite MLflow in {store}; v1 is the champion")
    registry = Registry(str(store))
    first, second = (_publish(registry, MODEL / name) for name in ("v1", "v2"))
    traffic.promote(registry, NAME, first)
    flags = [
        "--model", f"{NAME}={MODEL / 'base'}", "--registry", str(store), "--poll-seconds", "0.5",
        "--cache-dir", str(arguments.folder / "cache"),
    ]  # fmt: skip
    with serving(arguments.folder, *flags) as server:
        say(f"start a server that follows it; its log is {server.log}")
        asked = _tasks(arguments.scenes)
        inputs = _inputs(asked)
        server.wait(NAME)
        try:
            with Client(server.grpc, max_retries=0) as client:
                say(f"v1 answers: stream {len(inputs)} inputs of digits that it never saw")
                before = _score(client, asked, len(inputs), arguments.progress)
                click.echo(f"\n{table({'v1': before.evaluation})}\n")
                say("promote v2 while a stream runs")
                answers = _promote(client, list(inputs.values()), registry, first, second)
                failed = answers.pop("failed", 0)
                told = f"{answers[first]} by v1, {answers[second]} by v2"
                say(f"answers in that stream: {told}; requests failed: {failed}")
                say("v2 answers: stream the same inputs")
                after = _score(client, asked, len(inputs), arguments.progress)
        except VLM2VecError as error:
            raise DemoError(f"{error}; see {server.log}") from error
        say("draw demo.png")
        draw(arguments.folder / "demo.png", asked, [("v1", before.vectors), ("v2", after.vectors)])
        pictures = _write_pictures(asked, arguments.folder / "pictures")
        server.keep = arguments.keep
    scores = table({"v1": before.evaluation, "v2": after.evaluation})
    click.echo(f"\n{scores}\n\n  requests failed: {failed}\n")
    click.echo(_next_steps(arguments, server, registry.uri, pictures))
    return failed


def _clock() -> Callable[[str], None]:
    """Makes a function that prints a line, with the seconds since now in front."""
    began = time.monotonic()

    def say(line: str) -> None:
        click.echo(f"{time.monotonic() - began:5.1f} s  {line}")

    return say


def _publish(registry: Registry, folder: Path) -> str:
    """Publishes the adapter in ``folder``, if no earlier demo did; returns its version."""
    base = MODEL / "base"
    space = space_of(base_digest(base), folder)
    if NAME in registry.models():
        for version in registry.versions(NAME):
            if version.space == space:
                return version.name
    return registry.publish(NAME, folder, base=base).name


def _tasks(scenes: int) -> list[Task]:
    """Makes the model's own evaluation sets, smaller, and no questions in unusual words."""
    # torch is imported while the server starts.
    from vlm2vec_demo.digits.tasks import tasks

    drawn = tasks(singles=scenes, pairs=scenes, scenes=scenes)
    return [task for task in drawn if task.split == "ind"]


def _inputs(asked: list[Task]) -> dict[Key, InputLike]:
    """Collects the distinct queries and candidates."""
    records = [record for task in asked for record in task.records]
    # The same candidates come with every query.
    items = {id(item): item for one in records for item in (one.query, *one.candidates)}
    return {key_of(item): item for item in items.values()}


def _score(client: Client, asked: list[Task], total: int, progress: bool) -> Scored:
    """Scores the champion; nothing in the calls says which version that is."""
    vectors: Vectors = {}
    with tqdm(total=total, unit=" inputs", disable=not progress, leave=False) as bar:
        embed = _counted(by_client(client), bar.update)
        return Scored(evaluate(embed, asked, vectors=vectors), vectors)


def _counted(embed: Embed, count: Callable[[], object]) -> Embed:
    def counted(
        items: Iterable[tuple[Key, InputLike]],
    ) -> Iterator[tuple[Key, Vector | Exception]]:
        for pair in embed(items):
            count()
            yield pair

    return counted


def _promote(
    client: Client, items: list[InputLike], registry: Registry, first: str, second: str
) -> Counter[str]:
    """Promotes ``second`` in the middle of one stream, and reads on until it answers.

    Returns how many answers came from each version, and how many "failed".
    """
    answers: Counter[str] = Counter()

    def until_answered() -> Iterator[tuple[int, InputLike]]:
        for pair in enumerate(cycle(items)):
            if answers[second] >= ANSWERS:
                return
            yield pair

    promoted = False
    for _, result in client.stream(
        until_answered(), details=True, on_error="yield", timeout=STREAM_SECONDS
    ):
        answers["failed" if isinstance(result, VLM2VecError) else result.version] += 1
        if not promoted and answers.total() >= ANSWERS:
            traffic.promote(registry, NAME, second)
            promoted = True
    return answers


def table(versions: Mapping[str, Evaluation]) -> str:
    """Writes the hit@1 of each version by meta-task, beside that of a blind choice."""
    rows = [["hit@1", *versions, "chance"]]
    averages = [evaluation.averages for evaluation in versions.values()]
    for name in (name for name in META_TASKS if name in averages[0]):
        scores = [one[name] for one in averages]
        rows.append([name, *(f"{one.hit1:.3f}" for one in scores), f"{scores[0].chance:.3f}"])
    return "\n".join(f"  {row[0]:16}" + "".join(f"{cell:>8}" for cell in row[1:]) for row in rows)


def _write_pictures(asked: list[Task], folder: Path) -> dict[str, Path]:
    """Writes a dozen test scenes as files that are called what they show, by their captions."""
    folder.mkdir(exist_ok=True)
    (task,) = (task for task in asked if task.name == "scene_to_caption")
    written = {}
    for record in task.records[:12]:
        scene, caption = record.query, record.candidates[record.right[0]]
        assert isinstance(scene, Input)
        assert isinstance(caption, Input)
        (image,) = scene.images
        assert isinstance(image, bytes)
        text = str(caption.text)
        written[text] = folder / f"{text.replace(' ', '-').replace(',', '')}.png"
        written[text].write_bytes(image)
    return written


def _next_steps(
    arguments: DemoArguments, server: DemoServer, store: str, pictures: Mapping[str, Path]
) -> str:
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    caption, picture = next(iter(pictures.items()))
    running = (
        f"The server runs until you say:  kill {server.process.pid}"
        if arguments.keep
        else "The server is stopped; --keep leaves it running, for:"
    )
    return f"""\
Queries and what was found:  {arguments.folder / "demo.png"}
MLflow:  {python} -m mlflow ui --backend-store-uri {shlex.quote(store)}
         (once {python} -m pip install mlflow has brought its pages)

{running}
  http://{server.metrics}/metrics
  http://{server.http}/docs
  buf curl --protocol grpc --http2-prior-knowledge \\
      http://{server.grpc}/vlm2vec.v1.EmbeddingService/ListModels
  {python} -m vlm2vec rank --server {server.grpc} --top-k 3 \\
      --instruction "Find me an everyday image that matches the given caption:" \\
      --candidate-instruction "Represent the given image." \\
      --query "{caption}" {shlex.quote(str(picture.parent))}/*.png"""
