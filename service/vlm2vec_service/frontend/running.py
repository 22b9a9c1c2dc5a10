"""What runs beside the calls: workers, what finds them, and what follows the registry."""

import asyncio
import functools
import logging

from vlm2vec_service.frontend.grpc.health import HealthServicer
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.frontend.served import Served
from vlm2vec_service.supervision.process import Worker
from vlm2vec_service.tasks import supervised

log = logging.getLogger(__name__)


class Running:
    """The tasks that keep the models of ``pipeline`` answering, and tell ``healthy`` whether each
    does."""

    def __init__(self, pipeline: Pipeline, healthy: HealthServicer) -> None:
        self.pipeline = pipeline
        self.healthy = healthy
        self._tasks: list[asyncio.Task[None]] = []
        self._workers: dict[Worker, asyncio.Task[None]] = {}
        self._told: dict[str, str] = {}

    def start(self) -> None:
        """Starts every worker, what finds more of them, and what follows the registry."""
        metrics = self.pipeline.metrics
        for served in self.pipeline.served.values():
            for worker in served.workers:
                self._start_worker(served, worker)
            if served.follower is not None:
                served.follower.on_change = self._tell_readiness
                self._tasks.append(supervised("registry", served.follower.run, metrics))
            if served.discovery is not None:
                came = functools.partial(self._start_worker, served)
                went = functools.partial(self._stop_worker, served)
                look = functools.partial(served.discovery.run, came, went)
                self._tasks.append(supervised("discovery", look, metrics))
        self._tell_readiness()

    async def stop(self) -> None:
        """Stops all of it, the workers' processes included."""
        tasks = [*self._tasks, *self._workers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start_worker(self, served: Served, worker: Worker) -> None:
        """Keeps ``worker`` running, and gives it batches."""
        lane = served.scheduler.add_worker(worker)

        def changed() -> None:
            lane.wake.set()
            self._tell_readiness()

        worker.on_change = changed
        metrics = self.pipeline.metrics
        self._workers[worker] = supervised("worker", worker.keep_running, metrics)

    def _stop_worker(self, served: Served, worker: Worker) -> None:
        """Forgets a worker that is gone for good; what it had runs in another."""
        served.remember_dimension(worker)
        served.scheduler.remove_worker(worker)
        worker.on_change = self._tell_readiness
        self._workers.pop(worker).cancel()
        self.pipeline.metrics.forget_worker(served.model.name, worker.name)

    def _tell_readiness(self) -> None:
        """Tells health which models are ready, shows it in a metric, and logs each change."""
        self.healthy.set(self.pipeline.ready, self.pipeline.started)
        for name, served in self.pipeline.served.items():
            reason = served.residency.unready
            self.pipeline.metrics.model_ready.labels(name).set(not reason)
            if self._told.get(name) != reason:
                self._told[name] = reason
                if reason:
                    log.warning("model %s is not ready: %s", name, reason)
                else:
                    log.info("model %s is ready", name)
