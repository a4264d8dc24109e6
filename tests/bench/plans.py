"""The time of a plan that finds nothing due, which is what most ticks are."""

import hmac
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from msgspec.structs import replace

from daena_kms.fleet import Order
from daena_kms.model import Status
from daena_kms.policy import KeyPolicy, RotationPolicy
from daena_kms.window import Window

from .figures import Figure, Scale, compared
from .scene import POLICY, Scene, names

GROUP = "2. plan, nothing due"
FLOOR = "the rows read, one HMAC-SHA-256 each"
WINDOWED = replace(POLICY, window=Window.parse("02:00-06:00"), jitter_days=7)


class Rounds:
    """Plans of one vault under one policy, beside their floor."""

    def __init__(self, scene: Scene, count: int, label: str, policy: KeyPolicy) -> None:
        self.scene = scene
        self.count = count
        self.label = label
        self._policy = RotationPolicy(dict.fromkeys(names(count), policy), "bench")
        self.ours: list[float] = []
        self.floor: list[float] = []

    def take(self) -> None:
        """One round, in seconds for the whole plan."""
        self.ours.append(_plan(self.scene, self._policy))
        self.floor.append(_floor(self.scene))

    def figures(self) -> list[Figure]:
        """In total and per key."""
        per_key = 1e6 / self.count
        name, aim = f"{self.count:,} keys{self.label}", "<= 1,000 ms" if self.count >= 10_000 else ""
        ours, floor = [s * 1e3 for s in self.ours], [s * 1e3 for s in self.floor]
        total = compared(GROUP, name, ours, "ms", floor, FLOOR, aim)
        ours, floor = [s * per_key for s in self.ours], [s * per_key for s in self.floor]
        return [total, compared(GROUP, f"{name}: per key", ours, "us/key", floor, FLOOR)]


def measure(folder: Path, scale: Scale) -> list[Figure]:
    """The figures, and how flat the time per key is."""
    plain = [Rounds(_filled(folder, count), count, "", POLICY) for count in scale.planned_keys]
    largest = plain[-1]
    every = [*plain, Rounds(largest.scene, largest.count, ", window and jitter", WINDOWED)]
    for _ in range(scale.plan_rounds):
        for each in every:
            each.take()
    for each in plain:
        each.scene.close()
    return [figure for each in every for figure in each.figures()] + [_flatness(plain[0], largest)]


def home(folder: Path, count: int) -> Path:
    """Where the vault of that many keys lies, and stays for the figures after this one."""
    return folder / f"plan-{count}"


def _filled(folder: Path, count: int) -> Scene:
    """A vault in which every key was made by the real protocol a moment ago."""
    scene = Scene(home(folder, count), dict.fromkeys(names(count), POLICY))
    scene.create()
    return scene


def _flatness(small: Rounds, large: Rounds) -> Figure:
    name, peer_is = f"per key, {large.count:,} keys", f"per key, {small.count:,} keys"
    ours = [seconds / large.count * 1e6 for seconds in large.ours]
    peer = [seconds / small.count * 1e6 for seconds in small.ours]
    return compared(GROUP, name, ours, "us/key", peer, peer_is, "flat: ratio ~ 1")


def _plan(scene: Scene, policy: RotationPolicy) -> float:
    fleet, now = scene.fleet(policy=policy), scene.clock()
    started = time.perf_counter()
    planned = fleet.plan(Order(), now)
    seconds = time.perf_counter() - started
    wrong = [item for item in planned if item.verdict.status is not Status.NOT_DUE]
    if wrong:
        raise SystemExit(f"nothing due expected, got {wrong[0].verdict}")
    return seconds


def _floor(scene: Scene) -> float:
    """The least that a plan which believes no stored head unchecked can do: read the rows, one MAC over each head."""
    with closing(sqlite3.connect(scene.store.address)) as db:
        started = time.perf_counter()
        rows = db.execute("SELECT name, ledger, active, anchor FROM keys ORDER BY name").fetchall()
        for row in rows:
            hmac.digest(b"k" * 32, row[3] or b"", "sha256")
        return time.perf_counter() - started
