"""The cold start of the function's bundle, unpacked on this machine, beside bare imports of the same SDK parts.

Both make the same clients, with credentials of a metadata server, and list the project's secrets, on a double. What
the framework's server takes before is the same for both and is in neither.

Google's buildpack compiles the packages that it installs (GoogleCloudPlatform/buildpacks, pkg/python/python.go:
`compileall --invalidation-mode unchecked-hash`). Of ours it leaves bytecode by time (cmd/python/functions_framework),
which images, whose files have no times, make invalid: so ours is compiled at each start.
"""

from pathlib import Path

from ..infra.bundles import gcp_host_bundle
from .cold_start import AIM, ISOLATED, Starts, beside, forget, keeping, others, shares, take_turns
from .figures import Figure, Scale
from .gcp_scene import environment

GROUP = "19. cold start of the bundle for Google Cloud"
BARE = "bare imports and clients"
OURS = ("daena_kms", "main.")


def measure(folder: Path, scale: Scale) -> list[Figure]:
    """The figures."""
    bundle, kept = gcp_host_bundle(), folder / "gcp-bytecode"
    with environment() as shown:

        def starts(kind: str, *python: str) -> Starts:
            return Starts(bundle, "gcp_cold_child", kind, shown, python)

        for kind in ("ours", "bare", "items"):
            starts(kind, *keeping(kept)).take()
        forget(kept, bundle, OURS)
        built = (*ISOLATED, "-X", f"pycache_prefix={kept}")
        ours, bare, items = (starts(kind, *built) for kind in ("ours", "bare", "items"))
        ours_plain, bare_plain = (starts(kind, *ISOLATED) for kind in ("ours", "bare"))
        take_turns((ours, bare, items, ours_plain, bare_plain), scale.cold_rounds)
    return [
        *beside(GROUP, "as Google builds it", (ours, bare), BARE, AIM),
        *beside(GROUP, "without any bytecode", (ours_plain, bare_plain), BARE),
        *shares(GROUP, items),
        *others(GROUP, ours, bare, "bare"),
    ]
