"""One cold start: `python cold_child.py BUNDLE ours|items|boto3` prints what each step took, in milliseconds, as JSON.

Run by its path: only the standard library and the bundle can be imported.
"""

import sys
import time
from importlib import import_module

REGION = "eu-west-1"
SERVICES = ("secretsmanager", "kms", "s3", "sts")
# In this order each pays for what nobody before it has imported: behind botocore, which boto3 needs too, only for more.
ITEMS = {
    "import botocore": ("botocore.session",),
    "import msgspec": ("msgspec",),
    "import cryptography": (
        "cryptography.hazmat.primitives.asymmetric.ed25519",
        "cryptography.hazmat.primitives.ciphers.aead",
    ),
    "import aws_lambda_powertools": ("aws_lambda_powertools",),
    "import daena_kms and handler": ("handler", "daena_kms.stores.aws", "daena_kms.stores.aws_ledger"),
}


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


def start_ours(steps: Steps) -> None:
    """As Lambda does: the handler first, then what its first event asks for."""
    import_module("handler")
    steps.end("import handler")
    for module in ITEMS["import daena_kms and handler"]:
        import_module(module)
    steps.end("import the store")
    make_clients(steps)


def start_items(steps: Steps) -> None:
    """The same, told apart by package."""
    for name, modules in ITEMS.items():
        for module in modules:
            import_module(module)
        steps.end(name)
    make_clients(steps)


def make_clients(steps: Steps) -> None:
    """The clients of a function's first event."""
    settings = import_module("daena_kms.settings").read_settings({"AWS_REGION": REGION})
    aws = import_module("daena_kms.app").Clouds(settings).aws
    steps.end("session")
    for service in SERVICES:
        aws.client(service)
        steps.end(f"client {service}")


def start_boto3(steps: Steps) -> None:
    """What anybody pays who uses AWS's SDK as its documentation shows it."""
    boto3 = import_module("boto3")
    steps.end("import boto3")
    boto3.setup_default_session(region_name=REGION)
    steps.end("session")
    for service in SERVICES:
        boto3.client(service)
        steps.end(f"client {service}")


if __name__ == "__main__":
    sys.path.append(sys.argv[1])
    steps = Steps()
    {"ours": start_ours, "items": start_items, "boto3": start_boto3}[sys.argv[2]](steps)
    sys.stdout.write(import_module("json").dumps(steps.taken))
