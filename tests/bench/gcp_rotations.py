"""Rotations on Google's doubles: calls of each, their price, how many a second beside the same calls bare, the window.

A tick's own calls are told apart: one listing for 1,000 keys, and a look at each key, whether somebody has added a
version. A listing does not show that.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median
from typing import Any
from unittest import mock

from msgspec.structs import replace

from daena_kms import app
from daena_kms.fleet import Order
from daena_kms.model import Status, StoredVersion
from daena_kms.rotation import Run
from daena_kms.settings import read_settings
from daena_kms.stores.gcp import GcpStore

from .clouds import CONCURRENCY, Calls, dollars, per_key, rate_figures, rates, text
from .figures import Figure, Scale, compared
from .gcp_scene import GcpScene, Project, project
from .scene import POLICY, names

CALLS, PRICE = "15. calls to Google Cloud per key", "16. price of these calls and of the secrets"
RATES = "17. rotations on Google's doubles, every key due"
WINDOW = "18. from the last look to the add, on Google's double"
PEER, SAME, REPLY = "its four writes and a read, bare", "the same calls, bare", "until the add's reply"
LISTING = "secrets.ListSecrets"
LOOK = Calls({"secrets.AccessSecretVersion": 1})
BARE = Calls(
    {
        "secrets.AddSecretVersion": 2,
        "secrets.AccessSecretVersion": 1,
        "secrets.UpdateSecret": 1,
        "secrets.DestroySecretVersion": 1,
    }
)
# The first two are the guide's ("Cost Considerations"), the others general knowledge of November 2026, of Cloud Storage
# in one region, class Standard. Not looked up live. The guide's "per secret" is the same 0.06 as its "per version":
# versions are what is charged. What else Secret Manager does, management, is free.
DOLLARS = {
    "version and month": 0.06,
    "secrets.AccessSecretVersion": 0.03 / 10_000,
    "storage.insert": 0.05 / 10_000,  # class A
    "storage.list": 0.05 / 10_000,
    "storage.get": 0.004 / 10_000,  # class B
    "storage.get metadata": 0.004 / 10_000,
}
PRICES = (
    "list prices as of November 2026: a version that is not destroyed 0.06 USD a month and location (automatic"
    " replication counts as one; staged copies are destroyed), 0.03 per 10,000 reads of a version, other calls to"
    " Secret Manager nothing; Cloud Storage 0.05 per 10,000 writes and listings, 0.004 per 10,000 reads. Not in it:"
    " free allowances, Cloud Run, Cloud Scheduler, Cloud Logging"
)
HOURS_A_MONTH = 730
DAYS_A_MONTH = HOURS_A_MONTH / 24
KEPT = 2


def measure(scale: Scale) -> tuple[list[Figure], list[str]]:
    """The figures, and what has to be said about them."""
    with project() as made:
        counted, notes = _counted(made, names(scale.gcp_counted_keys))
        figures = [*_calls(counted), *_prices(counted)]
        for concurrency in CONCURRENCY:
            figures += _rates(made, concurrency, counted["rotation"] + LOOK, scale)
        window, told = _window(made, scale)
    return figures + window, [*notes, told]


def _counted(made: Project, keys: list[str]) -> tuple[dict[str, Calls], list[str]]:
    """The calls for each key, without those of the tick itself, which are the same whatever is due."""
    scene, few = GcpScene(made, "count-", keys), GcpScene(made, "few-", keys, replace(POLICY, keep_versions=KEPT))
    forced = Order(tuple(keys), force=True, request="bench")
    first = _per_key(made, keys, scene.create)  # what is not there yet is not looked at
    idle = _per_key(made, keys, lambda: scene.tick(1, Status.NOT_DUE))
    if idle != LOOK:
        raise SystemExit(f"one look at each key expected, got {idle}")
    scene.rotate()
    counted = {"rotation": _per_key(made, keys, scene.rotate) - LOOK, "first creation": first}
    scene.forget()
    counted["rotation, by a new process"] = _per_key(made, keys, scene.rotate) - LOOK
    counted["rotation, forced, of version 5"] = _per_key(made, keys, lambda: scene.rotate(order=forced)) - LOOK
    few.create()
    few.rotate()
    few.rotate()
    counted["rotation, of version 4, and a retirement"] = _per_key(made, keys, few.rotate) - LOOK
    counted["a tick that finds nothing due"] = idle
    counted["opening, once a cold start"] = _opening(made, scene)
    with made.counting() as seen:
        scene.tick(1, Status.NOT_DUE)
    told = [f"Calls of {name}: {text(calls)}." for name, calls in {PEER: BARE, **counted}.items()]
    listing = f"Every tick: {seen[LISTING]} {LISTING} (a page for 1,000 keys), and one look at each key that is there."
    return counted, [*told, f"{listing} They are in no rotation above.", f"Prices on Google Cloud: {PRICES}."]


def _opening(made: Project, scene: GcpScene) -> Calls:
    """What a new process sends before it can do anything."""
    read = read_settings(
        {
            "GCP_PROJECT_ID": made.gcp.project,
            "GCP_SECRET_MANAGER_ENDPOINT": made.endpoint,
            "DAENA_CLOUD_KMS_PROVIDER": "gcp",
            "DAENA_KEY_PREFIX": scene.prefix,
            "DAENA_MANIFEST_URL": scene.ledger.address,
        }
    )
    with made.counting() as seen:
        app.connect(read, trigger="bench", writes=False, makes=True)
    return seen


def _calls(counted: dict[str, Calls]) -> list[Figure]:
    return [
        compared(CALLS, name, [calls.total()], "calls", [BARE.total()], PEER, "<= 11" if name == "rotation" else "")
        for name, calls in counted.items()
    ]


def _prices(counted: dict[str, Calls]) -> list[Figure]:
    """Of a rotation; and of 1,000 keys in a month, beside their first versions, which cost the most."""
    ours, bare = dollars(counted["rotation"], DOLLARS), dollars(BARE, DOLLARS)
    version = DOLLARS["version and month"]
    often = DAYS_A_MONTH / POLICY.rotate_after_days
    month = {
        f"rotated every {POLICY.rotate_after_days} days": often * ours,
        "hourly ticks": HOURS_A_MONTH * dollars(LOOK, DOLLARS),
    }
    month |= {"in all, of keys with one version": sum(month.values()) + version, "each further version kept": version}
    unit, each_one = "USD/1,000 keys/month", [version * 1e3]
    return [
        compared(PRICE, "rotation", [ours * 1e6], "USD/million", [bare * 1e6], PEER),
        *(compared(PRICE, name, [each * 1e3], unit, each_one, "a version of each") for name, each in month.items()),
    ]


class Peer:
    """As many calls of each kind, in a loop, by the store's own clients: no rules, no evidence, no replies checked."""

    def __init__(self, made: Project, scene: GcpScene, keys: Sequence[str], calls: Calls) -> None:
        self._secrets: Any = scene.calls._client
        self._parent = f"projects/{scene.calls.project}"
        self._bucket: Any = made.storage.bucket(made.bucket())
        self._calls = calls
        self._numbers = itertools.count(1)
        self._names = [f"{self._parent}/secrets/peer-{self._bucket.name}-{key}" for key in keys]
        for name in self._names:
            empty: dict[str, object] = {"automatic": {}}
            asked = {"parent": self._parent, "secret_id": name.rpartition("/")[2], "secret": {"replication": empty}}
            self._secrets.create_secret(request=asked)

    def rotate(self, concurrency: int = 1) -> None:
        """Every key, and the listing of a tick."""
        list(self._secrets.list_secrets(request={"parent": self._parent, "filter": "labels.none=none"}))
        with ThreadPoolExecutor(concurrency) as pool:
            list(pool.map(self._one, self._names))

    def _one(self, name: str) -> None:
        number, version, blob = next(self._numbers), "", self._bucket.blob("")
        for call in sorted(self._calls.elements(), key=_ORDER.index):
            match call:
                case "secrets.AddSecretVersion":
                    asked = {"parent": name, "payload": {"data": b"x" * 32}}
                    version = self._secrets.add_secret_version(request=asked).name
                case "secrets.AccessSecretVersion":
                    self._secrets.access_secret_version(request={"name": version})
                case "secrets.UpdateSecret":
                    changed = {"name": name, "annotations": {"rotated": str(number)}}
                    self._secrets.update_secret(request={"secret": changed, "update_mask": {"paths": ["annotations"]}})
                case "secrets.DestroySecretVersion":
                    self._secrets.destroy_secret_version(request={"name": version})
                case "storage.insert":
                    blob = self._bucket.blob(f"{number}-{next(self._numbers)}.json")
                    blob.upload_from_string(b"x" * 900, if_generation_match=0)
                case "storage.get":
                    blob.download_as_bytes()


_ORDER = (
    "secrets.AddSecretVersion",
    "secrets.AccessSecretVersion",
    "secrets.UpdateSecret",
    "secrets.DestroySecretVersion",
    "storage.insert",
    "storage.get",
)


def _rates(made: Project, concurrency: int, calls: Calls, scale: Scale) -> list[Figure]:
    keys = names(scale.gcp_keys)
    scene = GcpScene(made, f"at-{concurrency}-", keys)
    peer = Peer(made, scene, keys, calls)
    scene.create(max(CONCURRENCY))
    if (bare := _per_key(made, keys, peer.rotate)) != calls:
        raise SystemExit(f"as many calls bare as ours expected, {calls}, got {bare}")
    ours, theirs = (lambda: scene.rotate(concurrency)), (lambda: peer.rotate(concurrency))
    sides = rates(made, ours, theirs, len(keys), scale.gcp_rounds)
    return rate_figures(RATES, concurrency, sides, SAME)


@contextmanager
def _windows() -> Iterator[tuple[list[float], list[float]]]:
    """Milliseconds from the end of each last look until the add is carried out, and until its reply."""
    carried, replied, looked = list[float](), list[float](), [0.0]
    look, promote = Run.last_look, GcpStore.promote

    def looking(run: Run, *args: Any) -> None:
        look(run, *args)
        looked[0] = time.time()

    def promoting(store: GcpStore, *args: Any) -> StoredVersion:
        added = promote(store, *args)
        if added.created_at is not None:  # by the double, whose clock is this machine's
            carried.append((added.created_at.timestamp() - looked[0]) * 1e3)
            replied.append((time.time() - looked[0]) * 1e3)
        return added

    with mock.patch.object(Run, "last_look", looking), mock.patch.object(GcpStore, "promote", promoting):
        yield carried, replied


def _window(made: Project, scale: Scale) -> tuple[list[Figure], str]:
    keys = names(scale.gcp_keys)
    scene = GcpScene(made, "window-", keys)
    scene.create()
    with _windows() as (carried, replied):
        for _ in range(scale.gcp_window_rounds):
            scene.rotate()
    figures = [
        compared(WINDOW, "in the middle", [median(carried)], "ms", [median(replied)], REPLY),
        compared(WINDOW, "at most", [max(carried)], "ms", [max(replied)], REPLY),
    ]
    return figures, f"The window on Google's double, in {len(carried)} rotations: until the add is carried out."


def _per_key(made: Project, keys: list[str], work: Callable[[], object]) -> Calls:
    with made.counting() as seen:
        work()
    return per_key(seen, keys, {LISTING})
