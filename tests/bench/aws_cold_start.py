"""The cold start of the function's bundle, unpacked on this machine: imports and first clients, beside bare boto3.

Both sides are new processes that can import nothing but the standard library and the same bundle, so boto3 reads the
same trimmed data. Steps are timed inside; what Python itself takes to start is the same for both and stands apart.
"""

import subprocess
import sys
from pathlib import Path
from statistics import median

import msgspec

from ..infra.bundles import host_bundle
from .figures import Figure, Scale, compared

GROUP = "10. cold start of the bundle for AWS"
BOTO3 = "bare boto3, same clients"
AIM = "<= 100 ms above"
ISOLATED = (sys.executable, "-I", "-S", "-B")
CHILD = str(Path(__file__).with_name("cold_child.py"))
# -I: no PYTHON* variable counts. No bytecode is in a bundle, and Lambda has nowhere to keep any.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
    "HOME": "/nonexistent",
}

Steps = dict[str, tuple[float, float]]
"""Milliseconds by the clock and of the processor, by step."""


class Starts:
    """Cold starts of one kind."""

    def __init__(self, bundle: Path, kind: str, *python: str, child: str = CHILD) -> None:
        self._command = (*(python or ISOLATED), child, str(bundle), kind)
        self.steps: list[Steps] = []

    def take(self, *, counted: bool = True) -> None:
        """One more process."""
        done = subprocess.run(self._command, check=True, capture_output=True, env=ENVIRONMENT, cwd="/")
        if counted:
            self.steps.append(msgspec.json.decode(done.stdout, type=Steps))

    def whole(self, which: int) -> list[float]:
        """The sums of all steps: 0 by the clock, 1 of the processor."""
        return [sum(step[which] for step in each.values()) for each in self.steps]

    def step(self, name: str) -> list[float]:
        """The processor's milliseconds of one step."""
        return [each[name][1] for each in self.steps]


def measure(folder: Path, scale: Scale) -> list[Figure]:
    """The figures. Processor time is what a busy machine disturbs least; alone on one, the clock says the same."""
    bundle = host_bundle()
    kept = (sys.executable, "-I", "-S", "-X", f"pycache_prefix={folder / 'bytecode'}")
    ours, boto3, items = (Starts(bundle, kind) for kind in ("ours", "boto3", "items"))
    ours_kept, boto3_kept = (Starts(bundle, kind, *kept) for kind in ("ours", "boto3"))
    every = (ours, boto3, items, ours_kept, boto3_kept)
    for each in every:
        each.take(counted=False)  # into the disk's cache; leaves bytecode behind where there is to be any
    python = []
    for number in range(scale.cold_rounds):
        python.append(python_itself())
        for each in every if number % 2 else reversed(every):
            each.take()
    return [
        _beside("as shipped", ours.whole(1), boto3.whole(1), AIM),
        _beside("as shipped, by the clock", ours.whole(0), boto3.whole(0)),
        _beside("with bytecode", ours_kept.whole(1), boto3_kept.whole(1)),
        _beside("with bytecode, by the clock", ours_kept.whole(0), boto3_kept.whole(0)),
        compared(GROUP, "of it: Python itself, before", python, "ms", ours.whole(1), "the whole, as shipped"),
        *_shares(items),
        *_clients(ours, boto3),
    ]


def _beside(name: str, ours: list[float], boto3: list[float], aim: str = "") -> Figure:
    beyond = median(mine - theirs for mine, theirs in zip(ours, boto3, strict=True))
    return compared(GROUP, f"{name}: {beyond:+.0f} ms", ours, "ms", boto3, BOTO3, aim)


def _shares(items: Starts) -> list[Figure]:
    imports = [name for name in items.steps[0] if name.startswith("import ")]
    return [
        compared(GROUP, f"of it: {name}", items.step(name), "ms", items.whole(1), "the whole, as shipped")
        for name in imports
    ]


def _clients(ours: Starts, boto3: Starts) -> list[Figure]:
    made = [name for name in boto3.steps[0] if not name.startswith("import ")]
    return [compared(GROUP, f"of it: {name}", ours.step(name), "ms", boto3.step(name), "with boto3") for name in made]


def python_itself() -> float:
    """What Python takes before anything is imported."""
    code = "import time; print(time.process_time() * 1e3)"
    done = subprocess.run((*ISOLATED, "-c", code), check=True, capture_output=True, env=ENVIRONMENT, cwd="/")
    return float(done.stdout)
