"""A Google Cloud project on loopback, as one program: Secret Manager, Cloud Storage with a bucket, and a machine in it.

`python -m tests.support.strict_gcp` starts it: the address of Secret Manager on the first line, then how to point
clients, a function and gcloud at all of it. The strict doubles of both services know the tokens of one issuer, which
the metadata server gives out for the function's account: two programs, one for each, would not know each other's.
"""

import sys
import threading

from .gcp_world import FUNCTION, Project


def main() -> None:
    """Serve until told to stop."""
    project = Project(strict_storage=True)
    variables = {
        **project.secrets.gcloud_environment(FUNCTION),
        **project.environment(),
        "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA": "true",
    }
    lines = [project.secrets.address, *(f"export {name}={value}" for name, value in variables.items())]
    sys.stdout.write("\n".join([*lines, "# ready"]) + "\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
