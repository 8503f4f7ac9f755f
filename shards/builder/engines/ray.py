"""Workers on a Ray cluster: one for each GPU, or for each node where no GPU is used. Needs the extra `ray`.

Every node must see the videos and the output folder under the same paths, and have this package installed. What a lost
worker had in its hands goes back to the others at once, and its place is filled as soon as the cluster has room again.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shards.builder.config import TeacherDescription, TeacherFacts
from shards.builder.engines.processes import MakeTeacher, portable_error
from shards.builder.engines.ray_round import Place, Round
from shards.builder.journal import WORK_FOLDER, ShardReport
from shards.builder.plan import Plan, differences, publish_plan
from shards.builder.worker import Deliver, ShardWorker
from shards.format.errors import ShardError
from shards.progress import Progress

START_SECONDS = 900.0  # for all workers to load their teachers

logger = logging.getLogger(__name__)


class _Worker:
    """A ShardWorker and its teacher, in a process of the cluster."""

    def __init__(self, make_teacher: MakeTeacher, device: str, num_decoders: int, deliver: Deliver | None) -> None:
        self._device, self._num_decoders, self._deliver = device, num_decoders, deliver
        self._teacher = make_teacher(device)

    def facts(self) -> TeacherDescription | None:
        return None if self._teacher is None else TeacherDescription.of(self._teacher)

    def build(self, plan: Plan, out: Path, queue: Any, turn: int) -> Iterator[ShardReport | Exception]:
        try:
            num_decoders = plan.config.workers or self._num_decoders
            if self._deliver is not None:
                (out / WORK_FOLDER).mkdir(parents=True, exist_ok=True)  # scratch of this node
                publish_plan(plan, out)
            worker = ShardWorker(plan, out, self._teacher, num_decoders, deliver=self._deliver)
            yield from worker.build_all(_taken(queue, turn))
        except Exception as error:
            yield portable_error(error, self._device)


def _taken(queue: Any, turn: int) -> Iterator[int]:
    import ray

    while (shard := ray.get(queue.take.remote(turn))) is not None:
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
        self._actors: dict[Any, Place] = {}
        self._facts: TeacherDescription | None = None
        self._facts_known = False
        self._num_spare = 0

    def __enter__(self) -> Self:
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
        self._actors = {}
        if not self._connected_before:
            ray.shutdown()

    def facts(self) -> TeacherFacts | None:
        """Return what the first worker's teacher says about itself."""
        self._start_missing()
        return self._facts

    def run(
        self, plan: Plan, out: Path, shards: Sequence[int], progress: Progress
    ) -> Generator[ShardReport, None, None]:
        """Build shards; one that was lost with its worker twice is missing from what comes back."""
        import ray

        self._start_missing()
        work = Round(plan, out, shards)
        self._num_spare = len(self._actors)
        try:
            work.hand_out(self._actors)
            while work.streams:
                (ready, *_), _ = ray.wait([*work.streams, *work.coming], num_returns=1)
                if ready in work.coming:
                    self._admit_late(ready, *work.coming.pop(ready))
                elif (report := self._next_report(work, ready)) is not None:
                    progress(len(plan.shard_items(report.shard)), len(report.failures))
                    yield report
                work.hand_out(self._actors)
        finally:  # stopped in the middle: what is still at work must not go on
            for actor in work.stop():
                del self._actors[actor]

    def _next_report(self, work: Round, stream: Any) -> ShardReport | None:
        """Return what has come, or None where a worker is done or lost; a lost one gets a substitute.

        Substitutes wait until the cluster has room, such as on a node that comes back. There are no more of them than
        there were workers, so a fault that kills all does not go on for ever.
        """
        import ray

        try:
            report: ShardReport | Exception = ray.get(next(stream))
        except StopIteration:
            del work.streams[stream]
            return None
        except (ray.exceptions.RayActorError, ray.exceptions.OwnerDiedError, ray.exceptions.ObjectLostError):
            place = self._actors.pop(work.lose(stream))
            if self._num_spare:
                self._num_spare -= 1
                actor = self._start(place)
                work.coming[actor.facts.remote()] = actor, place
            return None
        if isinstance(report, Exception):
            raise report
        work.finished.add(report.shard)
        return report

    def _start_missing(self) -> None:
        """Start a worker in each place the cluster has, and drop those that do not come up.

        Where some are left they go on alone: a node that has just died still counts as alive for a while, and a worker
        meant for it would be waited for in vain.
        """
        import ray

        if self._actors:
            return
        new = [(self._start(place), place) for place in self._places()]
        pending = {actor.facts.remote(): (actor, place) for actor, place in new}
        ready, late = ray.wait(list(pending), num_returns=len(pending), timeout=START_SECONDS) if pending else ([], [])
        for reference in ready:
            self._admit(reference, *pending[reference])
        for reference in late:
            ray.kill(pending[reference][0])
        if not self._actors:
            raise ShardError(f"no worker came up on the cluster in {START_SECONDS:.0f} s; look at `ray status`")

    def _start(self, place: Place) -> Any:
        """Ask for a worker; it comes up when the cluster has room for it."""
        import ray

        options = {"num_cpus": place.num_cpus, "num_gpus": place.num_gpus, "max_restarts": 0}
        actor_class = ray.remote(_Worker).options(scheduling_strategy="SPREAD", **options)
        return actor_class.remote(self._make_teacher, self._device, max(1, int(place.num_cpus)), self._deliver)

    def _admit(self, facts: Any, actor: Any, place: Place) -> None:
        """Take in a worker that has come up; leave out one whose node has died meanwhile.

        Raises:
            ShardError: its teacher cannot be made, or differs from that of the others.
        """
        import ray

        try:
            self._check_facts(ray.get(facts))
        except ray.exceptions.RayActorError as error:
            if (cause := getattr(error, "cause", None)) is not None or "creation" in str(error):
                raise ShardError(f"a worker could not start: {cause or str(error).strip().splitlines()[-1]}") from None
        else:
            self._actors[actor] = place

    def _admit_late(self, facts: Any, actor: Any, place: Place) -> None:
        """Take in the substitute of a lost worker, if it fits: a build that is running does not stop for it."""
        import ray

        try:
            self._admit(facts, actor, place)
        except ShardError as error:
            logger.warning("the build goes on without a new worker: %s", error)
            ray.kill(actor)

    def _check_facts(self, facts: TeacherDescription | None) -> None:
        if not self._facts_known:
            self._facts, self._facts_known = facts, True
        elif self._facts and facts and (found := differences(self._facts.provenance, facts.provenance)):
            raise ShardError(
                f"the teachers of two workers differ: {'; '.join(found)}. Use nodes with GPUs of one model, so that a "
                "shard has the same bytes whoever builds it"
            )

    def _places(self) -> list[Place]:
        """Return a place for each worker that the living nodes have room for."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if self._device == "cpu" or not any(node.get("GPU") for node in nodes):
            return [Place(node["CPU"], 0) for node in nodes if node.get("CPU")]
        return [
            Place(node.get("CPU", 0) // node["GPU"], 1)
            for node in nodes
            if node.get("GPU")
            for _ in range(int(node["GPU"]))
        ]
