"""`doctor`: looks at everything that a rotation needs, and changes nothing.

The checks go from the ground up, and on after a failure wherever a later one still makes sense; one that does not says
because of what it was not tried. What only shows that something below it has failed already is not called failed
again: each fault is told once, where it lies.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from importlib import metadata
from typing import Protocol, runtime_checkable

from . import app, trust
from .errors import ConfigurationError, IntegrityError, KmsError, NotFoundError
from .ledger import Ledger
from .model import InventoryRow
from .names import RESERVED_KEY
from .policy import RotationPolicy
from .settings import Settings
from .stores.base import KeyStore
from .stores.probe import INIT, Check, Probe, Standing, Watch, failed, not_tried, ok, warning

NOTICEABLE, TOO_MUCH = timedelta(minutes=1), timedelta(minutes=5)
_SDKS = {
    "aws": "botocore",
    "azure": "azure-keyvault-secrets",
    "gcp": "google-cloud-secret-manager",
    "local": "cryptography",
}
_ABOVE = "because of what failed above"
_CLOCK_HINT = "set this machine's clock by NTP: a claim's lease must outlast the difference between clocks"


@runtime_checkable
class SelfChecking(Protocol):
    """A store that can look for damage in itself."""

    def damage(self) -> str:
        """What is wrong with it; empty when it is sound."""
        ...


def examine(settings: Settings, *, clock: Callable[[], datetime]) -> Iterator[Check]:
    """Every check in order, as it is made. Raises nothing: what goes wrong is what is looked for."""
    yield from _Examination(settings, clock).checks()


class _Examination:
    def __init__(self, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._settings = settings
        self._watch = Watch(clock)
        self._clouds = app.Clouds(settings)
        self._failed: set[str] = set()
        self._probe: Probe | None = None
        self._policy: RotationPolicy | None = None
        self._ledger: Ledger | None = None
        self._store: KeyStore | None = None
        self._root: trust.Root | None = None
        self._keys: Sequence[InventoryRow] | None = None

    def checks(self) -> Iterator[Check]:
        # A cloud's store is opened without asking it anything: its settings come first. The vault needs its KEK.
        store = (self._key_store, self._store_permissions)
        steps = (
            self._settings_read, self._sdk, self._credentials, self._policy_file,
            *(reversed(store) if self._local else store),
            self._manifests, self._evidence, self._pin, self._listed, self._policy_keys, self._clock,
        )  # fmt: skip
        for step in steps:
            for check in step():
                if check.standing is Standing.FAILED and check.name != "policy":  # on which nothing else stands
                    self._failed.add(check.name)
                yield check

    @property
    def _local(self) -> bool:
        return self._settings.provider == "local"

    # --- the ground

    def _settings_read(self) -> Iterator[Check]:
        yield ok("settings", f"the key store is {self._settings.provider}")

    def _sdk(self) -> Iterator[Check]:
        try:
            self._probe = app.open_probe(self._settings, self._clouds, self._watch)
        except KmsError as problem:
            yield failed("sdk", problem)
            return
        package = _SDKS[self._settings.provider]
        try:
            yield ok("sdk", f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:  # a bundle may hold the code without the package's papers
            yield ok("sdk", package)

    def _credentials(self) -> Iterator[Check]:
        if self._probe is None:
            yield not_tried("credentials", "because of sdk")
            return
        try:
            yield ok("credentials", self._probe.credentials())
        except KmsError as problem:
            yield failed("credentials", problem)
            self._probe = None

    def _policy_file(self) -> Iterator[Check]:
        remote = "://" in self._settings.policy
        if remote and self._probe is None:
            yield not_tried("policy", _ABOVE)
            return
        try:
            self._policy = app.load_policy(self._settings, self._clouds)
        except KmsError as problem:
            yield failed("policy", problem)
        else:
            count = len(self._policy.keys)
            yield ok("policy", f"{self._settings.policy} names {count} key{'s' * (count != 1)}")

    # --- store and manifests

    def _store_permissions(self) -> Iterator[Check]:
        if self._probe is None or "key store" in self._failed:
            yield not_tried("permissions", _ABOVE)
        else:
            yield from _all_told("permissions", self._probe.checks)

    def _key_store(self) -> Iterator[Check]:
        """Opening the manifests' place asks nobody for anything; the store must know its address."""
        try:
            self._ledger, warnings = app.open_ledger(self._settings, self._clouds)
        except KmsError as problem:
            yield failed("manifests", problem) if self._probe is not None else not_tried("manifests", _ABOVE)
            yield not_tried("key store", "because of manifests")
            return
        for text in warnings:
            yield warning("manifests", text, "only one machine may rotate so; a cloud's function cannot")
        if self._probe is None:
            yield not_tried("key store", _ABOVE)
        elif self._unmade():
            yield not_tried("key store", f"because there is no vault at {app.vault_path(self._settings)} yet", INIT)
        else:
            yield from self._opened(self._ledger)

    def _unmade(self) -> bool:
        return self._local and not app.vault_path(self._settings).exists()

    def _opened(self, ledger: Ledger) -> Iterator[Check]:
        try:
            self._store, _ = app.open_store(self._settings, ledger.address, self._clouds, create=False)
            damage = self._store.damage() if isinstance(self._store, SelfChecking) else ""
        except KmsError as problem:
            yield self._dependent("key store", problem)
            return
        if damage:
            hint = "stop using it, and restore the vault from a backup"
            yield failed("key store", IntegrityError(f"{self._store.address} is damaged: {damage}", hint))
        else:
            yield ok("key store", self._store.address)

    def _manifests(self) -> Iterator[Check]:
        ledger = self._ledger
        if ledger is None:
            return
        if app.manifests_in_a_cloud(self._settings) and not self._local and self._probe is None:
            yield not_tried("manifests", _ABOVE)
            return
        yield from _all_told("manifests", lambda: app.probe_ledger(self._settings, self._clouds, ledger, self._watch))

    def _evidence(self) -> Iterator[Check]:
        """The keys that sign the manifests: whether there are any, and whether the store has their secret halves."""
        if self._ledger is None:
            yield not_tried("evidence keys", _ABOVE)
            return
        try:
            self._root = trust.read_root(self._ledger)
        except NotFoundError:
            yield from self._never_initialised(self._ledger)
            return
        except KmsError as problem:
            yield self._dependent("evidence keys", problem)
            return
        if self._store is None:
            yield from self._storeless(self._ledger)
            return
        try:
            trust.open_keyring(self._store, self._ledger)
        except KmsError as problem:
            yield self._dependent("evidence keys", problem)
        else:
            generations = len(self._root.trust.generations)
            yield ok("evidence keys", f"those of the manifests at {self._ledger.address}, generation {generations}")

    def _never_initialised(self, ledger: Ledger) -> Iterator[Check]:
        try:
            lost = self._store is not None and self._store.observe(RESERVED_KEY).exists
        except KmsError:
            lost = False
        if lost:
            problem = ConfigurationError(
                f"the key store has been initialised, and there is nothing at {ledger.address}",
                "point DAENA_MANIFEST_URL at this store's manifests; if an `init` was cut short, run it again",
            )
            yield failed("evidence keys", problem)
        else:
            yield not_tried("evidence keys", "because nothing was initialised yet", INIT)

    def _storeless(self, ledger: Ledger) -> Iterator[Check]:
        if not self._unmade():
            yield not_tried("evidence keys", _ABOVE)
            return
        problem = ConfigurationError(
            f"there are manifests at {ledger.address}, and no vault at {app.vault_path(self._settings)}",
            "put the vault back from a copy, or point DAENA_HOME at it",
        )
        yield failed("evidence keys", problem)

    def _pin(self) -> Iterator[Check]:
        pin = self._settings.public_key
        if self._root is None:
            yield not_tried("pinned key", "because the manifests' public key is not known")
            return
        told = self._root.trust.public_key
        if not pin:
            yield warning(
                "pinned key",
                "DAENA_PUBLIC_KEY is not set: whoever replaces manifests and store together is not noticed",
                f"DAENA_PUBLIC_KEY={told}, if that is the one that `init` printed",
            )
        elif pin == told:
            yield ok("pinned key", told)
        else:
            yield failed(
                "pinned key",
                IntegrityError(
                    f"the manifests' public key is {told}, not the pinned one",
                    "point DAENA_MANIFEST_URL at the right manifests; if they are, DAENA_PUBLIC_KEY is wrong",
                ),
            )

    # --- the keys

    def _listed(self) -> Iterator[Check]:
        store, ledger = self._store, self._ledger
        if store is None or ledger is None:
            yield not_tried("keys", _ABOVE if self._failed else "because nothing was initialised yet")
            return
        try:
            self._keys = list(store.inventory())
        except KmsError as problem:
            yield self._dependent("keys", problem)
            return
        strangers = [row for row in self._keys if row.ledger not in ("", ledger.address)]
        for row in strangers:
            elsewhere = ConfigurationError(
                f"its manifest lies at {row.ledger}, not at {ledger.address}",
                "point DAENA_MANIFEST_URL there: a run with another is refused",
            )
            yield failed(f"key {row.key}", elsewhere)
        if not strangers:
            count = len(self._keys)
            yield ok("keys", f"{count} key{'s' * (count != 1)} of ours in {store.address}")

    def _policy_keys(self) -> Iterator[Check]:
        if self._policy is None or self._keys is None:
            return
        there = {row.key for row in self._keys}
        for key, wanted in self._policy.keys.items():
            if key not in there and not wanted.create:
                yield warning(
                    f"key {key}",
                    "it is in the policy, and not among the keys: its rotation will fail",
                    f"`daena-key-rotate create {key}`, `import` or `adopt` it; or create = true in the policy",
                )

    def _clock(self) -> Iterator[Check]:
        skew = self._watch.skew
        if skew is None:
            why = "nothing but this machine's own is used" if self._local else "no reply told the time"
            yield not_tried("clock", why)
            return
        seconds, way = round(abs(skew).total_seconds()), "ahead of" if skew > timedelta() else "behind"
        told = f"this machine's clock is {seconds} s {way} the service's"
        if abs(skew) > TOO_MUCH:
            yield Check("clock", Standing.FAILED, told, _CLOCK_HINT)
        elif abs(skew) > NOTICEABLE:
            yield warning("clock", told, _CLOCK_HINT)
        else:
            yield ok("clock", "agrees with the service's")

    def _dependent(self, name: str, problem: KmsError) -> Check:
        """What failed; or what failed above, if that may be why."""
        sound = isinstance(problem, IntegrityError) or not self._failed
        return failed(name, problem) if sound else not_tried(name, _ABOVE)


def _all_told(name: str, ask: Callable[[], list[Check]]) -> list[Check]:
    """What a probe found; where it could not even begin, why."""
    try:
        return ask()
    except KmsError as problem:
        return [failed(name, problem)]
