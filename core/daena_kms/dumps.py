"""No core dumps: what a process holds in memory is not to land on a disk when it dies."""

import sys
from contextlib import suppress

_SET_DUMPABLE = 4  # linux/prctl.h: PR_SET_DUMPABLE


def forbid() -> None:
    """For this process. Where the system knows no core dumps, or no such limit, nothing is done.

    The limit alone does not keep the kernel from handing a dump to a program (core(5): "Piping core dumps to a
    program"). A process that is not dumpable is left out, and nobody but root can attach to it (prctl(2)).
    """
    with suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415  # not everywhere

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):
            import ctypes  # noqa: PLC0415  # nobody else needs it

            ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)
