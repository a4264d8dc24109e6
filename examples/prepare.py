"""Make the two keys of the example that exist before its first run: one too old, one young. Does nothing twice.

In life such keys come from an application: `daena-key-rotate import KEY --from FILE --created DATE`, or, as here,
through the library.
"""

import secrets
import sys
from datetime import UTC, datetime, timedelta

from daena_kms import ExistsError, KeyMaterial, KmsError, open_service, read_settings

KEYS = (("billing-archive-key", 32, 312), ("session-signing-key", 48, 10))


def main() -> None:
    """Import each key that is not there, with its true age."""
    opened = open_service(read_settings(), trigger="example", makes=True)
    for warning in opened.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for key, length, age_days in KEYS:
        created = datetime.now(UTC) - timedelta(days=age_days)
        try:
            opened.service.import_key(key, KeyMaterial(secrets.token_bytes(length)), created=created)
        except ExistsError:
            continue
        print(f"imported {key}, in use since {created:%Y-%m-%d}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except KmsError as problem:
        sys.exit(f"error: {problem.message}\nhint: {problem.hint}")
