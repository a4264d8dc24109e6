"""Google's doubles as a process: prints, as JSON, the environment of a process that works with them."""

import json
import sys
import threading

from ..support.strict_gcs import StrictGcs
from ..support.strict_secrets import StrictSecrets

if __name__ == "__main__":
    secrets = StrictSecrets()
    storage = StrictGcs(tokens=secrets.tokens)  # for where there is no fake-gcs-server
    sys.stdout.write(json.dumps(storage.environment() | secrets.environment()) + "\n")
    sys.stdout.flush()
    threading.Event().wait()
