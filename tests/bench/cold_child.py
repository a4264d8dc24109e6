"""One cold start on AWS, told apart by step."""

from importlib import import_module

from .cold_steps import Steps, run

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
    steps.imported(ITEMS)
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


def start(bundle: str, kind: str) -> None:
    """One start of that kind."""
    run({"ours": start_ours, "items": start_items, "boto3": start_boto3}, bundle, kind)
