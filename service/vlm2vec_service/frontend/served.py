"""A model with all that serves it."""

from dataclasses import dataclass

from vlm2vec_service.preprocess import Preprocessor
from vlm2vec_service.scheduling.scheduler import Scheduler
from vlm2vec_service.supervision.discovery import Discovery
from vlm2vec_service.supervision.process import Worker
from vlm2vec_service.versions.catalog import ServedModel
from vlm2vec_service.versions.follower import Follower
from vlm2vec_service.versions.loader import Loader
from vlm2vec_service.versions.residency import Residency
from vlm2vec_service.versions.shadow import Shadow


@dataclass
class Served:
    """A model with all that serves it. ``follower`` is None where no registry is followed, and
    ``discovery`` where the workers are always the same."""

    preprocessor: Preprocessor
    scheduler: Scheduler
    workers: list[Worker]
    residency: Residency
    loader: Loader
    shadow: Shadow
    follower: Follower | None = None
    discovery: Discovery | None = None
    _seen: int = 0

    @property
    def model(self) -> ServedModel:
        """The model's versions and aliases."""
        return self.residency.model

    @property
    def dimension(self) -> int:
        """Components of a vector; 0 until a worker has said so."""
        return max([self._seen, *(worker.dimension for worker in self.workers)])

    def remember_dimension(self, worker: Worker) -> None:
        """Keeps what a worker that goes has said, so that inputs may wait for the next."""
        self._seen = max(self._seen, worker.dimension)
