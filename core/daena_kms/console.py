"""All terminal output. Rules: results on stdout, everything else on stderr; tables and colour only on a terminal and
never under NO_COLOR; plain lines in a pipe; `--json` prints one JSON document and nothing else on stdout.
"""

import base64
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from . import documents
from .audit import KeyAudit
from .backup import Collected
from .cost import Bill, Estimate
from .errors import KmsError
from .fleet import Report
from .manifest import STARTED, Entry
from .model import Outcome, Status
from .schedules import Advice, Gap, KeyAdvice, span
from .service import Fetched, KeyStatus
from .stores.probe import Check
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
    try:
        encoded = msgspec.json.encode(record)
    except UnicodeEncodeError:  # a path whose bytes are no UTF-8, which JSON cannot hold
        text = json.dumps(msgspec.to_builtins(record), ensure_ascii=False)
        encoded = text.encode(errors="surrogatepass").decode(errors="replace").encode()
    print(msgspec.json.format(encoded, indent=2).decode())


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
        f"moved to {key.moved}" if key.moved else "",
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


def backup(done: Collected, written: documents.Written, *, as_json: bool) -> None:
    """A backup that was written: a line per key, then the file, its digest, and what opens it."""
    if as_json:
        document(documents.backup(done, written))
        return
    outcomes(done.outcomes)
    count = written.recipients
    opens = f"for {count} recipient{'s' * (count != 1)}" if count else "under a passphrase"
    print(f"{len(done.backup.keys)} keys in the backup, {len(done.backup.failed)} missing")
    print(_plain(f"file: {written.file}"))
    print(f"sha256: {written.sha256}")
    print(f"sealed {opens}, {written.bytes} bytes, read back; `restore --drill` proves that it opens")


def checks(found: Sequence[Check], *, as_json: bool) -> None:
    """What `doctor` found, a line per check, and under it what to do where that is not as it should be."""
    if as_json:
        document(documents.checks(found))
        return
    table(
        ("check", "standing", "what was found"),
        [(c.name, c.standing.value, c.message) for c in found],
        _standing_colour,
    )
    for check in found:
        if check.hint:
            print(_plain(f"  {check.name}: hint: {check.hint}"))
    counted = Counter(check.standing.value for check in found)
    print(", ".join(f"{count} {standing}" for standing, count in counted.items()))


def _standing_colour(row: Row) -> str:
    return {"ok": "green", "failed": "red", "warning": "yellow"}.get(row[1], "")


def cost(done: Estimate, *, as_json: bool) -> None:
    """What a policy costs in each store: a line per store, and beneath what was reckoned with and what was not."""
    if as_json:
        document(documents.cost(done))
        return
    asked = done.asked
    years = f"{asked.years} year{'s' * (asked.years != 1)}"
    header = ("store", "kept", "ticks", "rotations", "manifests", "KMS", "readers", "a month", f"after {years}")
    table(header, [(s.provider, *_dollars(s.first), _dollar(s.later.total())) for s in done.stores])
    minutes = int(asked.interval.total_seconds()) // 60
    print(
        f"US dollars a month: kept, ticks, rotations, manifests, KMS, readers, in all; in all after {years}\n"
        f"an estimate; prices as of {done.checked}; {len(asked.keys)} keys, a tick every {minutes} minutes, "
        f"each key read {asked.reads} times a month"
    )
    if done.quoted:
        print(f"prices that only third parties confirm: {', '.join(done.quoted)}")
    for what in done.excluded:
        print(f"  not in it: {what}")


def _dollars(bill: Bill) -> list[str]:
    parts = (bill.storage, bill.ticks, bill.rotations, bill.manifests, bill.kms, bill.readers, bill.total())
    return [_dollar(part) for part in parts]


def _dollar(value: float) -> str:
    return "<0.01" if 0 < value < 0.01 else f"{value:.2f}"


def schedule(told: Advice, *, as_json: bool) -> None:
    """How far apart a schedule's ticks are, a line per key with how old it gets, and what to be warned of."""
    if as_json:
        document(documents.schedule(told))
        return
    shown = told.schedule
    if shown.translated:
        print(_plain(f"read as: {shown.translated}  ({shown.dialect}; seconds first, Sunday is 0)"))
    print(f"next: {', '.join(f'{tick:%Y-%m-%d %H:%M}' for tick in told.next)}")
    if told.gaps:
        print(f"longest gap: {_gap(told.gaps.longest, dated=not shown.every)}")
        print(f"shortest gap: {_gap(told.gaps.shortest, dated=not shown.every)}")
    table(
        ("key", "limit", "rotated at each tick", "by age, set right", "by age, as set"), [_ages(k) for k in told.keys]
    )
    for text in told.warnings:
        print(_plain(f"  warning: {text}"))
    for text in told.notes:
        print(f"  note: {text}")


def _gap(gap: Gap, *, dated: bool) -> str:
    dates = f", from {gap.start:%Y-%m-%d %H:%M} to {gap.end:%Y-%m-%d %H:%M}" if dated else ""
    return span(gap.length) + dates


def _ages(key: KeyAdvice) -> Row:
    """The oldest that a key gets in each of three ways."""
    by_age = f"{key.by_age_days:g} days" if key.by_age_days is not None else "cannot be"
    as_set = f"{key.as_set_days:g} days" if key.as_set_days is not None else "never rotated"
    each = span(key.calendar.length) if key.calendar else "never rotated"
    return (key.key, f"{key.limit_days} days", each, by_age, as_set)


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
        # A list: the base class puts fields of its own into the record while it formats.
        fields = [f"{name}={value}" for name, value in vars(record).items() if name not in self._KNOWN]
        return " ".join([super().format(record), *fields])


def log_handler() -> logging.Handler:
    """For `--verbose`: every event of the library on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Fields("%(asctime)s %(name)s: %(message)s"))
    return handler


def asks() -> bool:
    """True if there is a person to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()
