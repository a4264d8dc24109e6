"""The rotation policy: a TOML file, parsed and validated once, every problem listed."""

import difflib
import hashlib
import tomllib
from collections.abc import Callable, Mapping
from datetime import timedelta

from msgspec import Struct

from .errors import ConfigurationError
from .model import KeySpec
from .names import name_problem
from .window import Window

SMALLEST_POLICY_KEY_BYTES = 16  # 128 bits: NIST SP 800-131A's floor for new symmetric keys
MAX_DAYS = 3650
MAX_POLICY_BYTES = 16 << 20
# Our tables are three deep. tomllib takes a time that grows with the square of a key's parts: minutes where a line has
# ten thousands of them.
_MOST_DOTS = 100
_LONGEST_SHOWN = 200
LONGEST_TICK = timedelta(days=45)  # half of the usual limit: a longer one keeps no key within it


class KeyPolicy(Struct, frozen=True):
    """What is wanted of one key."""

    rotate_after_days: int = 90
    grace_days: int = 30
    """After a rotation the version before stays readable at least this long, whatever else is asked."""
    keep_versions: int | None = None
    """How many earlier versions stay readable; None keeps all."""
    destroy_after_days: int | None = None
    """How long an asked-for destruction waits, and can be cancelled; None refuses to destroy."""
    spec: KeySpec = KeySpec.parse("AES-256")
    window: Window | None = None
    jitter_days: int = 0
    """Rotate up to this many days early, by an amount derived from the key's name, to spread the load."""
    create: bool = False
    """Make the key if it does not exist. Off by default, so that a typo makes no key."""


class Tick(Struct, frozen=True):
    """How often a scheduler asks, and how late it may be."""

    interval: timedelta = timedelta(hours=1)
    slack: timedelta = timedelta(minutes=30)


class RotationPolicy(Struct, frozen=True):
    """Every key's policy, and the digest of the file that said so."""

    keys: Mapping[str, KeyPolicy]
    digest: str


def parse_policy(data: bytes, *, tick: Tick, prefix: str = "", source: str = "the policy") -> RotationPolicy:
    """The policy in a TOML file's bytes. Raises ConfigurationError listing everything that is wrong with it."""
    reader = _Reader(tick, prefix)
    document = _toml(data, source)
    keys = reader.policy(document)
    if reader.problems:
        listing = "".join(f"\n  {problem}" for problem in reader.problems)
        count = len(reader.problems)
        raise ConfigurationError(
            f"{source} has {count} problem{'s' * (count > 1)}:{listing}", "mend the file; nothing was changed"
        )
    return RotationPolicy(keys, hashlib.sha256(data).hexdigest())


def _toml(data: bytes, source: str) -> dict[str, object]:
    if len(data) > MAX_POLICY_BYTES:
        raise ConfigurationError(f"{source} is larger than {MAX_POLICY_BYTES >> 20} MiB", "is it the right file?")
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.count(b".") > _MOST_DOTS and not line.lstrip().startswith(b"#"):
            raise ConfigurationError(
                f"{source} has more than {_MOST_DOTS} dots in line {number}", "is it the right file?"
            )
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as problem:  # a TOMLDecodeError is a ValueError, as is a number without end
        raise ConfigurationError(f"{source} is not valid TOML: {problem}", "mend that line") from None


def _shown(value: object) -> str:
    """A value that is wrong, for people: as it is written, or how it begins."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of too many digits, tables in tables in tables
        return f"{type(value).__name__} without end"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _days(least: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_DAYS:
            raise ConfigurationError(f"a whole number of days from {least} to {MAX_DAYS} expected, got {_shown(value)}")
        return value

    return read


def _destroy_after(value: object) -> int | None:
    return None if value == "never" else _days(1)(value)


def _keep(value: object) -> int | None:
    if value == "all":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(f"'all' or a number of versions expected, got {_shown(value)}")
    return value


def _spec(value: object) -> KeySpec:
    few_digits = isinstance(value, int) and abs(value) <= 10**9
    spec = KeySpec.parse(value if isinstance(value, str) or (isinstance(value, int) and few_digits) else _shown(value))
    if spec.length < SMALLEST_POLICY_KEY_BYTES:
        raise ConfigurationError(f"a new key of {spec.length} bytes is too short, at least 16 expected")
    return spec


def _window(value: object) -> Window:
    return Window.parse(value if isinstance(value, str) else _shown(value))


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"true or false expected, got {_shown(value)}")
    return value


_FIELDS: Mapping[str, Callable[[object], object]] = {
    "rotate_after_days": _days(1),
    "grace_days": _days(0),
    "keep_versions": _keep,
    "destroy_after_days": _destroy_after,
    "spec": _spec,
    "window": _window,
    "jitter_days": _days(0),
    "create": _flag,
}


class _Reader:
    """Walks a parsed document and collects problems instead of stopping at the first."""

    def __init__(self, tick: Tick, prefix: str) -> None:
        self.problems: list[str] = []
        self._tick = tick
        self._prefix = prefix

    def policy(self, document: Mapping[str, object]) -> dict[str, KeyPolicy]:
        self._unknown("", document, ("defaults", "keys"))
        defaults = self._fields("defaults", document.get("defaults", {}))
        tables = document.get("keys", {})
        if not isinstance(tables, dict) or not tables:
            self.problems.append("keys: a table [keys.NAME] for each key is expected, there is none")
            return {}
        return {name: self._key(name, table, defaults) for name, table in tables.items()}

    def _key(self, name: str, table: object, defaults: Mapping[str, object]) -> KeyPolicy:
        if problem := name_problem(name, self._prefix):
            self.problems.append(f"keys.{name}: {problem}")
        own = self._fields(f"keys.{name}", table)
        policy = KeyPolicy(**{**defaults, **own})  # type: ignore[arg-type]  # _FIELDS reads each as its own type
        self.problems += [f"keys.{name}: {problem}" for problem in contradictions(policy, self._tick)]
        return policy

    def _fields(self, place: str, table: object) -> dict[str, object]:
        if not isinstance(table, dict):
            self.problems.append(f"{place}: a table is expected, got {_shown(table)}")
            return {}
        self._unknown(f"{place}.", table, tuple(_FIELDS))
        read = {}
        for name, value in table.items():
            if name in _FIELDS:
                try:
                    read[name] = _FIELDS[name](value)
                except ConfigurationError as problem:
                    self.problems.append(f"{place}.{name}: {problem.message}")
        return read

    def _unknown(self, place: str, table: Mapping[str, object], known: tuple[str, ...]) -> None:
        for name in table:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                suggestion = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
                self.problems.append(f"{place}{name}: unknown{suggestion}")


def contradictions(policy: KeyPolicy, tick: Tick) -> list[str]:
    """What in a policy cannot be kept, whatever happens."""
    problems = []
    limit = timedelta(days=policy.rotate_after_days)
    if policy.jitter_days >= policy.rotate_after_days:
        problems.append(f"jitter_days {policy.jitter_days} leaves nothing of {policy.rotate_after_days} days")
    if tick.interval + tick.slack >= limit:
        problems.append(f"ticks {tick.interval} apart cannot keep a limit of {policy.rotate_after_days} days")
    if policy.window is not None:
        if policy.window.length < tick.interval:
            problems.append(
                f"window {policy.window.text!r} can fall between two ticks, which are {tick.interval} apart"
            )
        if policy.window.longest_closed() + 2 * tick.interval + tick.slack >= limit - timedelta(
            days=policy.jitter_days
        ):
            problems.append(f"window {policy.window.text!r} is closed too long for {policy.rotate_after_days} days")
    return problems
