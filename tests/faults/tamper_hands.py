"""What somebody with all rights can do to what lies in each store, past every rule of its API: the doubles' innards.

A *cell* holds one sealed value. What is not a value (labels, tags, annotations, columns) is a store's *marks*.
"""

import copy
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, Protocol

from daena_kms.names import secret_name
from tests.support import azure_world, gcp_world
from tests.support.aws_scene import copied, vault
from tests.support.doubles import Container

from .tamper_scene import House

PREFIX = "app-"


class Cell(NamedTuple):
    """One value as it lies in the store."""

    key: str
    name: str
    """The store's own name of it."""
    read: Callable[[], bytes]
    write: Callable[[bytes], None]


class Hands(Protocol):
    """What can be done to one store."""

    def save(self) -> Callable[[], None]:
        """Remember everything; what is returned puts it back, as often as it is called."""
        ...

    def state(self) -> object:
        """Everything that lies there, to be compared."""
        ...

    def cells(self, key: str) -> list[Cell]:
        """Every value of a key, what is staged and what is disabled too, the oldest first."""
        ...

    def marks(self, key: str) -> Iterable[tuple[str, Callable[[], object]]]:
        """What can be done to a key's marks: what it is, and how."""
        ...

    def exchange(self, one: str, other: str) -> None:
        """The marks of two keys (and their values, where they are one thing) change places."""
        ...


class Memory:
    """The double of our own protocol."""

    def __init__(self, house: House) -> None:
        self._store = house.store

    def save(self) -> Callable[[], None]:
        before = self._copied()

        def restore() -> None:
            self._store.keys = {key: copy.copy(held) for key, held in before.items()}
            for held in self._store.keys.values():
                held.held = list(held.held)

        return restore

    def _copied(self) -> dict[str, Container]:
        return {k: Container(list(c.held), c.newest, c.ledger, c.anchor) for k, c in self._store.keys.items()}

    def state(self) -> object:
        return self._copied()

    def cells(self, key: str) -> list[Cell]:
        return [self._cell(key, held.version.version_id) for held in self._store.keys[key].held]

    def _cell(self, key: str, name: str) -> Cell:
        def write(data: bytes) -> None:
            held = self._store._held(key, name)
            self._store._replace(key, held, type(held)(held.version, data, held.destroyed))

        return Cell(key, name, lambda: bytes(self._store._held(key, name).sealed), write)

    def marks(self, key: str) -> Iterable[tuple[str, Callable[[], object]]]:
        container = self._store.keys[key]
        for held in container.held:
            if held.version.version_id != container.newest and not held.version.staged:
                name = held.version.version_id
                yield f"readers get {name}", partial(self._set, key, "newest", name)
                yield f"{name} is gone", partial(self._drop, key, name)
        yield "no anchor", partial(self._set, key, "anchor", None)

    def _set(self, key: str, field: str, value: object) -> None:
        setattr(self._store.keys[key], field, value)

    def _drop(self, key: str, name: str) -> None:
        container = self._store.keys[key]
        container.held = [held for held in container.held if held.version.version_id != name]

    def exchange(self, one: str, other: str) -> None:
        keys = self._store.keys
        keys[one], keys[other] = keys[other], keys[one]


class Local:
    """The vault's file, opened by SQLite."""

    _TABLES = ("keys", "versions")

    def __init__(self, house: House) -> None:
        self._db = sqlite3.connect(house.folder / "vault.db", isolation_level=None)
        self._db.execute("PRAGMA synchronous = OFF")

    def _rows(self) -> dict[str, list[tuple[Any, ...]]]:
        return {t: self._db.execute(f"SELECT * FROM {t} ORDER BY 1, 2").fetchall() for t in self._TABLES}  # noqa: S608

    def save(self) -> Callable[[], None]:
        before = self._rows()

        def restore() -> None:
            self._db.execute("BEGIN IMMEDIATE")
            for table, rows in before.items():
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608
                for row in rows:
                    self._db.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)  # noqa: S608
            self._db.execute("COMMIT")

        return restore

    def state(self) -> object:
        return self._rows()

    def cells(self, key: str) -> list[Cell]:
        numbers = self._db.execute("SELECT number FROM versions WHERE key = ? ORDER BY number", (key,)).fetchall()
        return [self._cell(key, number) for (number,) in numbers]

    def _cell(self, key: str, number: int) -> Cell:
        where = "WHERE key = ? AND number = ?"

        def read() -> bytes:
            (data,) = self._db.execute(f"SELECT sealed FROM versions {where}", (key, number)).fetchone()  # noqa: S608
            return bytes(data)

        def write(data: bytes) -> None:
            self._db.execute(f"UPDATE versions SET sealed = ? {where}", (data, key, number))  # noqa: S608

        return Cell(key, f"number {number}", read, write)

    def marks(self, key: str) -> Iterable[tuple[str, Callable[[], object]]]:
        def run(statement: str, *values: Any) -> Callable[[], object]:
            return partial(self._db.execute, statement, values)

        rows = self._db.execute(
            "SELECT number, version_id, fingerprint, state FROM versions WHERE key = ? ORDER BY number", (key,)
        ).fetchall()
        active, anchor = self._db.execute("SELECT active, anchor FROM keys WHERE name = ?", (key,)).fetchone()
        for number, version_id, fingerprint, state in rows:
            where = f"WHERE key = '{key}' AND number = {number}"
            if number != active:
                yield f"readers get {number}", run("UPDATE keys SET active = ? WHERE name = ?", number, key)
                yield f"{number} is gone", run(f"DELETE FROM versions {where}")  # noqa: S608
            for other in {"staged", "published", "disabled", "destroyed"} - {state}:
                yield f"{number} is {other}, not {state}", run(f"UPDATE versions SET state = ? {where}", other)  # noqa: S608
            for column, value in (
                ("fingerprint", fingerprint[:-1] + ("0" if fingerprint[-1] != "0" else "1")),
                ("fingerprint", ""), ("version_id", version_id[::-1]), ("rotation_id", ""), ("spec", "AES-128"),
                ("spec", "bytes-32"), ("created", "2020-01-01T00:00:00+00:00"), ("number", number + 50),
            ):  # fmt: skip
                yield f"{column} of {number} is {value!r}", run(f"UPDATE versions SET {column} = ? {where}", value)  # noqa: S608
        yield "no anchor", run("UPDATE keys SET anchor = NULL WHERE name = ?", key)
        for place in range(0, len(anchor), 3):
            flipped = anchor[:place] + bytes([anchor[place] ^ 1]) + anchor[place + 1 :]
            yield f"byte {place} of its anchor", run("UPDATE keys SET anchor = ? WHERE name = ?", flipped, key)
        yield "another ledger", run("UPDATE keys SET ledger = 'file:///elsewhere' WHERE name = ?", key)

    def exchange(self, one: str, other: str) -> None:
        for table, column in (("versions", "key"), ("keys", "name")):
            for old, new in ((one, "between"), (other, one), ("between", other)):
                self._db.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, old))  # noqa: S608


class Aws:
    """What moto keeps of each secret."""

    def __init__(self, house: House) -> None:
        del house

    def save(self) -> Callable[[], None]:
        before = copied(vault())

        def restore() -> None:
            secrets = vault()
            for name in list(dict.keys(secrets)):
                dict.pop(secrets, name)
            for name, secret in copied(before).items():
                dict.__setitem__(secrets, name, secret)

        return restore

    def state(self) -> object:
        return {name: copy.deepcopy(vars(self._secret(name))) for name in dict.keys(vault())}

    def _secret(self, name: str) -> Any:
        return dict.__getitem__(vault(), name)

    def cells(self, key: str) -> list[Cell]:
        versions = self._secret(secret_name(PREFIX, key)).versions
        return [
            self._cell(key, name) for name, version in versions.items() if "daena-kms/1" in version["secret_string"]
        ]

    def _cell(self, key: str, name: str) -> Cell:
        def write(data: bytes) -> None:
            self._secret(secret_name(PREFIX, key)).versions[name]["secret_string"] = data.decode("utf-8", "replace")

        def read() -> bytes:
            return str(self._secret(secret_name(PREFIX, key)).versions[name]["secret_string"]).encode()

        return Cell(key, name, read, write)

    def marks(self, key: str) -> Iterable[tuple[str, Callable[[], object]]]:
        secret = self._secret(secret_name(PREFIX, key))
        ids = [name for name in secret.versions if "-v" in name]
        for name in ids:
            if "AWSCURRENT" not in secret.versions[name]["version_stages"]:
                yield f"AWSCURRENT on {name}", partial(self._move, key, "AWSCURRENT", name)
                yield f"{name} is gone", partial(self._drop, key, name)
                yield f"{name} has no labels", partial(self._label, key, name, [])
            number = name.rpartition("-v")[2]
            yield f"{name} is labelled disabled", partial(self._relabel, key, name, f"disabled-{number}")
            yield f"{name} is labelled v77", partial(self._relabel, key, name, "v77")
        yield "no anchor", partial(self._tags, key, "daena-kms:head")
        yield "no tags", partial(self._tags, key, "")

    def _drop(self, key: str, name: str) -> None:
        self._secret(secret_name(PREFIX, key)).versions.pop(name)

    def _label(self, key: str, name: str, labels: list[str]) -> None:
        self._secret(secret_name(PREFIX, key)).versions[name]["version_stages"] = labels

    def _relabel(self, key: str, name: str, label: str) -> None:
        held = self._secret(secret_name(PREFIX, key)).versions[name]["version_stages"]
        self._label(key, name, [other for other in held if other.startswith(("AWS", "daena"))] + [label])

    def _move(self, key: str, label: str, name: str) -> None:
        for version in self._secret(secret_name(PREFIX, key)).versions.values():
            version["version_stages"] = [other for other in version["version_stages"] if other != label]
        self._secret(secret_name(PREFIX, key)).versions[name]["version_stages"].append(label)
        self._secret(secret_name(PREFIX, key)).default_version_id = name

    def _tags(self, key: str, begin: str) -> None:
        """Take away those that begin so."""
        secret = self._secret(secret_name(PREFIX, key))
        secret.tags = [tag for tag in secret.tags if not tag["Key"].startswith(begin)]

    def exchange(self, one: str, other: str) -> None:
        first, second = self._secret(secret_name(PREFIX, one)), self._secret(secret_name(PREFIX, other))
        first.versions, second.versions = second.versions, first.versions
        first.tags, second.tags = second.tags, first.tags
        first.default_version_id, second.default_version_id = second.default_version_id, first.default_version_id


class Azure:
    """What the double of Key Vault keeps."""

    def __init__(self, house: House) -> None:
        del house
        self._secrets = azure_world.account().vault.server.secrets

    def save(self) -> Callable[[], None]:
        return self._secrets.saved()

    def state(self) -> object:
        return self._secrets._copied(self._secrets.live)

    def cells(self, key: str) -> list[Cell]:
        held = self._secrets.live[secret_name(PREFIX, key)].versions
        return [self._cell(key, version.version) for version in held]

    def _change(self, key: str, name: str, **fields: Any) -> None:
        secret = self._secrets.live[secret_name(PREFIX, key)]
        version = next(version for version in secret.versions if version.version == name)
        secret.replaced(type(version)(**{**vars(version), **fields}))

    def _version(self, key: str, name: str) -> Any:
        return next(
            version for version in self._secrets.live[secret_name(PREFIX, key)].versions if version.version == name
        )

    def _cell(self, key: str, name: str) -> Cell:
        """A value with its content type, as anybody who puts one sends both."""

        def read() -> bytes:
            version = self._version(key, name)
            return f"{version.content_type}|{version.value}".encode()

        def write(data: bytes) -> None:
            kind, _, value = data.decode("utf-8", "replace").partition("|")
            self._change(key, name, value=value, content_type=kind)

        return Cell(key, name, read, write)

    def marks(self, key: str) -> Iterable[tuple[str, Callable[[], object]]]:
        versions = self._secrets.live[secret_name(PREFIX, key)].versions
        for version in versions:
            name, tags = version.version, dict(version.tags or {})
            if version is not versions[-1]:
                yield f"{name} is newest", partial(self._last, key, name)
                yield f"{name} is gone", partial(self._drop, key, name)
            yield (
                f"{name} is {'disabled' if version.enabled else 'enabled'}",
                (partial(self._change, key, name, enabled=not version.enabled)),
            )
            yield f"{name} has no content type", partial(self._change, key, name, content_type="")
            for tag in tags:
                left = {other: text for other, text in tags.items() if other != tag}
                yield f"{name} without {tag}", partial(self._change, key, name, tags=left)
            for other in versions:
                if other is not version:
                    theirs = dict(other.tags or {})
                    yield (
                        f"{name} with the tags of {other.version}",
                        (partial(self._change, key, name, tags=theirs)),
                    )

    def _last(self, key: str, name: str) -> None:
        """Put again, now: a copy of an old one, with its tags."""
        secret = self._secrets.live[secret_name(PREFIX, key)]
        old, newest = self._version(key, name), secret.versions[-1]
        secret.versions = [v for v in secret.versions if v.version != name]
        secret.versions.append(type(old)(**{**vars(old), "created": newest.created + 3600, "enabled": True}))

    def _drop(self, key: str, name: str) -> None:
        secret = self._secrets.live[secret_name(PREFIX, key)]
        secret.versions = [version for version in secret.versions if version.version != name]

    def exchange(self, one: str, other: str) -> None:
        live = self._secrets.live
        live[secret_name(PREFIX, one)].versions, live[secret_name(PREFIX, other)].versions = (
            live[secret_name(PREFIX, other)].versions,
            live[secret_name(PREFIX, one)].versions,
        )


class Gcp:
    """What the double of Secret Manager keeps."""

    def __init__(self, house: House) -> None:
        del house
        self._store = gcp_world.project().secrets.store

    def save(self) -> Callable[[], None]:
        return self._store.saved()

    def state(self) -> object:
        return {
            name: (
                s.states.states[-1].SerializeToString(deterministic=True),
                [(v.data, v.states.states[-1].state) for v in s.versions],
            )
            for name, every in self._store._held.items()
            for s in every
            if s.states.states[-1] is not None
        }

    def _secret(self, key: str) -> Any:
        return self._store._alive(secret_name(PREFIX, key))

    def cells(self, key: str) -> list[Cell]:
        return [self._cell(key, version.number) for version in self._secret(key).versions]

    def _cell(self, key: str, number: int) -> Cell:
        def write(data: bytes) -> None:
            import google_crc32c  # noqa: PLC0415  # where this store is not used, it need not be there

            version = self._secret(key).version(number)
            version.data, version.crc32c = data, google_crc32c.value(data)

        return Cell(key, str(number), lambda: bytes(self._secret(key).version(number).data), write)

    def marks(self, key: str) -> Iterable[tuple[str, Callable[[], object]]]:
        secret = self._secret(key)
        annotations = dict(secret.states.states[-1].annotations)
        numbers = annotations["daena-kms-versions"]
        for name in annotations:
            left = {other: text for other, text in annotations.items() if other != name}
            yield f"without {name}", partial(self._annotate, key, left)
        yield "none of our annotations", partial(self._annotate, key, {})
        pairs = numbers.split(" ")
        swapped = " ".join(
            f"{one.partition('=')[0]}={other.partition('=')[2]}"
            for one, other in zip(pairs, reversed(pairs), strict=True)
        )
        for text in ("", "1=1", f"99={len(secret.versions)}", f"{numbers} 98={len(secret.versions) + 1}", swapped):
            changed = {**annotations, "daena-kms-versions": text}
            yield f"versions: {text!r}", partial(self._annotate, key, changed)
        yield "without its label", partial(self._label, key)
        for version in secret.versions:
            state = {1: "ENABLED", 2: "DISABLED", 3: "DESTROYED"}[version.states.states[-1].state]
            for action, ends in (("disable", "DISABLED"), ("enable", "ENABLED"), ("destroy", "DESTROYED")):
                if state not in (ends, "DESTROYED"):
                    do = getattr(self._store, action)
                    yield f"{action} {version.number}", partial(do, secret_name(PREFIX, key), str(version.number), "")
            if state == "ENABLED" and version is not secret.versions[-1]:
                again = partial(self._store.put, secret_name(PREFIX, key), version.data)
                yield f"{version.number} added again", again

    def _annotate(self, key: str, annotations: dict[str, str]) -> None:
        from google.cloud.secretmanager_v1.types import resources  # noqa: PLC0415

        changed = resources.Secret(annotations=annotations)
        self._store.update(secret_name(PREFIX, key), resources.Secret.pb(changed), ["annotations"])

    def _label(self, key: str) -> None:
        from google.cloud.secretmanager_v1.types import resources  # noqa: PLC0415

        self._store.update(secret_name(PREFIX, key), resources.Secret.pb(resources.Secret()), ["labels"])

    def exchange(self, one: str, other: str) -> None:
        first, second = self._secret(one), self._secret(other)
        first.versions, second.versions = second.versions, first.versions
        for secret in (first, second):
            for version in secret.versions:
                self._name(version, f"{secret.states.states[-1].name}/versions/{version.number}")

    @staticmethod
    def _name(version: Any, name: str) -> None:
        """The service calls each version by the secret that it lies in."""
        from tests.support import gsm_messages  # noqa: PLC0415

        states = [gsm_messages.copied(state) for state in version.states.states]
        for state in states:
            state.name = name
        version.states.states = states


HANDS: dict[str, Callable[[House], Hands]] = {
    "memory-fenced": Memory,
    "memory-unfenced": Memory,
    "local": Local,
    "aws": Aws,
    "azure": Azure,
    "gcp": Gcp,
}
