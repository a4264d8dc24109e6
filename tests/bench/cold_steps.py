"""One cold start: what every cloud's child shares. It is imported before the clock starts, and needs nothing."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module

Items = Mapping[str, tuple[str, ...]]


class Steps:
    """Clock and processor time of each step since the one before."""

    def __init__(self) -> None:
        self.taken: dict[str, tuple[float, float]] = {}
        self._last = (time.perf_counter(), time.process_time())

    def end(self, name: str) -> None:
        """A step ends here."""
        now = (time.perf_counter(), time.process_time())
        self.taken[name] = ((now[0] - self._last[0]) * 1e3, (now[1] - self._last[1]) * 1e3)
        self._last = now

    def imported(self, items: Items) -> None:
        """Import what each step names."""
        for name, modules in items.items():
            for module in modules:
                import_module(module)
            self.end(name)


Start = Callable[[Steps], None]


def kinds(entry: str, sdk: Items, ours: Items, our_clients: Start, bare: Start) -> dict[str, Start]:
    """`ours`: the entry first, then what its first tick asks for, as a platform does. `items`: package by package."""

    def start_ours(steps: Steps) -> None:
        steps.imported({f"import {entry}": (entry,), "import the store": list(ours.values())[-1]})
        our_clients(steps)

    def start_items(steps: Steps) -> None:
        steps.imported({**sdk, **ours})
        our_clients(steps)

    return {"ours": start_ours, "items": start_items, "bare": bare}


def run(kinds: Mapping[str, Start], bundle: str, kind: str) -> None:
    """Print, as JSON, what each step took. From here on, only the standard library and the bundle can be imported."""
    sys.path[:0] = [bundle, f"{bundle}/.python_packages/lib/site-packages"]
    steps = Steps()
    kinds[kind](steps)
    sys.stdout.write(json.dumps(steps.taken))
