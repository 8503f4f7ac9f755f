"""Workers on a Ray cluster: one for each GPU, or for each node where no GPU is used. Needs the extra `ray`.

Every node must see the videos and the output folder under the same paths, and have this package installed. A node that
dies takes the shards in its hands with it; they are built again by those that are left.
"""

from __future__ import annotations

import importlib.util
import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from shards.build.config import TeacherDescription, TeacherFacts
from shards.build.plan import Plan, differences, publish_plan
from shards.build.processes import MakeTeacher, portable_error
from shards.build.report import WORK_FOLDER, ShardReport
from shards.build.worker import Deliver, Progress, ShardWorker
from shards.errors import ShardError

START_SECONDS = 900.0  # for all workers to load their teachers


class _Queue:
    """The shards to build, in the cluster: workers take from it."""

    def __init__(self, shards: Sequence[int]) -> None:
        self._shards = deque(shards)

    def take(self) -> int | None:
        return self._shards.popleft() if self._shards else None


class _Worker:
    """A ShardWorker and its teacher, in a process of the cluster."""

    def __init__(self, make_teacher: MakeTeacher, device: str, num_decoders: int, deliver: Deliver | None) -> None:
        self._device, self._num_decoders, self._deliver = device, num_decoders, deliver
        self._teacher = make_teacher(device)

    def facts(self) -> TeacherDescription | None:
        return None if self._teacher is None else TeacherDescription.of(self._teacher)

    def build(self, plan: Plan, out: Path, queue: Any) -> Iterator[ShardReport | Exception]:
        try:
            num_decoders = plan.config.workers or self._num_decoders
            if self._deliver is not None:
                (out / WORK_FOLDER).mkdir(parents=True, exist_ok=True)  # scratch of this node
                publish_plan(plan, out)
            worker = ShardWorker(plan, out, self._teacher, num_decoders, deliver=self._deliver)
            yield from worker.build_all(_taken(queue))
        except Exception as error:
            yield portable_error(error, self._device)


def _taken(queue: Any) -> Iterator[int]:
    import ray

    while (shard := ray.get(queue.take.remote())) is not None:
        yield shard


class RayCluster:
    """An engine of Ray actors; a context manager. Connects to the cluster of RAY_ADDRESS, or starts one here."""

    def __init__(self, make_teacher: MakeTeacher, device: str = "auto", deliver: Deliver | None = None) -> None:
        """Take what makes a teacher on a device, "cpu" to leave GPUs alone, and what takes finished shards.

        Raises:
            ValueError: Ray is not installed.
        """
        if importlib.util.find_spec("ray") is None:
            raise ValueError("--engine ray needs Ray: pip install 'reelshard[ray]'")
        self._make_teacher, self._device, self._deliver = make_teacher, device, deliver
        self._actors: list[Any] = []
        self._facts: TeacherDescription | None = None
        self._facts_known = False

    def __enter__(self) -> RayCluster:
        import ray

        self._connected_before = ray.is_initialized()
        if not self._connected_before:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        if not self._connected_before:
            ray.shutdown()

    def facts(self) -> TeacherFacts | None:
        """Return what the first worker's teacher says about itself."""
        self._start_missing()
        return self._facts

    def run(
        self, plan: Plan, out: Path, shards: Sequence[int], progress: Progress
    ) -> Generator[ShardReport, None, None]:
        """Build shards; those in the hands of a worker that is lost are missing from what comes back."""
        import ray

        self._start_missing()
        queue = _here(ray.remote(_Queue)).remote(shards)
        streams = {
            actor.build.options(num_returns="streaming").remote(plan, out.absolute(), queue): actor
            for actor in self._actors
        }
        try:
            while streams:
                (stream, *_), _ = ray.wait(list(streams), num_returns=1)
                try:
                    report = ray.get(next(stream))
                except StopIteration:
                    del streams[stream]
                except (ray.exceptions.RayActorError, ray.exceptions.OwnerDiedError, ray.exceptions.ObjectLostError):
                    self._actors.remove(streams.pop(stream))
                else:
                    if isinstance(report, Exception):
                        raise report
                    progress(report.num_samples + len(report.failures), len(report.failures))
                    yield report
        finally:  # stopped in the middle: what is still at work must not go on
            ray.kill(queue)
            for actor in streams.values():
                ray.kill(actor)
                self._actors.remove(actor)

    def _start_missing(self) -> None:
        """Start a worker in each place the cluster has, and drop those that do not come up.

        Where some are left they go on alone: a node that has just died still counts as alive for a while, and a worker
        meant for it would be waited for in vain.
        """
        import ray

        if self._actors:
            return
        new = [
            ray.remote(_Worker)
            .options(num_cpus=cpus, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD")
            .remote(self._make_teacher, self._device, max(1, int(cpus)), self._deliver)
            for cpus, gpus in self._places()
        ]
        pending = {actor.facts.remote(): actor for actor in new}
        ready, late = ray.wait(list(pending), num_returns=len(pending), timeout=START_SECONDS) if pending else ([], [])
        for reference in ready:
            try:
                self._check_facts(ray.get(reference))
            except ray.exceptions.RayActorError as error:
                if (cause := getattr(error, "cause", None)) is not None or "creation" in str(error):
                    raise ShardError(
                        f"a worker could not start: {cause or str(error).strip().splitlines()[-1]}"
                    ) from None
            else:
                self._actors.append(pending[reference])
        for reference in late:
            ray.kill(pending[reference])
        if not self._actors:
            raise ShardError(f"no worker came up on the cluster in {START_SECONDS:.0f} s; look at `ray status`")

    def _check_facts(self, facts: TeacherDescription | None) -> None:
        if not self._facts_known:
            self._facts, self._facts_known = facts, True
        elif self._facts and facts and (found := differences(self._facts.provenance, facts.provenance)):
            raise ShardError(
                f"the teachers of two workers differ: {'; '.join(found)}. Use nodes with GPUs of one model, so that a "
                "shard has the same bytes whoever builds it"
            )

    def _places(self) -> list[tuple[float, float]]:
        """Return CPUs and GPUs of each worker that the living nodes have room for."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if self._device == "cpu" or not any(node.get("GPU") for node in nodes):
            return [(node["CPU"], 0) for node in nodes if node.get("CPU")]
        return [
            (node.get("CPU", 0) // node["GPU"], 1) for node in nodes if node.get("GPU") for _ in range(int(node["GPU"]))
        ]


def _here(remote_class: Any) -> Any:
    """Pin an actor to the driver's node, so that it lives as long as the driver."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    return remote_class.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
