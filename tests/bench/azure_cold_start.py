"""The cold start of the function app's bundle, unpacked on this machine, beside bare imports of the same SDK parts.

Both sides are new processes that can import nothing but the standard library and the same bundle. What the host and
Microsoft's worker take before is the same for both and is in neither.
"""

from pathlib import Path
from statistics import median

from ..infra.bundles import azure_host_bundle
from .aws_cold_start import Starts
from .figures import Figure, Scale, compared

GROUP = "14. cold start of the bundle for Azure"
BARE = "bare imports and clients"
CHILD = str(Path(__file__).with_name("azure_cold_child.py"))


def measure(scale: Scale) -> list[Figure]:
    """The figures: processor time, which a busy machine disturbs least, and the clock's."""
    ours, bare, items = (Starts(azure_host_bundle(), kind, child=CHILD) for kind in ("ours", "bare", "items"))
    every = (ours, bare, items)
    for each in every:
        each.take(counted=False)  # into the disk's cache
    for number in range(scale.cold_rounds):
        for each in every if number % 2 else reversed(every):
            each.take()
    shares = [name for name in items.steps[0] if name.startswith("import ")]
    return [
        _beside("as shipped", ours.whole(1), bare.whole(1), "<= 100 ms above"),
        _beside("as shipped, by the clock", ours.whole(0), bare.whole(0)),
        *(compared(GROUP, f"of it: {n}", items.step(n), "ms", items.whole(1), "the whole, as shipped") for n in shares),
        compared(GROUP, "of it: clients", ours.step("clients"), "ms", bare.step("clients"), "bare"),
    ]


def _beside(name: str, ours: list[float], bare: list[float], aim: str = "") -> Figure:
    beyond = median(mine - theirs for mine, theirs in zip(ours, bare, strict=True))
    return compared(GROUP, f"{name}: {beyond:+.0f} ms", ours, "ms", bare, BARE, aim)
