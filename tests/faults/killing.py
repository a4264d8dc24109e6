"""Running the command in processes of its own, killing it at random, and running it again until it is done."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from .scene import Scene, require

LEASE = timedelta(minutes=16)  # a minute more than DAENA_LEASE_MINUTES says
FIRST_GUESS_SECONDS, LOCAL_GUESS_SECONDS = 12.0, 1.0
TRIES = 3
EARLY, EARLY_SECONDS = 0.15, 2.5  # this share of runs is killed so soon after its start
STEP = b"daena_kms.rotation: step"
TIMEOUT_SECONDS = 600


class Ran(NamedTuple):
    """What one run came to."""

    status: int
    seconds: float
    """Since its first logged step, or since it was started if it logs none."""
    out: Path
    err: Path

    @property
    def killed(self) -> bool:
        """Whether it was in the middle of something."""
        return self.status == -signal.SIGKILL

    @property
    def told(self) -> str:
        """The end of what it said."""
        return (self.out.read_text()[-2000:] + self.err.read_text()[-2000:]).strip()


class Runner:
    """Runs the command, and counts runs and kills. What they say is kept in files of the scene."""

    def __init__(self, scene: Scene, chance: random.Random) -> None:
        self.scene, self.chance = scene, chance
        self.runs = self.kills = 0
        self.typical: dict[str, float] = {}
        """How long each kind of work takes when nobody kills it, as far as is known."""

    def run(
        self,
        arguments: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        *,
        seconds: float | None = None,
        logs: bool = True,
        die_at: int = 0,
    ) -> Ran:
        """One run, killed so many seconds after it first logged (`logs`) or was started, if it is not done by then.

        `die_at` has it kill itself instead, when it reads its clock for that time.
        """
        self.runs += 1
        said = self.scene.folder / "said" / f"{self.runs:04d}"
        out, err = said.with_suffix(".out"), said.with_suffix(".err")
        minutes = str(int(self.scene.ahead.total_seconds() // 60))
        command = [sys.executable, "-m", "tests.faults.moving_child", minutes, str(die_at), "-v", *map(str, arguments)]
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                command,
                cwd=self.scene.folder,
                env=self.scene.child(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=to_out,
                stderr=to_err,
            )
            try:
                took = _wait(process, err, seconds, logs=logs)
            finally:
                process.kill()
                process.wait()
        ran = Ran(process.returncode, took, out, err)
        if ran.killed:
            self.kills += 1
            self.scene.ahead += LEASE
        return ran

    def to_its_end(
        self,
        kind: str,
        arguments: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        *,
        kills: int,
        between: Callable[[], object] = lambda: None,
    ) -> Ran:
        """Run it again and again, killed at most so often at random moments, until it has succeeded.

        `kind` is what its length depends on; `between` is done after each death.
        Raises Violation if what is left alone does not succeed.
        """
        worked, left = 0.0, kills
        for _ in range(kills + TRIES):
            early = bool(left) and self.chance.random() < EARLY  # before it has changed a key, or opened a store
            moment = self.chance.uniform(0, EARLY_SECONDS) if early else self._moment(kind, kills)
            ran = self.run(arguments, environment, seconds=moment if left > 0 else None, logs=not early)
            worked += 0.0 if early else ran.seconds
            if ran.status == 0:
                self.typical[kind] = worked
                return ran
            require(ran.killed, f"status {ran.status} of {arguments}: {ran.told}")
            left -= 1
            between()
        raise AssertionError("the last try succeeds or raises")

    def _moment(self, kind: str, kills: int) -> float:
        """Anywhere in the work, so that most of so many runs do not get to its end."""
        guess = LOCAL_GUESS_SECONDS if kind.endswith("local") else FIRST_GUESS_SECONDS
        return self.chance.uniform(0, 2 * self.typical.get(kind, guess) / (kills + 2))


def _wait(process: "subprocess.Popen[bytes]", err: Path, seconds: float | None, *, logs: bool) -> float:
    """Wait for its end, or kill it at its moment; how long it worked."""
    begun = time.monotonic()
    if logs:
        while process.poll() is None and STEP not in err.read_bytes()[:4000] and time.monotonic() - begun < 60:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
        begun = time.monotonic()
    try:
        process.wait(TIMEOUT_SECONDS if seconds is None else seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        require(seconds is not None, f"a run that was left alone did not end in {TIMEOUT_SECONDS} s")
    return time.monotonic() - begun
