"""What goes wrong in one run: at which of its calls to store and ledger, and how. In this process, on a clock of ours.

A run's calls are numbered from 1 as they come. A `Script` says of some numbers which fault befalls them; faults that a
call cannot have are left out and not counted. What happens in other processes meanwhile is given by whoever builds the
case: a fault that sleeps calls `meanwhile`.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import msgspec.structs

from daena_kms.errors import ThrottledError, UnavailableError
from daena_kms.material import KeyMaterial
from daena_kms.model import StoredVersion
from tests.support import gcp_world
from tests.support.worlds import Clock, DiedError

WRITES = ("append", "stage", "promote", "discard", "disable", "enable", "destroy", "label", "write_anchor")
READS = ("observe", "read", "inventory", "prepare", "sequences", "names")
SKEW = timedelta(minutes=10)

# By what they do: to the process, to the request, to the reply, to time.
DEATHS = ("die before", "die after")
LOSSES = ("lose the request", "lose the reply", "throttle", "do it twice")
SLEEPS = ("sleep before", "sleep after", "arrive late")
CLOCKS = ("clock ahead", "clock back")
LIES = {
    "read": ("flip a bit", "give another's material", "give an old version"),
    "observe": ("show what was", "show nothing staged"),
    "sequences": ("list late",),
    "inventory": ("list what was",),
}
FAULTS = (*DEATHS, *LOSSES, *SLEEPS, *CLOCKS, *(lie for lies in LIES.values() for lie in lies))


def possible(fault: str, name: str) -> bool:
    """Whether that fault can befall that call."""
    if fault in DEATHS or fault in CLOCKS or fault in ("sleep before", "sleep after"):
        return True
    if fault in ("lose the reply", "do it twice", "arrive late"):
        return name in WRITES
    if fault in LOSSES:
        return name != "names"
    return fault in LIES.get(name, ())


class Script:
    """The faults of one run, and what became of them."""

    def __init__(
        self,
        faults: Mapping[int, str],
        clock: Clock,
        *,
        meanwhile: Callable[[], object] = lambda: None,
        watch: Callable[[], object] = lambda: None,
        before: Mapping[str, Any] = {},  # only read
    ) -> None:
        """`watch` is called after each write: a reader looks. `before`: what reads gave before, by the call's name."""
        self.faults = faults
        self.clock = clock
        self.meanwhile = meanwhile
        self.watch = watch
        self.before = before
        self.calls: list[str] = []
        self.injected: list[str] = []
        self.late: list[Callable[[], object]] = []
        """Requests of a process that is dead; they arrive when somebody calls them."""

    def store(self, target: Any) -> Any:
        """A store whose calls are in the script."""
        return _Scripted(target, self, {})

    def ledger(self, target: Any) -> Any:
        """The same of a ledger. That an entry is not there which was written is no lie that a ledger tells."""
        return _Scripted(target, self, {"read": "read entry"})

    def befall(self, name: str, target: Any, call: Callable[[], Any], arguments: tuple[Any, ...]) -> Any:
        """One call, and what goes wrong with it."""
        self.calls.append(name)
        fault = self.faults.get(len(self.calls), "")
        if fault and not possible(fault, name):
            fault = ""
        if fault:
            self.injected.append(f"{fault} at {len(self.calls)} ({name})")
        self._before(fault, call)
        if fault == "do it twice":
            call()
        result = call()
        if fault in LIES.get(name, ()):
            result = self._lied(fault, target, result, arguments)
        if name in WRITES:
            self._elsewhere(self.watch)
        self._after(fault)
        return result

    def _before(self, fault: str, call: Callable[[], Any]) -> None:
        if fault == "die before":
            raise DiedError(fault)
        if fault == "lose the request":
            raise UnavailableError("the connection was reset")
        if fault == "throttle":
            raise ThrottledError("too many requests", "try again later")
        if fault == "arrive late":
            self.late.append(call)
            raise DiedError(fault)
        if fault == "sleep before":
            self._elsewhere(self.meanwhile)
        if fault in CLOCKS:
            self.clock.now += SKEW if fault == "clock ahead" else -SKEW

    def _after(self, fault: str) -> None:
        if fault == "die after":
            raise DiedError(fault)
        if fault == "lose the reply":
            raise UnavailableError("the connection was reset")
        if fault == "sleep after":
            self._elsewhere(self.meanwhile)

    def _lied(self, fault: str, target: Any, result: Any, arguments: tuple[Any, ...]) -> Any:
        if fault in ("show what was", "list what was"):
            return self.before.get(fault, result)
        if fault == "show nothing staged":
            return msgspec.structs.replace(result, staged=())
        if fault == "list late":
            return result[:-1]
        secret = result.reveal()
        if fault == "flip a bit":
            return KeyMaterial(bytes([secret[0] ^ 1]) + secret[1:])
        if fault == "give another's material":
            return KeyMaterial(hashlib.sha512(secret).digest()[: len(secret)].ljust(len(secret), b"x"))
        return self._older(target, result, *arguments)

    def _older(self, target: Any, result: KeyMaterial, key: str, asked: StoredVersion) -> KeyMaterial:
        """The material of the first other version that can be read."""
        for version in target.observe(key).versions:
            if version.version_id != asked.version_id and version.enabled:
                return KeyMaterial(target.read(key, version).reveal())
        return result

    def _elsewhere(self, act: Callable[[], object]) -> None:
        """What other processes do: they do not know what this one remembers."""
        with gcp_world.elsewhere():
            act()


class _Scripted:
    """Passes everything on, under a script."""

    def __init__(self, target: Any, script: Script, called: Mapping[str, str]) -> None:
        self._target, self._script, self._called = target, script, called

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name not in (*WRITES, *READS):
            return value
        told = self._called.get(name, name)

        def call(*arguments: Any, **named: Any) -> Any:
            return self._script.befall(told, self._target, lambda: value(*arguments, **named), arguments)

        return call
