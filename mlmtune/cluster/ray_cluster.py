"""Tasks of a Ray cluster, through datatrove's executor."""

import logging
import socket
from dataclasses import dataclass, field
from threading import Thread

import ray
from datatrove.executor.ray import RayPipelineExecutor
from loguru import logger

from mlmtune.cluster.engine import Cluster, Jobs
from mlmtune.cluster.stage import Stage, Task
from mlmtune.config import EngineConfig
from mlmtune.errors import ConfigError, NetworkError, first_line

CONNECTION_SECONDS = 10


@dataclass(frozen=True)
class RayCluster(Cluster):
    """A Ray cluster that is running."""

    config: EngineConfig
    can_leave = False

    def submit(self, stage: Stage, num_tasks: int) -> Jobs:
        """Start the tasks.

        Raises:
            NetworkError: The cluster does not answer.
            ConfigError: No machine has room for a task.
        """
        logger.disable("datatrove")
        self._connect()
        executor = RayPipelineExecutor(
            pipeline=[Task(stage.folder)],
            tasks=num_tasks,
            workers=self.config.workers or num_tasks,
            mem_per_cpu_gb=self.config.memory_gb,
            logging_dir=str(stage.engine_folder),
        )
        jobs = RayJobs(executor)
        jobs.thread.start()
        return jobs

    def left(self, stage: Stage) -> Jobs | None:
        """Return nothing, because tasks of Ray end with the command that started them."""
        return None

    def _connect(self) -> None:
        address = self.config.address
        if not ray.is_initialized():
            try:
                if address != "auto":  # because Ray would try for many minutes
                    host, _, port = address.rpartition(":")
                    socket.create_connection((host, int(port)), CONNECTION_SECONDS).close()
                ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
            except (ConnectionError, ValueError, RuntimeError, OSError) as error:
                raise NetworkError(
                    f"engine.address: {address}: no Ray cluster answers ({first_line(error)}); "
                    "start one (`ray start --head`), or give HOST:PORT of its head"
                ) from error
        needed = self.config.memory_gb << 30
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        if not any(n.get("CPU", 0) >= 1 and n.get("memory", 0) >= needed for n in nodes):
            most = max((node.get("memory", 0) for node in nodes), default=0)
            raise ConfigError(
                f"engine.memory_gb: no machine of the Ray cluster has a processor and "
                f"{self.config.memory_gb} GB for a task; the most is {most / 2**30:.1f} GB"
            )


@dataclass
class RayJobs(Jobs):
    """Tasks that a thread of this process waits for."""

    executor: RayPipelineExecutor
    thread: Thread = field(init=False)
    name = "run by Ray"

    def __post_init__(self) -> None:
        self.thread = Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.executor.run()
        except Exception:  # the results show which tasks are missing
            logger.exception("a task of Ray")

    def why_waiting(self) -> str | None:
        """Return None once the thread has ended."""
        return "" if self.thread.is_alive() else None

    def cancel(self) -> None:
        """Leave the cluster, which ends the tasks."""
        ray.shutdown()
