"""Rotations per second through the real fleet, beside the floor of the same durable writes."""

import time
from collections.abc import Callable
from pathlib import Path

from .durable import Floor, Sample, Writes
from .figures import Figure, Scale, compared
from .scene import POLICY, Scene, names

GROUP = "1. rotations, every key due, real vault and manifests"
CONCURRENCY = (4, 1)
SAMPLED = 20
FLOOR = "the same durable writes alone"


class Rounds:
    """What the rounds at one concurrency measured, ours and the floor's, in turn."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.ours: list[float] = []
        self.floor: list[float] = []
        self.ours_cpu: list[float] = []
        self.floor_cpu: list[float] = []

    def take(self, scene: Scene, floor: Floor, keys: int) -> None:
        """One round: rates in rotations per second, processor time in milliseconds per rotation.

        Who goes first changes from round to round: what the disk still has to do disturbs the second less.
        """
        sides = [
            (lambda: scene.rotate(self.concurrency), self.ours, self.ours_cpu),
            (lambda: floor.run(self.concurrency), self.floor, self.floor_cpu),
        ]
        for work, rates, processor in sides if len(self.ours) % 2 else reversed(sides):
            seconds, cpu = _with_cpu(work)
            rates.append(keys / seconds)
            processor.append(cpu / keys * 1e3)

    def figures(self, keys: int, loop: list[float]) -> list[Figure]:
        """The figures of this concurrency; `loop` is what the floor reached one write after the other."""
        many = f"{keys:,} keys, concurrency {self.concurrency}"
        figures = [
            compared(GROUP, many, self.ours, "rotations/s", loop, f"{FLOOR}, in a loop", "ratio >= 0.5"),
            compared(GROUP, f"{many}: processor", self.ours_cpu, "ms/rotation", self.floor_cpu, FLOOR),
        ]
        if self.concurrency > 1:
            threads = f"{FLOOR}, {self.concurrency} at once"
            figures.insert(1, compared(GROUP, many, self.ours, "rotations/s", self.floor, threads))
        return figures


def measure(folder: Path, scale: Scale) -> tuple[list[Figure], Writes]:
    """The figures, and what a rotation writes."""
    keys = names(scale.rotated_keys)
    scene = Scene(folder / "rotations", dict.fromkeys(keys, POLICY))
    scene.create()
    writes = count_writes(scene, keys[:SAMPLED])
    floor = Floor(folder / "floor", keys, writes)
    scene.rotate(max(CONCURRENCY))  # warm both
    floor.run(max(CONCURRENCY))
    rounds = [Rounds(concurrency) for concurrency in CONCURRENCY]
    for _ in range(scale.rotation_rounds):
        for each in rounds:
            each.take(scene, floor, len(keys))
    floor.close()
    scene.close()
    loop = next(each.floor for each in rounds if each.concurrency == 1)
    return [figure for each in rounds for figure in each.figures(len(keys), loop)], writes


def count_writes(scene: Scene, keys: list[str]) -> Writes:
    """The durable writes of a rotation, from rotating these keys for real."""
    sample = Sample(scene.store, len(keys))
    with sample.taken():
        scene.rotate(1, *keys)
    return sample.writes


def _with_cpu(work: Callable[[], float]) -> tuple[float, float]:
    before = time.process_time()
    seconds = work()
    return seconds, time.process_time() - before
