"""The cold start of the function app's bundle, unpacked on this machine, beside bare imports of the same SDK parts.

What the host and Microsoft's worker take before is the same for both and is in neither.
"""

from ..infra.bundles import azure_host_bundle
from .cold_start import AIM, Starts, beside, others, shares, take_turns
from .figures import Figure, Scale

GROUP = "14. cold start of the bundle for Azure"
BARE = "bare imports and clients"


def measure(scale: Scale) -> list[Figure]:
    """The figures."""
    bundle = azure_host_bundle()
    ours, bare, items = (Starts(bundle, "azure_cold_child", kind, {}) for kind in ("ours", "bare", "items"))
    take_turns((ours, bare, items), scale.cold_rounds)
    return [
        *beside(GROUP, "as shipped", (ours, bare), BARE, AIM),
        *shares(GROUP, items),
        *others(GROUP, ours, bare, "bare"),
    ]
