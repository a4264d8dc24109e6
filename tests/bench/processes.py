"""Whole processes: what an import and the command cost beyond a bare interpreter, in time and in memory."""

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from statistics import median

from daena_kms.model import utc_now

from .figures import Figure, Scale, compared
from .plans import home
from .scene import POLICY, Scene, names

STARTING = "5. processes"
MEMORY = "6. peak memory"
ROOT = Path(__file__).parents[2]
BARE = "python -c pass"

_COMMANDS = {
    "import daena_kms": (sys.executable, "-c", "import daena_kms"),
    "import rotation and the local store": (
        sys.executable,
        "-c",
        "import daena_kms.rotation, daena_kms.stores.local",
    ),
    "daena-key-rotate --help": (str(Path(sys.executable).with_name("daena-key-rotate")), "--help"),
}


def start(scale: Scale) -> list[Figure]:
    """Each command beside a bare interpreter, in turns."""
    figures = []
    for name, command in _COMMANDS.items():
        ours, bare = [], []
        _seconds(command)  # leaves compiled files behind
        for _ in range(scale.process_rounds):
            bare.append(_seconds((sys.executable, "-c", "pass")) * 1e3)
            ours.append(_seconds(command) * 1e3)
        beyond = median(mine - theirs for mine, theirs in zip(ours, bare, strict=True))
        aim = "< 60 ms beyond" if name == "import daena_kms" else ""
        figures.append(compared(STARTING, f"{name}: {beyond:+.1f} ms", ours, "ms", bare, BARE, aim))
    return figures


def _seconds(command: tuple[str, ...]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - started


def memory(folder: Path, scale: Scale) -> list[Figure]:
    """The peak of a fleet run and of a plan, each as a process opens them from settings; after `plans.measure`."""
    rotated, planned = names(scale.rotated_keys), names(max(scale.planned_keys))
    due = utc_now() - timedelta(days=POLICY.rotate_after_days + 10)
    run, plan = folder / "memory-run", home(folder, len(planned))
    scene = Scene(run, dict.fromkeys(rotated, POLICY), due)
    scene.create()
    scene.close()
    for place, keys in ((run, rotated), (plan, planned)):
        (place / "daena-kms.toml").write_text("".join(f"[keys.{key}]\n" for key in keys))
    wanted = {
        f"fleet run, {len(rotated):,} keys rotated": ("rotate", run),
        f"plan, {len(planned):,} keys": ("plan", plan),
        "imports alone": ("imports", plan),
    }
    return [_peak(name, what, place, scale.memory_rounds) for name, (what, place) in wanted.items()]


def _peak(name: str, what: str, place: Path, rounds: int) -> Figure:
    # A fleet run rotates what is due once: only its first round counts, so it has one.
    ours, bare = [], []
    for _ in range(1 if what == "rotate" else rounds):
        ours.append(_peak_mib("-m", "tests.bench.child", what, str(place)))
        bare.append(_peak_mib("-c", "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"))
    return compared(MEMORY, name, ours, "MiB", bare, "a bare interpreter")


def _peak_mib(*arguments: str) -> float:
    """What a process prints as its ru_maxrss, in MiB.

    A shell stands between: Linux counts the memory of whoever called exec, and the bench itself is large.
    """
    script = '"$0" "$@"; exit $?'
    command = ("/bin/sh", "-c", script, sys.executable, *arguments)
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=_environment())
    return int(done.stdout) / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("DAENA_")}
