"""What a policy costs in each key store, by the month: an estimate from prices and from counted calls. Pure.

The calls of each thing that is done are in `COUNTED`, one table, which a test holds against what the clouds' doubles
count. The prices are in `prices.toml`, each with its source. What is left out is in `EXCLUDED`.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Literal

import msgspec
from msgspec import Struct

from .errors import ConfigurationError
from .policy import KeyPolicy
from .stores.aws_layout import KEPT_VERSIONS, archive_index

MONTH = timedelta(hours=730)
YEAR = timedelta(days=365)
CHARGED_KMS_ROTATIONS = 2
"""AWS charges for the material of a KMS key's first two yearly rotations, and no more."""
EXCLUDED = (
    "tax, free allowances, network",
    "the function and its schedule (cents a month)",
    "logs, traces, metrics and alarms (on AWS 11 metrics and 6 alarms, about 4 USD a month)",
    "the bytes of the manifests (about 2 kB an entry: below a cent a month for 100,000 entries)",
    "rotations that are forced, retried or rolled back; `verify`, `status`, backups and migrations",
    "versions that are there already: each key is reckoned as if it were made today",
)


class Calls(Struct, frozen=True):
    """How many calls one thing takes, by how they are charged."""

    store: int = 0
    """To Secrets Manager or Key Vault; on GCP reads of a version."""
    free: int = 0
    kms: int = 0
    writes: int = 0
    """To the manifests: adding an entry, listing entries."""
    reads: int = 0

    def total(self) -> int:
        return self.store + self.free + self.kms + self.writes + self.reads


class Counted(Struct, frozen=True):
    """What a store is asked for each thing that is done, as counted on its double."""

    tick: Calls
    """A cold start that opens the store with its public key pinned and reads the policy, without listing and looks."""
    page: int
    """How many secrets one call of a tick's listing shows."""
    secrets_per_key: int
    """How many secrets of a key the listing shows, archives not counted."""
    secrets_beside: int
    """How many it shows that belong to no key."""
    look: Calls
    """What each key is asked in each tick, beside the listing."""
    create: Calls
    rotate: Calls
    check: Calls
    """More, where `keep_versions` is a number; and one read for each entry that the manifest has by then."""
    retire: Calls
    """More than that, in a rotation that disables a version."""
    archive: Calls = Calls()
    """More, once a key has 16 versions: one moves to the key's archive."""
    free_listing: bool = False


COUNTED: Mapping[str, Counted] = {
    "aws": Counted(
        tick=Calls(store=2, free=1, kms=1, reads=3),
        page=100,
        secrets_per_key=1,
        secrets_beside=0,
        look=Calls(),
        create=Calls(store=6, kms=2, writes=3, reads=1),
        rotate=Calls(store=4, kms=2, writes=2, reads=1),
        check=Calls(writes=1, reads=2),
        retire=Calls(store=8, writes=4, reads=12),
        archive=Calls(store=7),
    ),
    "azure": Counted(
        tick=Calls(store=3, reads=3),
        page=25,
        secrets_per_key=2,
        secrets_beside=1,
        look=Calls(),
        create=Calls(store=9, writes=3, reads=2),
        rotate=Calls(store=7, writes=2, reads=2),
        check=Calls(writes=1, reads=2),
        retire=Calls(store=10, writes=4, reads=12),
    ),
    "gcp": Counted(
        tick=Calls(store=3, free=3, reads=3),
        page=1000,
        secrets_per_key=1,
        secrets_beside=0,
        look=Calls(store=1),
        create=Calls(store=5, free=10, writes=3, reads=2),
        rotate=Calls(store=3, free=4, writes=2, reads=2),
        check=Calls(writes=1, reads=2),
        retire=Calls(store=5, free=10, writes=4, reads=13),
        free_listing=True,
    ),
}
ENTRIES_A_ROTATION, ENTRIES_A_RETIREMENT = 2, 2


class Price(Struct, frozen=True, forbid_unknown_fields=True):
    """One price: `usd` dollars for `per` units."""

    usd: float
    per: int
    unit: str
    standing: Literal["provider", "third-party", "guide"]
    source: str


class Prices(Struct, frozen=True, forbid_unknown_fields=True):
    """Every price, and the day on which they were checked."""

    checked: date
    prices: Mapping[str, Price]

    def of(self, name: str) -> float:
        """What one unit costs, in dollars."""
        return self.prices[name].usd / self.prices[name].per


def parse_prices(data: bytes) -> Prices:
    """The prices in a TOML file's bytes. Raises ConfigurationError if they are not such a file."""
    try:
        return msgspec.convert(tomllib.loads(data.decode()), Prices)
    except (ValueError, msgspec.ValidationError) as problem:
        raise ConfigurationError(f"the list of prices cannot be read: {problem}", "install daena-kms anew") from None


class Bill(Struct, frozen=True):
    """One month in one store, in US dollars."""

    storage: float = 0.0
    """What is kept: secrets on AWS, versions on GCP."""
    ticks: float = 0.0
    """What ticks ask of the secret store."""
    rotations: float = 0.0
    """What rotations ask of it."""
    manifests: float = 0.0
    """What both ask of the manifests' store."""
    kms: float = 0.0
    """The KMS key, and what both ask of it."""
    readers: float = 0.0
    """What applications read, as `--reads` says."""

    def total(self) -> float:
        return self.storage + self.ticks + self.rotations + self.manifests + self.kms + self.readers


class StoreCost(Struct, frozen=True):
    """What a policy costs in one store."""

    provider: str
    first: Bill
    """The first month: one version of each key."""
    later: Bill
    """A month after so many years of rotations."""
    creation: float
    """Once, to make every key: its calls."""


class Asked(Struct, frozen=True):
    """What to reckon with."""

    keys: Sequence[KeyPolicy]
    interval: timedelta
    """From tick to tick."""
    reads: int = 0
    """How often each key is read by applications, per month."""
    years: int = 1
    """How much later the second bill is."""
    locations: int = 1
    """In how many locations GCP keeps each version."""


class Estimate(Struct, frozen=True):
    """The costs of each store that was asked about, and whose prices they are."""

    asked: Asked
    checked: date
    stores: tuple[StoreCost, ...]
    quoted: tuple[str, ...]
    """Prices that only third parties confirm, by name, of those that were reckoned with."""
    excluded: tuple[str, ...] = EXCLUDED


_USED = {
    "local": (),
    "aws": (
        "aws-secret",
        "aws-secret-call",
        "aws-kms-key",
        "aws-kms-key-material",
        "aws-kms-request",
        "aws-object-write",
        "aws-object-read",
    ),
    "azure": ("azure-vault-call", "azure-object-write", "azure-object-read"),
    "gcp": ("gcp-version", "gcp-access", "gcp-object-write", "gcp-object-read"),
}
_STORE_CALL = {"aws": "aws-secret-call", "azure": "azure-vault-call", "gcp": "gcp-access"}


def estimate(asked: Asked, prices: Prices, providers: Sequence[str]) -> Estimate:
    """The monthly bill of a policy in each of the stores."""
    used = [name for provider in providers for name in _USED[provider]]
    quoted = tuple(name for name in used if prices.prices[name].standing != "provider")
    stores = tuple(_store(provider, asked, prices) for provider in providers)
    return Estimate(asked, prices.checked, stores, quoted)


def versions(policy: KeyPolicy, years: int) -> int:
    """How many versions a key has after so many years; it is made at their beginning."""
    return 1 + math.floor(years * YEAR / _lifetime(policy))


def rotation_calls(provider: str, policy: KeyPolicy, number: int) -> Calls:
    """The calls of the rotation of version `number`, which makes the next one."""
    counted = COUNTED[provider]
    calls = counted.rotate
    if policy.keep_versions is not None:
        earlier = max(0, number - 1 - max(policy.keep_versions, 1))  # the one before stays through its grace
        entries = ENTRIES_A_ROTATION * number + ENTRIES_A_RETIREMENT * earlier
        calls = _sum(calls, counted.check, Calls(reads=entries))
        if number > max(policy.keep_versions, 1):
            calls = _sum(calls, counted.retire)
    return _sum(calls, counted.archive) if number >= KEPT_VERSIONS else calls


def tick_calls(provider: str, keys: int, archives: int = 0) -> Calls:
    """The calls of a tick that finds nothing due."""
    counted = COUNTED[provider]
    shown = counted.secrets_per_key * keys + counted.secrets_beside + archives
    pages = max(1, math.ceil(shown / counted.page))
    listing = Calls(free=pages) if counted.free_listing else Calls(store=pages)
    return _sum(counted.tick, listing, *[counted.look] * keys)


def archives(number: int) -> int:
    """How many archives a key on AWS has that has so many versions."""
    return archive_index(number - KEPT_VERSIONS) if number > KEPT_VERSIONS else 0


def _lifetime(policy: KeyPolicy) -> timedelta:
    """How long a version is active, in the mean: jitter is spread evenly."""
    return timedelta(days=policy.rotate_after_days - policy.jitter_days / 2)


def _sum(*calls: Calls) -> Calls:
    return Calls(*(sum(getattr(each, name) for each in calls) for name in Calls.__struct_fields__))


def _store(provider: str, asked: Asked, prices: Prices) -> StoreCost:
    if provider == "local":
        return StoreCost(provider, Bill(), Bill(), 0.0)
    price = _Pricing(provider, prices)
    making = [COUNTED[provider].create for _ in asked.keys]
    creation = sum(price.store(calls) + price.kms(calls) + price.manifests(calls) for calls in making)
    return StoreCost(provider, _bill(price, asked, 0), _bill(price, asked, asked.years), creation)


class _Pricing:
    """One provider's prices of calls."""

    def __init__(self, provider: str, prices: Prices) -> None:
        self.provider, self._prices = provider, prices

    def of(self, name: str) -> float:
        return self._prices.of(f"{self.provider}-{name}")

    def store(self, calls: Calls) -> float:
        return calls.store * self._prices.of(_STORE_CALL[self.provider])

    def kms(self, calls: Calls) -> float:
        return calls.kms * self.of("kms-request") if self.provider == "aws" else 0.0

    def manifests(self, calls: Calls) -> float:
        return calls.writes * self.of("object-write") + calls.reads * self.of("object-read")


def _bill(price: _Pricing, asked: Asked, years: int) -> Bill:
    """A month after so many years."""
    numbers = [versions(policy, years) for policy in asked.keys]
    often = MONTH / asked.interval
    shelves = sum(archives(number) for number in numbers) if price.provider == "aws" else 0
    tick = tick_calls(price.provider, len(asked.keys), shelves)
    ticks, manifests = often * price.store(tick), often * price.manifests(tick)
    rotations, kms = 0.0, often * price.kms(tick) + _kms_key(price, years)
    for policy, number in zip(asked.keys, numbers, strict=True):
        calls, times = rotation_calls(price.provider, policy, number), MONTH / _lifetime(policy)
        rotations += times * price.store(calls)
        manifests += times * price.manifests(calls)
        kms += times * price.kms(calls)
    storage = _storage(price, numbers, shelves, asked.locations)
    return Bill(storage, ticks, rotations, manifests, kms, _readers(price, asked))


def _storage(price: _Pricing, numbers: Sequence[int], shelves: int, locations: int) -> float:
    """What is kept, the manifests' own keys included."""
    if price.provider == "aws":
        return (len(numbers) + 1 + shelves) * price.of("secret")
    if price.provider == "gcp":
        return (sum(numbers) + 1) * locations * price.of("version")
    return 0.0


def _kms_key(price: _Pricing, years: int) -> float:
    if price.provider != "aws":
        return 0.0
    return price.of("kms-key") + min(years, CHARGED_KMS_ROTATIONS) * price.of("kms-key-material")


def _readers(price: _Pricing, asked: Asked) -> float:
    """On AWS a read is also a decryption by KMS."""
    one = Calls(store=1, kms=1)
    return asked.reads * len(asked.keys) * (price.store(one) + price.kms(one))
