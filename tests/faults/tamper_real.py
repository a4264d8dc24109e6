"""The same tampering with the objects themselves, by somebody whom no rule of the bucket or folder stops."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from daena_kms.ledger import object_name
from tests.cli.sandbox import Sandbox
from tests.support import aws_world, azure_world, gcp_world
from tests.support.aws_world import BUCKET
from tests.support.manifest_reader import RESERVED
from tests.support.worlds import KEY

from .tamper_chains import Chain, flips, junk, structure
from .tamper_judge import Judge
from .tamper_scene import KEYS, Copy, House, Place, SurpriseError, plain
from .units import Room


class Objects(Protocol):
    """What lies in a ledger, to be changed."""

    def put(self, place: Place, data: bytes | None) -> None:
        """Something else there; None for nothing."""
        ...

    def undo(self, place: Place, data: bytes | None) -> None:
        """What was there before, as if it had never been otherwise."""
        ...


class Folder:
    """Files."""

    def __init__(self, house: House) -> None:
        self._folder = house.folder / "manifests"

    def put(self, place: Place, data: bytes | None) -> None:
        path = self._folder / place[0] / object_name(place[1])
        path.unlink(missing_ok=True)
        if data is not None:
            path.write_bytes(data)

    undo = put


class S3:
    """A bucket that keeps versions: they are deleted one by one to undo a change."""

    def __init__(self, house: House) -> None:
        del house
        self._s3 = aws_world.account().aws.client("s3")
        self._kept = {each["VersionId"] for each in self._versions("")}

    def _versions(self, prefix: str) -> list[dict[str, Any]]:
        pages = list(self._s3.pages("list_object_versions", BUCKET, Bucket=BUCKET, Prefix=prefix))
        return [each for page in pages for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))]

    def put(self, place: Place, data: bytes | None) -> None:
        name = f"manifests/{place[0]}/{object_name(place[1])}"
        if data is None:
            self._s3.call("delete_object", name, Bucket=BUCKET, Key=name)
        else:
            self._s3.call("put_object", name, Bucket=BUCKET, Key=name, Body=data)

    def undo(self, place: Place, data: bytes | None) -> None:
        del data
        name = f"manifests/{place[0]}/{object_name(place[1])}"
        for each in self._versions(name):
            if each["VersionId"] not in self._kept:
                self._s3.call("delete_object", name, Bucket=BUCKET, Key=name, VersionId=each["VersionId"])


class Blobs:
    """A container; the emulator keeps no versions."""

    def __init__(self, house: House) -> None:
        del house
        self._container = azure_world.account().containers()

    def put(self, place: Place, data: bytes | None) -> None:
        name = f"keys/{place[0]}/{object_name(place[1])}"
        if data is not None:
            self._container.upload_blob(name, data, overwrite=True)
        elif self._container.get_blob_client(name).exists():
            self._container.delete_blob(name)

    undo = put


class Gcs:
    """A bucket without versions."""

    def __init__(self, house: House) -> None:
        del house
        self._bucket = gcp_world.project().client().bucket(gcp_world.project().bucket)

    def put(self, place: Place, data: bytes | None) -> None:
        blob = self._bucket.blob(f"keys/{place[0]}/{object_name(place[1])}")
        if data is not None:
            blob.upload_from_string(data, content_type="application/json")
        elif blob.exists():
            blob.delete()

    undo = put


OBJECTS: Mapping[str, Callable[[House], Objects]] = {"local": Folder, "aws": S3, "azure": Blobs, "gcp": Gcs}


def real(name: str, most: int, room: Room) -> None:
    """So many tamperings, each really done to the objects, and undone; on the local store the command is asked too."""
    house = plain(name, room.folder)
    judge, objects = Judge(house, room), OBJECTS[name](house)
    house.ledger = house.real
    cases = [
        case
        for key in (KEY, RESERVED)
        for chain in (Chain(house, key),)
        for case in (
            *structure(chain, room.chance),
            *junk(chain, room.chance),
            *flips(chain, room.chance, every_bit=False, part=room.chance.randrange(50), parts=50),
        )
        if all(len(data or b"") <= 1 << 20 for data in case.changes.values())
    ]
    for index, case in enumerate(room.chance.sample(cases, min(most, len(cases)))):
        problems: list[str] = []
        for place, data in case.changes.items():
            objects.put(place, data)
        try:
            verdict = house.verified(KEYS if case.key == RESERVED else (case.key,))
            copy = Copy(house.real)
            house.ledger = copy
            keys = KEYS if case.key == RESERVED else (case.key,)
            independent = [house.independent(key) for key in keys]
            house.ledger = house.real
            if not verdict.bad or not any(independent):
                problems.append(f"verify says {verdict.problems}, the independent verifier {independent}")
            elif not judge.names(verdict, case):
                problems.append(f"verify does not name it: {verdict.problems}, expected one of {case.blames}")
            if name == "local" and index % 10 == 0:
                problems += _commanded(room.folder, case.blames)
        except SurpriseError as surprise:
            problems.append(f"no error of ours: {surprise}")
        for place in case.changes:
            objects.undo(place, house.past.get(place))
        if found := house.verified().problems:
            problems.append(f"put back: verify still says {found}")
        judge.tell(f"real objects: {case.kind}: {case.name} of {case.key}", problems)


def _commanded(folder: Path, blames: tuple[str, ...]) -> list[str]:
    """What the command says: exit status 3, and where it is."""
    box = Sandbox(folder / "command")
    result = box.process("verify", "--json", DAENA_HOME=str(folder))
    told = result.out + result.err
    problems = [] if result.status == 3 else [f"`verify` ends with {result.status}: {told}"]
    problems += [] if any(blame in told for blame in blames) else [f"`verify` does not name it: {told}"]
    if "Traceback" in told:
        problems.append("a traceback")
    if result.out:
        json.loads(result.out)
    return problems
