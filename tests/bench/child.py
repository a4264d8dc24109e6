"""One process of the memory figures: `python -m tests.bench.child rotate|plan|imports HOME` prints its ru_maxrss."""

import resource
import sys
from pathlib import Path

from daena_kms.app import open_service
from daena_kms.fleet import Order
from daena_kms.settings import read_settings
from daena_kms.stores import local  # noqa: F401  # what `imports` counts


def main(what: str, home: Path) -> None:
    """Do the work as the command does it, then print the peak, in the system's own unit."""
    if what != "imports":
        settings = read_settings({"DAENA_HOME": str(home), "DAENA_POLICY": str(home / "daena-kms.toml")})
        service = open_service(settings, trigger="bench").service
        if what == "rotate":
            counts = service.rotate(Order()).counts()
            if set(counts) != {"rotated"}:
                raise SystemExit(f"every key rotated expected, got {counts}")
        else:
            service.plan(Order())
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
