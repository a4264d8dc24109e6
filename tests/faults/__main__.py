"""What takes longer than a minute: the protocol explored in full. `python -m tests.faults [--json FILE] [--seed N]`

Of the explorations, each takes one kind of store with more that may go wrong than the tests allow for: looks that are
not atomic, looks that miss what was staged last, checks that fail, a third run. Then keys move, at size, by processes
that are killed (`tests.faults.moves`, which also runs by itself). Prints a line for each campaign and case and, for a
violation, its story; writes the same as JSON, of the moves to moves.json beside FILE. The exit status is 1 if there was
any.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.model.engine import Setting
from tests.model.exploration import Explorer, Result

from . import moves

CAMPAIGNS = [
    Setting(fenced=fenced, **wrong)
    for fenced in (True, False)
    for wrong in (
        {"split_looks": True},
        {"split_looks": True, "failing_checks": True},
        {"split_looks": True, "failing_checks": True, "creation": True},
        {"split_looks": True, "failing_checks": True, "same_request": True},
        {"stale_looks": True, "same_request": True},
        {"stale_looks": True, "failing_checks": True, "creation": True},
        {"same_request": True, "runs": 3},
    )
]
_LINE = "{:<9} {:<46} {:>11} {:>10} {:>8}"


def main(arguments: list[str] | None = None) -> int:
    """Run every campaign; 1 if one found a violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Explore the protocol in full.")
    parser.add_argument("--json", type=Path, default=Path("build/faults.json"), metavar="FILE")
    parser.add_argument("--seed", type=int, metavar="N", help="of the moves; else a new one, which is printed")
    options = parser.parse_args(arguments)
    say(_LINE.format("kind", "variant", "states", "violations", "seconds"))
    results = [explore(setting) for setting in CAMPAIGNS]
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps([record(result) for result in results], indent=2) + "\n")
    seed = [] if options.seed is None else ["--seed", str(options.seed)]
    moved = moves.main([*seed, "--json", str(options.json.with_name("moves.json"))])
    return int(moved or any(result.problem for result in results))


def explore(setting: Setting) -> Result:
    """One campaign, told as soon as it is through."""
    result = Explorer(setting).explore()
    violations = int(bool(result.problem))
    say(_LINE.format(setting.kind, setting.variant, f"{result.states:,}", violations, f"{result.seconds:.1f}"))
    if result.problem:
        tell([f"VIOLATION: {result.problem}", *result.story])
    return result


def record(result: Result) -> dict[str, object]:
    """A result as JSON holds it. An exploration ends at the first violation it finds."""
    return {
        "kind": result.setting.kind,
        "variant": result.setting.variant,
        "states": result.states,
        "violations": int(bool(result.problem)),
        "seconds": round(result.seconds, 1),
        "steps": sorted(result.steps),
        "problem": result.problem,
        "story": list(result.story),
    }


def tell(lines: Iterable[str]) -> None:
    """A story, indented."""
    for line in lines:
        say(f"    {line}")


def say(line: str) -> None:
    """One line of output, at once: a campaign may take minutes."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
