"""daena-kms: rotate encryption keys on schedule, in AWS, Azure, GCP or locally, and lose nothing.

Words, one for each thing:

- *key*: a named logical key, such as `daena-encryption-key`
- *version*: one generation of a key; it has a *number* (ours, the same in every store, never reused) and a
  *version id* (the store's own)
- *material*: the secret bytes of a version
- *state*: `staged`, `active` (encrypts and decrypts; exactly one), `decrypt-only`, `disabled`, `destroyed`; and the
  mark *compromised*
- *key store*: what holds material
- *manifest*: the append-only, hash-chained, signed log of what happened to a key; *ledger*: where manifests lie
- *claim*: the right to change a key, held until its *lease* ends
- *rotation*: claim, stage, verify, promote, record, retire, for one key, under one *rotation id*
- *fleet run*: rotations for every key that is due, one *outcome* per key

Names are resolved when they are used, so that `import daena_kms` costs next to nothing and a function imports only
what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .app import open_service
    from .errors import (
        ConfigurationError,
        ConflictError,
        DeniedError,
        ExistsError,
        IntegrityError,
        KmsError,
        NotFoundError,
        RefusedError,
        ThrottledError,
        UnavailableError,
    )
    from .fleet import Limits, Order, Report
    from .material import KeyMaterial
    from .model import Outcome, State, Status, VersionRecord
    from .policy import KeyPolicy, RotationPolicy, Tick, parse_policy
    from .service import KeyStatus, Service
    from .settings import Settings, read_settings

_HOMES = {
    "app": ("open_service",),
    "errors": (
        "ConfigurationError",
        "ConflictError",
        "DeniedError",
        "ExistsError",
        "IntegrityError",
        "KmsError",
        "NotFoundError",
        "RefusedError",
        "ThrottledError",
        "UnavailableError",
    ),
    "fleet": ("Limits", "Order", "Report"),
    "material": ("KeyMaterial",),
    "model": ("Outcome", "State", "Status", "VersionRecord"),
    "policy": ("KeyPolicy", "RotationPolicy", "Tick", "parse_policy"),
    "service": ("KeyStatus", "Service"),
    "settings": ("Settings", "read_settings"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022  # in the order of the table above
    "open_service",
    "ConfigurationError",
    "ConflictError",
    "DeniedError",
    "ExistsError",
    "IntegrityError",
    "KmsError",
    "NotFoundError",
    "RefusedError",
    "ThrottledError",
    "UnavailableError",
    "Limits",
    "Order",
    "Report",
    "KeyMaterial",
    "Outcome",
    "State",
    "Status",
    "VersionRecord",
    "KeyPolicy",
    "RotationPolicy",
    "Tick",
    "parse_policy",
    "KeyStatus",
    "Service",
    "Settings",
    "read_settings",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'daena_kms' has no attribute {name!r}")
    return getattr(import_module(f"daena_kms.{_HOME_OF[name]}"), name)
