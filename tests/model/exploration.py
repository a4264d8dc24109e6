"""Every interleaving of a few runs on one key, through the real rules: the search, and what must hold.

What one run does is in `engine`: it rotates once and takes over once, which keeps the model finite.
At every world that is reached, one more run, alone and after every lease has ended (the next tick), must bring all
to rest in order: `wrong` and `wrong_at_rest` say what order is.

What a run may do depends on its own memory and on the world, not on what the others remember. So moves are worked
out, and the worlds they lead to are checked, once for each pair of memory and world; the search itself goes over
small numbers.
"""

from collections import deque
from time import perf_counter
from typing import Generic, NamedTuple, TypeVar

from daena_kms.model import Observed

from .engine import Engine, Ledger, Memory, Move, Setting, Version, World, first_memory, first_world, next_tick

NAMES = "ABCD"
STEP_LIMIT = 60  # what a real run allows itself
# A state is one integer: the world's number, and those of the runs' memories.
_BITS = 24
_MASK = (1 << _BITS) - 1

T = TypeVar("T")


class Result(NamedTuple):
    """What an exploration came to."""

    setting: Setting
    states: int
    seconds: float
    steps: frozenset[str]
    """The kinds of step that some run took."""
    problem: str = ""
    story: tuple[str, ...] = ()
    """The moves that lead to the problem: as few as there can be."""


class Pool(Generic[T]):
    """Gives each distinct value a small number."""

    def __init__(self) -> None:
        self.values: list[T] = []
        self._numbers: dict[T, int] = {}

    def number(self, value: T) -> int:
        found = self._numbers.get(value)
        if found is None:
            found = self._numbers[value] = len(self.values)
            self.values.append(value)
        return found


class Turn(NamedTuple):
    """A move in numbers. `ticks` is what the next tick does, if that is what goes wrong."""

    label: str
    run: int
    world: int
    problem: str
    ticks: tuple[str, ...]


class Explorer:
    """The search over one setting."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._engine = Engine(setting)
        self._worlds: Pool[World] = Pool()
        self._runs: Pool[Memory | None] = Pool()
        self._ended = self._runs.number(None)
        self._turns: dict[int, list[Turn]] = {}
        self._rests: dict[int, tuple[str, tuple[str, ...]]] = {}

    def explore(self) -> Result:
        """Every state that can be reached, nearest first, until there is none left or a check fails."""
        started = perf_counter()
        first = self._first()
        parents = {first: first}
        problem, story = self._search(first, parents)
        seconds = perf_counter() - started
        return Result(self.setting, len(parents), seconds, frozenset(self._engine.taken), problem, story)

    def _search(self, first: int, parents: dict[int, int]) -> tuple[str, tuple[str, ...]]:
        todo = deque([first])
        while todo:
            state = todo.popleft()
            for turn, successor in self._successors(state):
                if successor in parents:
                    continue
                parents[successor] = state
                if turn.problem:
                    return turn.problem, (*self._story(parents, successor), *turn.ticks)
                todo.append(successor)
        return "", ()

    def _first(self) -> int:
        state = self._worlds.number(first_world(self.setting))
        for name in NAMES[: self.setting.runs]:
            state = state << _BITS | self._runs.number(first_memory(self.setting, name))
        return state

    def _successors(self, state: int) -> list[tuple[Turn, int]]:
        """Every turn that some run may take, and the state it leads to."""
        places = range(0, self.setting.runs * _BITS, _BITS)
        top = self.setting.runs * _BITS
        world, memories = state >> top, state & ((1 << top) - 1)
        found: list[tuple[Turn, int]] = []
        for place in places:
            others = memories & ~(_MASK << place)
            turns = self._turns_of(state >> place & _MASK, world)
            found.extend((turn, turn.world << top | others | turn.run << place) for turn in turns)
        return found

    def _turns_of(self, run: int, world: int) -> list[Turn]:
        if run == self._ended:
            return []
        key = world << _BITS | run
        found = self._turns.get(key)
        if found is None:
            memory, before = self._runs.values[run], self._worlds.values[world]
            assert memory is not None
            moves = self._engine.moves(memory, before)
            found = self._turns[key] = [self._turn(memory, before, move) for move in moves]
        return found

    def _turn(self, run: Memory, before: World, move: Move) -> Turn:
        world = self._worlds.number(move.world)
        if world not in self._rests:
            self._rests[world] = self._next_tick(move.world)
        problem, ticks = self._rests[world]
        if at_once := move.problem or wrong(self.setting, before, move.world):
            problem, ticks = at_once, ()
        return Turn(f"{run.name} {move.label}", self._runs.number(move.run), world, problem, ticks)

    def _next_tick(self, world: World) -> tuple[str, tuple[str, ...]]:
        """What is wrong once a tick, alone, has done all it does; and what that was."""
        run: Memory | None = next_tick(world)
        told: list[str] = []
        while run is not None:
            if len(told) == STEP_LIMIT:
                return "the next tick comes to no end", tuple(told)
            (move,) = self._engine.moves(run, world)
            told.append(f"{run.name} {move.label}")
            problem = move.problem or wrong(self.setting, world, move.world)
            if problem:
                return problem, tuple(told)
            run, world = move.run, move.world
        return wrong_at_rest(world), tuple(told)

    def _story(self, parents: dict[int, int], state: int) -> list[str]:
        told = []
        while (parent := parents[state]) != state:
            told.append(next(turn.label for turn, successor in self._successors(parent) if successor == state))
            state = parent
        return told[::-1]


def wrong(setting: Setting, before: World, after: World) -> str:
    """What must never be, at any moment; empty if all is well."""
    newest = after.store.newest
    if newest is None:
        return "" if before.store.newest is None else "readers get nothing any more"
    if Version(newest.number, newest.fingerprint) not in after.ledger.claims:
        return f"readers get {newest.fingerprint}, which nobody claimed"
    old = before.store.newest
    if setting.fenced and old is not None and newest.number < old.number:
        return f"what readers get went back from {old.number} to {newest.number}"
    return ""


def wrong_at_rest(world: World) -> str:
    """What must not be once a tick is through; empty if all is well."""
    ledger, store = world
    if ledger.state.claim is not None:
        return f"the claim of {ledger.state.claim.fingerprint} is left open"
    return _wrong_live(ledger, store) or _wrong_versions(ledger, store)


def _wrong_live(ledger: Ledger, store: Observed) -> str:
    active, newest = ledger.state.active, store.newest
    said = Version(active.number, active.fingerprint) if active is not None else None
    got = Version(newest.number, newest.fingerprint) if newest is not None else None
    return "" if said == got else f"readers get {got}, the manifest says {said}"


def _wrong_versions(ledger: Ledger, store: Observed) -> str:
    published = {Version(v.number, v.fingerprint) for v in store.versions}
    if unknown := published - ledger.known:
        return f"readers got {', '.join(map(str, unknown))}, which no entry knows"
    if len({version.number for version in ledger.known}) < len(ledger.known):
        return "one number has two materials"
    if store.staged:
        return f"{', '.join(v.fingerprint for v in store.staged)} is left staged"
    return ""
