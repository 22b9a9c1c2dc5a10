"""The training loop, which makes an adapter folder out of data."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.hub import named
from vlm2vec_registry.lineage import DataSet
from vlm2vec_registry.space import NOTHING
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_training import gradcache, processes, states
from vlm2vec_training.adapter import TrainableModel, load_model, save_adapter
from vlm2vec_training.data import Subset, read_data
from vlm2vec_training.errors import DataError, TrainingError
from vlm2vec_training.loader import BatchLoader
from vlm2vec_training.sampling import Row, batches
from vlm2vec_training.settings import AdapterSettings, TrainSettings
from vlm2vec_training.tracking import Tracker, code_identity


@dataclass(frozen=True)
class TrainArguments:
    """The arguments of ``vlm2vec train``, except those of publishing.

    ``tracking`` is the MLflow server, database or folder to record in, or empty; ``progress`` says
    whether to show a bar; ``embedding`` is what the adapter's ``embedding.json`` is to say.
    """

    base: Path
    data: Path
    output: Path
    adapter: AdapterSettings
    train: TrainSettings
    resume: bool = True
    tracking: str = ""
    progress: bool = False
    embedding: EmbeddingConfig = NOTHING


@dataclass(frozen=True)
class TrainedAdapter:
    """The adapter that a run trained, and how well.

    ``hit1`` is the best score on held-out rows, which is that of the adapter in ``folder``, or
    None without such rows. ``losses`` are those of the steps that ran, in order. ``run_id`` is the
    MLflow run, or empty, and ``tags`` name the code and the data.
    """

    folder: Path
    hit1: float | None
    losses: list[float]
    run_id: str
    tags: dict[str, str]


def train(arguments: TrainArguments) -> TrainedAdapter:
    """Trains an adapter, and writes the best that there was to ``arguments.output``.

    States go to the folder ``states`` in there; with ``arguments.resume`` the run goes on from the
    newest. Raises `ServeError` for data, settings and checkpoints that are no good.
    """
    settings = arguments.train
    if settings.batch % processes.world_size():
        raise TrainingError(
            f"--batch {settings.batch} is no multiple of the {processes.world_size()} processes"
        )
    torch.manual_seed(settings.seed)
    model = load_model(
        arguments.base,
        arguments.adapter,
        settings.device,
        settings.dtype,
        settings.gradient_checkpointing,
        arguments.embedding,
    )
    subsets = read_data(arguments.data)
    for subset in subsets:
        if len(subset) <= settings.held_out:
            raise DataError(
                f"subset {subset.name}: of {len(subset)} rows none is left to train on; "
                f"lower --held-out, {settings.held_out}"
            )
    loader = BatchLoader(
        subsets, load_preprocessor(arguments.base), model.embedding, settings.threads
    )
    try:
        return _Run(arguments, model, subsets, loader).go()
    finally:
        loader.close()


class _Run:
    """One training run in one process; the process of rank 0 writes files."""

    def __init__(
        self,
        arguments: TrainArguments,
        model: TrainableModel,
        subsets: Sequence[Subset],
        loader: BatchLoader,
    ) -> None:
        self.arguments, self.settings, self.model = arguments, arguments.train, model
        self.subsets, self.loader = subsets, loader
        self.device = model.embedder.device
        self.parameters = gradcache.parameters_of(model.peft)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        self.losses: list[float] = []
        self.writes = processes.rank() == 0
        self.states = arguments.output / "states"
        self.tags = {f"data.{subset.name}": subset.digest for subset in subsets} | code_identity()
        self.facts: dict[str, Any] = {
            "best": None, "run_id": "", "settings": self._identity()
        }  # fmt: skip

    def go(self) -> TrainedAdapter:
        start = self._resume()
        self.tracker = Tracker(
            self.arguments.tracking if self.writes else "",
            self.facts["run_id"],
            self.arguments.output.name,
        )
        if not self.facts["run_id"]:
            self.facts["run_id"] = self.tracker.run_id
            self.tracker.describe(self._parameters(), self.tags, self._data_sets())
        bar = tqdm(
            total=self.settings.steps, initial=start, desc="train", unit=" steps",
            disable=not (self.arguments.progress and self.writes),
        )  # fmt: skip
        with bar:
            for step, batch in enumerate(self._batches(start), start):
                self._step(step, batch)
                bar.update()
                bar.set_postfix(loss=f"{self.losses[-1]:.3f}", hit1=self.facts["best"])
                self._after(step + 1)
        self.tracker.finish()
        if self.writes:
            shutil.rmtree(self.states, ignore_errors=True)
        return TrainedAdapter(
            self.arguments.output, self.facts["best"], self.losses, self.tracker.run_id, self.tags
        )

    def _batches(self, start: int) -> Iterator[gradcache.ContrastiveBatch]:
        """Gives this process's part of each step from ``start`` on."""
        settings = self.settings
        plan = batches(
            [len(subset) - settings.held_out for subset in self.subsets],
            [subset.weight for subset in self.subsets],
            settings.batch, settings.sub_batch, settings.seed,
        )  # fmt: skip
        size = settings.batch // processes.world_size()
        first = processes.rank() * size
        parts = (rows[first : first + size] for rows in islice(plan, start, settings.steps))
        return self.loader.ahead(parts)

    def _step(self, step: int, batch: gradcache.ContrastiveBatch) -> None:
        settings = self.settings
        rate = settings.learning_rate * schedule(step, settings.warm_up, settings.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Dropout follows from the step, so that a resumed run drops what it would have dropped.
        torch.manual_seed(hash((settings.seed, step, processes.rank())))
        self.model.embedder.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = gradcache.backward(self.model.embedder, batch, settings.temperature, settings.chunk)
        processes.sum_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, settings.clip)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"step {step + 1}: the gradient is not finite; lower --learning-rate, or take "
                "--dtype float32"
            )
        self.optimizer.step()
        self.losses.append(loss)
        self.tracker.log(step + 1, {"loss": loss, "learning_rate": rate, "norm": float(norm)})

    def _after(self, done: int) -> None:
        """Scores the adapter and saves the state, where that is due after ``done`` steps."""
        settings = self.settings
        last = done == settings.steps
        if settings.held_out and (done % settings.evaluate_every == 0 or last):
            hit1 = self._evaluate()
            self.tracker.log(done, {"hit1": hit1})
            if self.facts["best"] is None or hit1 > self.facts["best"]:
                self.facts["best"] = hit1
                self._save_adapter()
        elif last:
            self._save_adapter()
        if self.writes and (done % settings.save_every == 0 and not last):
            states.save(self.states, done, self.model.peft, self.optimizer, self.facts)

    @torch.no_grad()
    def _evaluate(self) -> float:
        """Computes hit@1 among the held-out rows of each subset; returns the mean over subsets."""
        self.model.embedder.eval()
        size = self.settings.chunk or self.settings.held_out
        mine = 0.0
        for index in range(processes.rank(), len(self.subsets), processes.world_size()):
            subset = self.subsets[index]
            rows = range(len(subset) - self.settings.held_out, len(subset))
            batch = self.loader.batch([Row(index, row) for row in rows])
            queries, targets = (
                torch.cat([self.model.embedder(part) for part in gradcache.chunks(inputs, size)])
                for inputs in (batch.queries, batch.targets[: len(batch.queries)])
            )
            mine += hit1(queries, targets, batch.contents[: len(queries)])
        return processes.total(mine, self.device) / len(self.subsets)

    def _save_adapter(self) -> None:
        if self.writes:
            save_adapter(self.model.peft, self.model.embedding, self.arguments.output)

    def _resume(self) -> int:
        """Loads the newest state, if any; returns the number of the step to go on with."""
        state = states.latest(self.states) if self.arguments.resume else None
        if state is None:
            if self.arguments.resume and (self.arguments.output / "adapter_config.json").exists():
                raise TrainingError(
                    f"{self.arguments.output} holds an adapter; choose another --output, or give "
                    "--no-resume to write over it"
                )
            return 0
        facts = states.load(state, self.model.peft, self.optimizer)
        if facts["settings"] != self._identity():
            theirs, ours = facts["settings"], self._identity()
            changed = sorted(key for key in ours if theirs.get(key) != ours[key])
            raise TrainingError(
                f"{state} was trained with other settings: {', '.join(changed)}; "
                "give --no-resume to start anew"
            )
        self.facts = facts
        return int(facts.pop("step"))

    def _identity(self) -> dict[str, Any]:
        """Returns all settings that decide the result, as plain JSON."""
        free = ("chunk", "threads", "save_every", "device", "gradient_checkpointing")
        train = {key: value for key, value in asdict(self.settings).items() if key not in free}
        data: dict[str, Any] = {
            key: value for key, value in self.tags.items() if key.startswith("data.")
        }
        form = self.arguments.embedding
        if form != NOTHING:  # without one it is as before there were any
            data["embedding"] = form.to_dict()
        plain: dict[str, Any] = json.loads(
            json.dumps({**asdict(self.arguments.adapter), **train, **data})
        )
        return plain

    def _data_sets(self) -> list[DataSet]:
        return [
            DataSet(subset.name, self.tags[f"data.{subset.name}"], subset.path, len(subset))
            for subset in self.subsets
        ]

    def _parameters(self) -> dict[str, Any]:
        return {
            **asdict(self.arguments.adapter),
            **asdict(self.settings),
            "base": named(self.arguments.base)[0],
            "processes": processes.world_size(),
            "trained_parameters": sum(p.numel() for p in self.parameters),
        }


def schedule(step: int, warm_up: int, steps: int) -> float:
    """Returns the learning rate's factor: up from 1/``warm_up`` to 1, then down in a line to 0."""
    if step < warm_up:
        return (step + 1) / warm_up
    return max(0.0, (steps - step) / max(1, steps - warm_up))


def hit1(queries: Tensor, targets: Tensor, contents: Sequence[int]) -> float:
    """Returns the share of ``queries`` ``(n, dim)`` that are nearest to their own target.

    ``targets`` ``(n, dim)`` are in the order of the queries. ``contents`` has a number for each; a
    target of the same content as the query's own is as good.
    """
    numbers = torch.tensor(contents, device=queries.device)
    best = (queries @ targets.T).argmax(dim=1)
    return (numbers[best] == numbers).float().mean().item()
