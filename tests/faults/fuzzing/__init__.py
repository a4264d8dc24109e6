"""Fuzzing: everything that comes from outside, made up by hypothesis from the unit's seed.

`entry_points` (requests and events), `tokens`, `policies` (and settings), `manifests`, `backups`, `replies` (of
stores). Each example is a case and a fault. Whatever comes of it: an error of ours, in bounded words, in time, with
nothing changed by what was refused, and one bad key stops no other. No traceback reaches a user.
"""

from collections.abc import Callable

from ..units import Room, Unit
from . import backups, entry_points, manifests, policies, replies, tokens

CAMPAIGN = "fuzz"
Part = tuple[Callable[[Room, int], None], int]
"""What is tried, and so many examples of it."""


def _unit(store: str, name: str, *parts: Part) -> Unit:
    def work(room: Room) -> None:
        for tries, most in parts:
            tries(room, most)

    return Unit(CAMPAIGN, store, name, work)


def _several(count: int, store: str, name: str, *parts: Part) -> list[Unit]:
    return [_unit(store, f"{name}-{number}", *parts) for number in range(1, count + 1)]


def units(*, short: bool) -> list[Unit]:
    """Some 20,000 examples; or, `short`, a few hundred in some seconds, none of which needs a cloud's double."""
    return _short() if short else _full()


def _short() -> list[Unit]:
    return [
        _unit("local", "policies", (policies.policies, 60), (policies.settings, 40), (policies.settings_files, 20),
              (policies.windows, 20), (policies.command, 6)),
        _unit("memory", "manifests", (manifests.bytes_of_entries, 12), (manifests.signed, 12), (manifests.forged, 15)),
        _unit("memory", "backups", (backups.documents, 30), (backups.forged, 8), (backups.sealed_files, 30)),
        _unit("memory", "replies", (replies.in_memory, 12)),
        _unit("", "requests", (entry_points.parsed, 60), (entry_points.events, 40), (tokens.google, 30)),
    ]  # fmt: skip


def _full() -> list[Unit]:
    return [
        *_several(2, "local", "policies", (policies.policies, 1500), (policies.settings, 600),
                  (policies.settings_files, 300), (policies.windows, 300)),
        _unit("local", "settings", (policies.opened, 400)),
        _unit("local", "policies-command", (policies.command, 400)),
        _unit("memory", "manifests-bytes", (manifests.bytes_of_entries, 500)),
        _unit("memory", "manifests-signed", (manifests.signed, 500)),
        *_several(4, "memory", "manifests-forged", (manifests.forged, 400)),
        _unit("local", "manifests-command", (manifests.command, 200)),
        _unit("memory", "backups", (backups.documents, 1500), (backups.sealed_files, 1000)),
        *_several(2, "memory", "backups-forged", (backups.forged, 400)),
        _unit("local", "backups-passphrase", (backups.under_passphrase, 12)),
        _unit("local", "backups-command", (backups.command, 120)),
        *_several(2, "memory", "replies", (replies.in_memory, 500)),
        *_several(2, "aws", "replies", (replies.aws, 200)),
        *_several(2, "azure", "replies", (replies.azure, 120)),
        *_several(2, "azure", "values", (replies.azure_values, 120)),
        *_several(2, "gcp", "replies", (replies.gcp, 200)),
        _unit("", "requests", (entry_points.parsed, 3000), (entry_points.events, 1500)),
        *_several(2, "gcp", "function", (entry_points.gcp, 600)),
        *_several(2, "azure", "function", (entry_points.azure, 300)),
        *_several(2, "aws", "function", (entry_points.aws, 300)),
        _unit("azure", "tokens", (tokens.vault, 400), (tokens.library, 100)),
        _unit("gcp", "tokens", (tokens.google, 600)),
    ]  # fmt: skip
