"""Who builds what on a Ray cluster while a round of building lasts, and what becomes of the shards of a lost worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from shards.builder.plan import Plan


class _Queue:
    """The shards to build, in the cluster: workers take from it, and what a lost one held goes back, once.

    A shard that is lost again waits for the next round: it may be what kills the workers.
    """

    def __init__(self, shards: Sequence[int]) -> None:
        self._shards = deque(shards)
        self._hands: dict[int, list[int]] = {}  # by turn: the shards that one worker took in one go
        self._lost_turns: set[int] = set()
        self._lost_shards: set[int] = set()

    def take(self, turn: int) -> int | None:
        if not self._shards or turn in self._lost_turns:
            return None
        self._hands.setdefault(turn, []).append(self._shards.popleft())
        return self._hands[turn][-1]

    def put_back(self, turn: int, finished: set[int]) -> None:
        self._lost_turns.add(turn)
        hand = [shard for shard in self._hands.pop(turn, []) if shard not in finished | self._lost_shards]
        self._lost_shards.update(hand)
        self._shards.extendleft(reversed(hand))

    def num_left(self) -> int:
        return len(self._shards)


@dataclass(frozen=True)
class Place:
    """What the cluster has for one worker."""

    num_cpus: float
    num_gpus: float


class Round:
    """The workers at work, and those that come to take the place of lost ones.

    Attributes:
        streams: the turn and the worker, by the stream of reports; a turn is all that a worker takes in one go.
        coming: workers and their places, by the reference to their facts.
        finished: shards that were reported.
    """

    def __init__(self, plan: Plan, out: Path, shards: Sequence[int]) -> None:
        """Start the queue, on the driver's node, so that it lives as long as the driver."""
        import ray

        self._plan, self._out, self._turns = plan, out.absolute(), count()
        self._queue = _here(ray.remote(_Queue)).remote(shards)
        self.streams: dict[Any, tuple[int, Any]] = {}
        self.coming: dict[Any, tuple[Any, Place]] = {}
        self.finished: set[int] = set()

    def hand_out(self, workers: Iterable[Any]) -> None:
        """Set those of the workers to work that are idle, as far as there are shards."""
        import ray

        busy = {worker for _, worker in self.streams.values()}
        idle = [worker for worker in workers if worker not in busy]
        for worker in idle[: ray.get(self._queue.num_left.remote()) if idle else 0]:
            turn = next(self._turns)
            build = worker.build.options(num_returns="streaming")
            self.streams[build.remote(self._plan, self._out, self._queue, turn)] = turn, worker

    def lose(self, stream: Any) -> Any:
        """Give what a lost worker held back to the queue, and return the worker."""
        import ray

        turn, worker = self.streams.pop(stream)
        ray.get(self._queue.put_back.remote(turn, self.finished))
        return worker

    def stop(self) -> list[Any]:
        """End the queue, workers that are on the way and those at work, and return the latter."""
        import ray

        ray.kill(self._queue)
        at_work = [worker for _, worker in self.streams.values()]
        for worker in (*at_work, *(worker for worker, _ in self.coming.values())):
            ray.kill(worker)
        return at_work


def _here(remote_class: Any) -> Any:
    """Pin an actor to the driver's node, so that it lives as long as the driver."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    return remote_class.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
