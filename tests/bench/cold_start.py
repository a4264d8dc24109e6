"""Cold starts of a bundle, unpacked on this machine, beside bare imports of the same SDK, whatever the cloud.

All sides are new processes that can import nothing but the standard library and the same bundle. Steps are timed
inside; what Python itself takes to start is the same for all and in none.
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import msgspec

from .figures import Figure, compared
from .processes import ROOT

ISOLATED = (sys.executable, "-I", "-S", "-B")
AIM = "<= 100 ms above"
WHOLE = "the whole"
# The child itself is imported from here, and nothing else is.
CHILD = (
    f"import sys; sys.path.append({str(ROOT)!r}); from importlib import import_module;"
    "start = import_module(sys.argv[1]).start; sys.path.pop(); start(*sys.argv[2:])"
)
# -I: no PYTHON* variable counts.
ENVIRONMENT = {"HOME": "/nonexistent"}

Steps = dict[str, tuple[float, float]]
"""Milliseconds by the clock and of the processor, by step."""


class Starts:
    """Cold starts of one kind: `child` is a module of this package that has `start(bundle, kind)`."""

    def __init__(
        self, bundle: Path, child: str, kind: str, environment: Mapping[str, str], python: Sequence[str] = ISOLATED
    ) -> None:
        self._command = (*python, "-c", CHILD, f"{__package__}.{child}", str(bundle), kind)
        self._environment = {**ENVIRONMENT, **environment}
        self.steps: list[Steps] = []

    def take(self, *, counted: bool = True) -> None:
        """One more process."""
        done = subprocess.run(self._command, check=True, stdout=subprocess.PIPE, env=self._environment, cwd="/")
        if counted:
            self.steps.append(msgspec.json.decode(done.stdout, type=Steps))

    def whole(self, which: int) -> list[float]:
        """The sums of all steps: 0 by the clock, 1 of the processor."""
        return [sum(step[which] for step in each.values()) for each in self.steps]

    def step(self, name: str) -> list[float]:
        """The processor's milliseconds of one step."""
        return [each[name][1] for each in self.steps]


def take_turns(starts: Sequence[Starts], rounds: int) -> None:
    """Every kind in each round; who goes first changes."""
    for each in starts:
        each.take(counted=False)  # into the disk's cache; leaves bytecode behind where there is to be any
    for number in range(rounds):
        for each in starts if number % 2 else reversed(starts):
            each.take()


def keeping(folder: Path) -> tuple[str, ...]:
    """Python that keeps bytecode in that folder."""
    return (*ISOLATED[:-1], "-X", f"pycache_prefix={folder}")


def forget(folder: Path, bundle: Path, ours: Sequence[str]) -> None:
    """Remove the bytecode of what is called so in the bundle."""
    for name in ours:
        for path in Path(f"{folder}{bundle}").glob(f"{name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def beside(group: str, name: str, sides: tuple[Starts, Starts], bare_is: str, aim: str = "") -> list[Figure]:
    """The whole of both: processor time, which a busy machine disturbs least, and the clock's."""
    return [
        _beside(group, name, sides, 1, bare_is, aim),
        _beside(group, f"{name}, by the clock", sides, 0, bare_is),
    ]


def _beside(group: str, name: str, sides: tuple[Starts, Starts], which: int, bare_is: str, aim: str = "") -> Figure:
    ours, bare = (side.whole(which) for side in sides)
    beyond = median(mine - theirs for mine, theirs in zip(ours, bare, strict=True))
    return compared(group, f"{name}: {beyond:+.0f} ms", ours, "ms", bare, bare_is, aim)


def shares(group: str, items: Starts) -> list[Figure]:
    """What each import takes of the whole. Each pays for what nobody before it has imported."""
    imports = [name for name in items.steps[0] if name.startswith("import ")]
    return [compared(group, f"of it: {n}", items.step(n), "ms", items.whole(1), WHOLE) for n in imports]


def others(group: str, ours: Starts, bare: Starts, bare_is: str) -> list[Figure]:
    """What each step takes that is no import."""
    made = [name for name in bare.steps[0] if not name.startswith("import ")]
    return [compared(group, f"of it: {name}", ours.step(name), "ms", bare.step(name), bare_is) for name in made]
