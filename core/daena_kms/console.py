"""All terminal output. Rules: results on stdout, everything else on stderr; tables and colour only on a terminal and
never under NO_COLOR; plain lines in a pipe; `--json` prints one JSON document and nothing else on stdout.
"""

import base64
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from . import documents
from .audit import KeyAudit
from .errors import KmsError
from .fleet import Report
from .manifest import STARTED, Entry
from .model import Outcome, Status
from .service import Fetched, KeyStatus
from .trust import Initialised

_COLOURS = {
    Status.CREATED: "green",
    Status.ROTATED: "green",
    Status.DONE: "green",
    Status.DUE: "yellow",
    Status.IN_PROGRESS: "yellow",
    Status.DEFERRED: "yellow",
    Status.FAILED: "red",
}
Row = Sequence[str]


def error(problem: KmsError, *, as_json: bool) -> None:
    """What failed, and what to do about it."""
    if as_json:
        kind = type(problem).__name__
        document({"error": {"kind": kind, "message": problem.message, "hint": problem.hint}})
        return
    print(f"error: {problem.message}", file=sys.stderr)
    if problem.hint:
        print(f"hint: {problem.hint}", file=sys.stderr)


def _plain(text: str) -> str:
    """One line that steers no terminal, whatever text people or files put into it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def warning(text: str) -> None:
    """Something that a person should know, on stderr."""
    print(f"warning: {text}", file=sys.stderr)


def document(record: object) -> None:
    """One JSON document on stdout, its keys in the order of the record."""
    print(msgspec.json.format(msgspec.json.encode(record), indent=2).decode())


def report(done: Report, *, as_json: bool) -> None:
    """A fleet run: a line per key with what happened, why, and where it is recorded; then the counts."""
    if as_json:
        document(documents.report(done))
        return
    outcomes(done.outcomes)
    print(", ".join(f"{count} {status}" for status, count in done.counts().items()) or "no keys")


def outcome(done: Outcome, *, as_json: bool) -> None:
    """What became of one key."""
    if as_json:
        document(done)
    else:
        outcomes([done])


def outcomes(done: Sequence[Outcome]) -> None:
    """A line or a row per key."""
    rows = [(o.key, o.status.value, o.message, o.why) for o in done]
    table(("key", "status", "what happened", "why"), rows, _colour)
    for each in done:
        _details(each)


def _details(done: Outcome) -> None:
    for note in done.notes:
        print(_plain(f"  {done.key}: note: {note}"))
    if done.recorded:
        print(_plain(f"  {done.key}: recorded in {done.recorded}"))
    if done.hint and done.status in (Status.FAILED, Status.IN_PROGRESS):
        print(_plain(f"  {done.key}: hint: {done.hint}"))


def _colour(row: Row) -> str:
    return _COLOURS.get(Status(row[1]), "")


def status(keys: Sequence[KeyStatus], *, as_json: bool) -> None:
    """Every key's active version, age, next rotation, and how its versions stand."""
    if as_json:
        document(documents.status(keys))
        return
    rows = [(k.key, str(k.active or "–"), _age(k), _next(k), _versions(k), _standing(k)) for k in keys]
    table(("key", "active", "age", "next rotation", "versions", "standing"), rows)


def _age(key: KeyStatus) -> str:
    if not key.active:
        return "–"
    limit = f" of {key.limit_days}" if key.limit_days else ""
    older = f", material {key.material_age_days}" if key.material_age_days != key.age_days else ""
    return f"{key.age_days}{limit} days{older}"


def _next(key: KeyStatus) -> str:
    return f"{key.next_at:%Y-%m-%d %H:%M}" if key.next_at else "–"


def _versions(key: KeyStatus) -> str:
    return " ".join(f"{v.number}:{v.state}{'!' * v.compromised}" for v in key.versions) or "–"


def _standing(key: KeyStatus) -> str:
    marks = [
        key.problem,
        "overdue" if key.overdue else "",
        "paused" if key.paused else "",
        f"in progress: {key.in_progress}" if key.in_progress else "",
        "" if key.limit_days else "no policy",
    ]
    return "; ".join(mark for mark in marks if mark) or "ok"


def history(entries: Sequence[Entry], *, as_json: bool) -> None:
    """A key's manifest, oldest entry first."""
    if as_json:
        document({"entries": entries})
        return
    rows = [
        (
            str(e.sequence),
            f"{e.time:%Y-%m-%d %H:%M:%S}",
            _event(e),
            str(e.number or "–"),
            e.actor,
            e.trigger,
            e.reason,
        )
        for e in entries
    ]
    table(("#", "time (UTC)", "event", "version", "actor", "trigger", "reason"), rows)


def _event(entry: Entry) -> str:
    claim = entry.state.claim
    return f"{entry.event} ({claim.operation})" if claim is not None and entry.event in STARTED else entry.event.value


def fetched(found: Fetched, *, encoding: str, as_json: bool) -> None:
    """A version; its material only if it was asked for, and then nothing else."""
    if found.material is None:
        if as_json:
            document({"key": found.key, "version": documents.version(found.record)})
        else:
            record = msgspec.to_builtins(found.record)
            table(
                ("field", "value"),
                [("key", found.key), *((name, str(value)) for name, value in record.items())],
            )
        return
    secret = found.material.reveal()
    if as_json:
        form = "hex" if encoding == "hex" else "base64"
        text = secret.hex() if form == "hex" else base64.b64encode(secret).decode()
        document({"key": found.key, "version": documents.version(found.record), "encoding": form, "material": text})
    elif encoding == "raw":
        sys.stdout.buffer.write(secret)
    else:
        print(secret.hex() if encoding == "hex" else base64.b64encode(secret).decode())


def initialised(done: Initialised, where: str, *, as_json: bool) -> None:
    """What `init` came to, with the public key that auditors need."""
    if as_json:
        document(
            {
                "manifests": where,
                "public_key": done.public_key,
                "generation": done.generation,
                "made": done.made,
            }
        )
        return
    print(f"manifests at {where}, generation {done.generation} of their keys" + ("" if done.made else ", made before"))
    print(f"public key: {done.public_key}")


def audits(found: Sequence[KeyAudit], *, as_json: bool) -> None:
    """What verification found, a line per key, then every problem."""
    problems = sum(len(audit.problems) for audit in found)
    if as_json:
        document(documents.audits(found))
        return
    rows = [(a.key, str(a.entries), "BAD" if a.problems else "ok", a.head[:16]) for a in found]
    table(("key", "entries", "verified", "head"), rows)
    for audit in found:
        for problem in audit.problems:
            print(_plain(f"  {audit.key}: problem: {problem}"))
        for text in audit.warnings:
            print(_plain(f"  {audit.key}: warning: {text}"))
    print(f"{len(found)} keys, {problems} problems")


def table(header: Row, rows: Sequence[Row], colour: Callable[[Row], str] = lambda _: "") -> None:
    """A table on a terminal; aligned plain lines elsewhere."""
    rows = [[_plain(cell) for cell in row] for row in rows]
    if not _on_terminal():
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(len(header))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.console import Console  # noqa: PLC0415  # only a terminal pays for it
    from rich.table import Table  # noqa: PLC0415

    drawn = Table(header_style="bold", box=None, pad_edge=False)
    for number, name in enumerate(header):
        drawn.add_column(name, no_wrap=number == 0, overflow="fold")
    for row in rows:
        drawn.add_row(*row, style=colour(row) or None)
    Console(no_color=_no_colour(), highlight=False, markup=False).print(drawn)


@contextmanager
def progress(total: int) -> Iterator[Callable[[Outcome], None]]:
    """A bar on stderr while keys are worked on; nothing where stderr is no terminal."""
    if not sys.stderr.isatty() or total < 2:
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True, no_color=_no_colour()), transient=True) as bar:
        task = bar.add_task("keys", total=total)
        yield lambda _: bar.advance(task)


def _on_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _no_colour() -> bool:
    return bool(os.environ.get("NO_COLOR"))


class _Fields(logging.Formatter):
    """The message, then every field of the event."""

    _KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def format(self, record: logging.LogRecord) -> str:
        fields = (f"{name}={value}" for name, value in vars(record).items() if name not in self._KNOWN)
        return " ".join([super().format(record), *fields])


def log_handler() -> logging.Handler:
    """For `--verbose`: every event of the library on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Fields("%(asctime)s %(name)s: %(message)s"))
    return handler


def asks() -> bool:
    """True if there is a person to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()
