"""The cold start of the function's bundle, unpacked on this machine: imports and first clients, beside bare boto3.

Both sides read the same trimmed data of boto3.
"""

import subprocess
from pathlib import Path

from ..infra.bundles import host_bundle
from .cold_start import AIM, ENVIRONMENT, ISOLATED, WHOLE, Starts, beside, keeping, others, shares, take_turns
from .figures import Figure, Scale, compared

GROUP = "10. cold start of the bundle for AWS"
BOTO3 = "bare boto3, same clients"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def measure(folder: Path, scale: Scale) -> list[Figure]:
    """The figures. No bytecode is in a bundle, and Lambda has nowhere to keep any."""
    bundle, kept = host_bundle(), keeping(folder / "bytecode")
    ours, boto3, items = (Starts(bundle, "cold_child", kind, CREDENTIALS) for kind in ("ours", "boto3", "items"))
    ours_kept, boto3_kept = (Starts(bundle, "cold_child", kind, CREDENTIALS, kept) for kind in ("ours", "boto3"))
    take_turns((ours, boto3, items, ours_kept, boto3_kept), scale.cold_rounds)
    python = [python_itself() for _ in range(scale.cold_rounds)]
    return [
        *beside(GROUP, "as shipped", (ours, boto3), BOTO3, AIM),
        *beside(GROUP, "with bytecode", (ours_kept, boto3_kept), BOTO3),
        compared(GROUP, "of it: Python itself, before", python, "ms", ours.whole(1), WHOLE),
        *shares(GROUP, items),
        *others(GROUP, ours, boto3, "with boto3"),
    ]


def python_itself() -> float:
    """What Python takes before anything is imported."""
    code = "import time; print(time.process_time() * 1e3)"
    done = subprocess.run((*ISOLATED, "-c", code), check=True, capture_output=True, env=ENVIRONMENT, cwd="/")
    return float(done.stdout)
