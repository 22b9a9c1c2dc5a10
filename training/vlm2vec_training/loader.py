"""Prepares rows for training by the service's own preprocessing, ahead of the model, in threads."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import FAMILIES
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.offline.mmeb import prompt_of
from vlm2vec_service.preprocess import Prepared, Preprocessor, Request
from vlm2vec_service.preprocess.audio import Audio, measure_audio
from vlm2vec_service.preprocess.images import EncodedImage, measure_image
from vlm2vec_service.settings import Limits
from vlm2vec_training.data import Example, Side, Subset
from vlm2vec_training.errors import DataError
from vlm2vec_training.gradcache import ContrastiveBatch
from vlm2vec_training.sampling import Row


class BatchLoader:
    """Makes batches of the rows of ``subsets``, prepared in ``threads`` threads.

    ``embedding`` says how the adapter wants its inputs prepared. `close` ends the threads.
    """

    def __init__(
        self,
        subsets: Sequence[Subset],
        preprocessor: Preprocessor,
        embedding: EmbeddingConfig,
        threads: int,
    ) -> None:
        self.subsets = subsets
        self.preprocessor = preprocessor
        self.embedding = embedding
        self.placeholder = FAMILIES[str(embedding.backbone)].image_placeholder
        self.limits = Limits()
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")

    def batch(self, rows: Iterable[Row]) -> ContrastiveBatch:
        """Prepares a batch of ``rows``: its targets are their positives, then all hard negatives.

        Raises `DataError`.
        """
        return self._collect(self._submit(rows))

    def ahead(self, plan: Iterable[Sequence[Row]]) -> Iterator[ContrastiveBatch]:
        """Prepares the batches of ``plan``, each while the one before it is trained on.

        Raises `DataError`.
        """
        waiting: list[Future[_Ready]] | None = None
        for rows in plan:
            coming = self._submit(rows)
            if waiting is not None:
                yield self._collect(waiting)
            waiting = coming
        if waiting is not None:
            yield self._collect(waiting)

    def close(self) -> None:
        """Ends the threads."""
        self.pool.shutdown(cancel_futures=True)

    def _submit(self, rows: Iterable[Row]) -> "list[Future[_Ready]]":
        return [self.pool.submit(self._ready, row) for row in rows]

    def _collect(self, waiting: "Sequence[Future[_Ready]]") -> ContrastiveBatch:
        ready = [future.result() for future in waiting]
        targets = [item.targets[0] for item in ready]
        contents = [item.contents[0] for item in ready]
        for item in ready:
            targets += item.targets[1:]
            contents += item.contents[1:]
        return ContrastiveBatch([item.query for item in ready], targets, contents)

    def _ready(self, row: Row) -> "_Ready":
        subset = self.subsets[row.subset]
        example = subset[row.row]
        sides = [example.positive, *example.negatives]
        try:
            query = self._prepare(example.query, subset, "query")
            targets = [
                self._prepare(side, subset, "negative" if index else "positive")
                for index, side in enumerate(sides)
            ]
        except InvalidInputError as error:
            raise DataError(f"{subset.where(row.row)}: {error}") from error
        return _Ready(example, query, targets)

    def _prepare(self, side: Side, subset: Subset, role: str) -> Prepared:
        try:
            media = Request(images=self._images(side, subset), audios=self._audios(side, subset))
            if side.instruction is not None:
                request = replace(
                    media, instruction=side.instruction or None, text=side.text or None
                )
            else:
                prompt = prompt_of(side.text, self.placeholder if media.images else None)
                request = replace(media, prompt=prompt)
            return self.preprocessor.prepare(request, self.embedding)
        except InvalidInputError as error:
            raise InvalidInputError(f"{role} {error.field}", error.problem) from error

    def _images(self, side: Side, subset: Subset) -> tuple[EncodedImage, ...]:
        if not side.image:
            return ()
        path = subset.images / side.image
        return (measure_image(_read(path, "image"), self.limits, f"image {path}"),)

    def _audios(self, side: Side, subset: Subset) -> tuple[Audio, ...]:
        if not side.audio:
            return ()
        path = subset.images / side.audio
        return (measure_audio(_read(path, "audio"), self.limits, f"audio {path}"),)


def _read(path: Path, kind: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(kind, f"{path}: {error.strerror}") from error


class _Ready:
    """One example, prepared."""

    def __init__(self, example: Example, query: Prepared, targets: list[Prepared]) -> None:
        self.query = query
        self.targets = targets
        self.contents = [side.content for side in (example.positive, *example.negatives)]
