"""What was stored when: so that a reader can be shown how things stood a while ago."""

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass
class Timeline(Generic[T]):
    """The states of one thing, each with the time since when. States are never changed, only followed by others."""

    times: list[float] = field(default_factory=list)
    states: list[T] = field(default_factory=list)

    def add(self, time: float, state: T) -> None:
        """From now on it is so. Time does not go back here, though a test's clock may."""
        self.times.append(max(time, self.times[-1]) if self.times else time)
        self.states.append(state)

    def at(self, moment: float | None) -> T | None:
        """How it stood at that time; None before it was. Without a time: how it stands."""
        if moment is None:
            return self.states[-1]
        place = bisect_right(self.times, moment)
        return self.states[place - 1] if place else None

    def copied(self) -> "Timeline[T]":
        """The same so far, and apart from now on."""
        return Timeline(list(self.times), list(self.states))


@dataclass
class HeldVersion:
    """A version: its number, what it holds, and its SecretVersion messages."""

    number: int
    data: bytes
    crc32c: int
    states: Timeline[Any]

    def copied(self) -> "HeldVersion":
        """The same so far."""
        return replace(self, states=self.states.copied())


@dataclass
class HeldSecret:
    """A secret from its creation to its deletion: Secret messages, at the end None. Versions by number, from 1."""

    order: int
    states: Timeline[Any]
    versions: list[HeldVersion] = field(default_factory=list)
    scheduled: set[int] = field(default_factory=set)
    """Numbers of versions that are to be destroyed at a set time."""

    def version(self, number: int) -> HeldVersion | None:
        """The version of that number."""
        return self.versions[number - 1] if 0 < number <= len(self.versions) else None

    def copied(self) -> "HeldSecret":
        """The same so far."""
        versions = [version.copied() for version in self.versions]
        return replace(self, states=self.states.copied(), versions=versions, scheduled=set(self.scheduled))
