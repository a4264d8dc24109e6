"""The Azure store beyond the contract: lost replies, what lies where, calls, limits, permissions, quotas."""

import itertools
import math
from collections.abc import Callable

import pytest
from azure.core.pipeline.transport import HttpTransport

from daena_kms import trust
from daena_kms.errors import (
    ConfigurationError,
    DeniedError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    ThrottledError,
    UnavailableError,
)  # fmt: skip
from daena_kms.fleet import Order
from daena_kms.material import KeyMaterial
from daena_kms.model import Anchor, KeySpec, State, Status, StoredVersion
from daena_kms.names import RESERVED_KEY
from daena_kms.plan import rotation_id
from daena_kms.policy import KeyPolicy
from daena_kms.stores import azure
from daena_kms.stores import azure_layout as layout
from daena_kms.stores.azure_secrets import CREATES, PER_SECONDS
from daena_kms.stores.base import NewVersion
from daena_kms.stores.pace import Pace
from tests.support import azure_world
from tests.support.azure_scene import NAME, STAGED, Fault, Scene, lost, not_sent, once, refusal
from tests.support.doubles import MemoryLedger
from tests.support.vault_http import Answer, Asked
from tests.support.worlds import KEY, START, Clock, Effects, Mortal, dying

SPEC = KeySpec.parse("AES-256")


@pytest.fixture
def scene() -> Scene:
    return Scene()


def new(number: int) -> NewVersion:
    return NewVersion(number, rotation_id(KEY, 1, number), f"1:fingerprint-{number}", SPEC.name)


# --- what lies there


def test_a_plain_reader_gets_the_active_version_in_base64(scene: Scene) -> None:
    materials = scene.versions(2)
    got = scene.secrets.get(NAME, "")
    assert layout.seal(materials[1]) == got["value"]
    assert got["contentType"] == f"application/vnd.daena-kms.material+base64;key={NAME};number=2"
    assert scene.numbers() == [1, 2]


def test_nothing_but_what_was_published_can_be_read_where_it_was_staged(scene: Scene) -> None:
    scene.versions(3)
    assert scene.numbers(STAGED) == [1, 2, 3]
    assert scene.enabled(STAGED) == []
    reserved = [name for name in scene.secrets.live if name.startswith("reserved--")]
    assert [scene.enabled(name) for name in sorted(reserved)] == [[1], []]
    scene.check()


def test_one_listing_says_what_is_due_for_every_key(scene: Scene) -> None:
    scene.rotate()
    assert scene.actions(scene.rotate) == ["GET"]
    assert scene.rotate().status is Status.NOT_DUE


def test_a_vault_of_many_keys_is_listed_whole(scene: Scene) -> None:
    for index in range(40):
        staged = scene.azure.stage(f"key-{index:02}", new(1), scene.azure.prepare(f"key-{index:02}", 1, SPEC))
        scene.azure.promote(f"key-{index:02}", staged, None, KeyMaterial(b"x" * 32))
    rows = list(scene.azure.inventory())
    assert [row.key for row in rows] == [f"key-{index:02}" for index in range(40)]
    assert {row.newest for row in rows} == {1}


@pytest.mark.parametrize("rotations", [0, 1])
def test_an_init_that_dies_anywhere_leaves_no_copy_of_what_it_staged(rotations: int) -> None:
    for boundary in itertools.count(1):
        account, ledger = azure_world.emptied(), MemoryLedger()
        store = account.store()
        acts = [trust.initialise, *[trust.renew] * rotations]
        for act in acts[:-1]:
            act(store, ledger, clock=Clock(), trigger="test")
        effects = Effects(boundary)
        with dying():
            acts[-1](Mortal(store, effects), Mortal(ledger, effects), clock=Clock(), trigger="test")
        if len(effects.names) < boundary:
            break
        if not rotations:
            trust.initialise(store, ledger, clock=Clock(), trigger="test")
        elif len(ledger.sequences(RESERVED_KEY)) == 1:
            trust.renew(store, ledger, clock=Clock(), trigger="test")
        staged = account.vault.server.secrets.live["reserved--app-manifest-keys--staged"].versions
        published = account.vault.server.secrets.live["reserved--app-manifest-keys"].versions
        assert [version for version in staged if version.enabled] == [], effects.names
        assert len(published) == rotations + 1, effects.names
        assert len(trust.read_root(ledger).trust.generations) == rotations + 1, effects.names
    assert boundary > 6


def test_an_init_whose_staged_copy_another_takes_away_goes_on_with_that_ones(scene: Scene) -> None:
    """It sleeps between staging and reading back, and the other one tidies up."""
    account, ledger = azure_world.emptied(), MemoryLedger()
    other = account.store()
    effects = Effects(
        sleep_at=2, meanwhile=lambda: trust.initialise(other, ledger, clock=Clock(), trigger="test") and None
    )
    late = trust.initialise(Mortal(account.store(), effects), Mortal(ledger, effects), clock=Clock(), trigger="test")
    assert effects.names[1] == "after stage"
    assert not late.made
    assert late.public_key == trust.initialise(other, ledger, clock=Clock(), trigger="test").public_key


def test_a_secret_is_listed_whatever_the_case_in_which_somebody_made_it(scene: Scene) -> None:
    """Key Vault shows the first spelling of a name for ever."""
    scene.put("x" * 32, name=NAME.upper(), tags=layout.version_tags(new(1), scene.ledger.address))
    assert [row.key for row in scene.azure.inventory()] == [KEY]


def test_what_belongs_to_others_is_not_listed(scene: Scene) -> None:
    scene.put("theirs", name="app-database-password")
    scene.put("theirs", name="elsewhere")
    scene.put("theirs", name="app-Not-A-Key")
    assert list(scene.azure.inventory()) == []


# --- calls


def test_the_calls_of_a_rotation(scene: Scene) -> None:
    scene.rotate()
    scene.apart()
    scene.clock.move(days=91)
    asked = scene.actions(scene.rotate)
    assert asked == [
        "GET",  # the listing, for all keys
        f"PUT {STAGED}",
        f"GET {STAGED}",  # read back
        f"PUT {NAME}",
        f"GET {NAME}",  # the scan
        f"GET {STAGED}",  # copies, another run's too
        f"PATCH {STAGED}",
        f"PATCH {NAME}",  # the head
    ]
    scene.check()


# --- a reply that is lost


@pytest.mark.parametrize("fault", [lost, not_sent], ids=["carried out", "not carried out"])
@pytest.mark.parametrize("where", [STAGED, NAME], ids=["staging", "promoting"])
def test_a_put_whose_reply_is_lost_is_looked_for_and_written_once(scene: Scene, where: str, fault: Fault) -> None:
    scene.rotate()

    def between(asked: Asked, answer: Callable[[], Answer]) -> Answer | None:
        return first(asked, answer) if asked.name == where else answer()

    first = once("setSecret", fault)
    scene.server.between = between
    assert scene.force().status is Status.ROTATED
    assert scene.numbers(where) == [1, 2]
    scene.check()


@pytest.mark.parametrize("status", [500, 503, 504, 408])
def test_a_put_that_may_have_been_carried_out_is_not_sent_again_blindly(scene: Scene, status: int) -> None:
    scene.rotate()

    def answered(_: Asked, answer: Callable[[], Answer]) -> Answer:
        answer()
        return refusal(status, "Whatever", **{"Retry-After": "0"})

    scene.server.between = once("setSecret", answered, NAME)
    assert scene.force().status is Status.ROTATED
    assert scene.numbers(STAGED) == scene.numbers(NAME) == [1, 2]


def test_a_throttled_put_is_sent_again(scene: Scene) -> None:
    scene.rotate()
    scene.server.between = once("setSecret", lambda *_: refusal(429, "Throttled", **{"Retry-After": "0"}))
    assert scene.force().status is Status.ROTATED
    assert scene.numbers(STAGED) == [1, 2]


def test_throttling_without_end_is_throttled(scene: Scene) -> None:
    scene.server.between = lambda *_: refusal(429, "Throttled")
    store = scene.account.store(seconds=0.4)
    with pytest.raises(ThrottledError) as refused:
        store.stage(KEY, new(1), store.prepare(KEY, 1, SPEC))
    assert "DAENA_CONCURRENCY" in refused.value.hint


def test_nobody_waits_longer_than_a_call_may_take(scene: Scene) -> None:
    """Retry-After of an hour would outlast the claim's lease."""
    scene.server.between = lambda *_: refusal(429, "Throttled", **{"Retry-After": "3600"})
    with pytest.raises(ThrottledError):
        scene.azure.observe(KEY)


@pytest.mark.parametrize("where", [STAGED, NAME], ids=["staging", "promoting"])
@pytest.mark.parametrize("tags", [None, {}, {"daena-kms-version": "2"}], ids=["none", "empty", "one"])
def test_a_reply_to_a_put_without_its_tags_is_not_believed_and_nothing_is_written_twice(
    scene: Scene, where: str, tags: dict[str, str] | None
) -> None:
    scene.rotate()

    def between(asked: Asked, answer: Callable[[], Answer]) -> Answer:
        got = answer()
        return _tagged(got, tags) if (asked.action, asked.name) == ("setSecret", where) else got

    scene.server.between = between
    assert scene.force().status is Status.ROTATED
    assert scene.numbers(where) == [1, 2]
    scene.check()


def _tagged(answer: Answer, tags: dict[str, str] | None) -> Answer:
    document = {name: value for name, value in (answer.document or {}).items() if name != "tags"}
    return Answer(answer.status, document if tags is None else {**document, "tags": tags})


def test_a_reply_to_a_change_with_other_tags_is_not_believed(scene: Scene) -> None:
    scene.rotate()
    scene.server.between = lambda asked, answer: _tagged(answer(), {}) if asked.action == "update" else answer()
    with pytest.raises(IntegrityError, match="other tags than were sent"):
        scene.azure.write_anchor(KEY, Anchor(9, "0" * 64, 1, START))


def test_tags_come_back_in_another_case_or_not_at_all_where_none_were_sent(scene: Scene) -> None:
    scene.rotate()
    version = scene.lying()[0].version
    vault = scene.azure._vault
    scene.server.between = lambda _, answer: _tagged(answer(), {"TEAM": "payments"})
    assert vault.patch(NAME, version, tags={"Team": "payments"}).tags == {"TEAM": "payments"}
    scene.server.between = lambda _, answer: _tagged(answer(), None)
    assert vault.patch(NAME, version, tags={}).tags == {}


def test_a_put_is_not_sent_again_once_the_time_of_a_call_is_over(scene: Scene) -> None:
    """Its claim was looked at for so long and no longer: another run may have gone on since."""
    scene.versions(1)
    scene.apart()
    now = [0.0]
    slow = scene.account.store(monotonic=lambda: now[0])
    slow._ledger = scene.ledger.address

    def sleep(_: float) -> None:
        now[0] += 16 * 60
        scene.clock.move(minutes=16)
        scene.server.between = lambda _, answer: answer()
        scene.rotate()
        scene.force()

    slow._vault._sleep = sleep
    scene.server.between = lambda asked, answer: (
        not_sent(asked, answer) if asked.name == NAME and asked.action == "setSecret" else answer()
    )
    outcome = scene.force(store=slow)
    assert scene.numbers() == sorted(scene.numbers()), "an older number lies on top of a newer one"
    assert now[0] > 0
    assert outcome.status is Status.FAILED
    scene.clock.move(minutes=61)
    scene.rotate()
    scene.check()


def test_a_put_that_waits_for_its_turn_longer_than_a_call_may_take_is_not_sent(scene: Scene) -> None:
    now = [0.0]
    store = scene.account.store(monotonic=lambda: now[0])
    store._vault._pace = Slow(lambda: now.__setitem__(0, now[0] + 60))
    with pytest.raises(UnavailableError, match="time of a call is over") as refused:
        store.stage(KEY, new(1), store.prepare(KEY, 1, SPEC))
    assert refused.value.hint
    assert scene.lying(STAGED) == []


class Slow(Pace):
    """A queue in which something happens before it is one's turn."""

    def __init__(self, wait: Callable[[], None]) -> None:
        super().__init__(1, 1, lambda: 0.0, lambda _: None)
        self._before = wait

    def wait(self, longest: float = math.inf) -> bool:
        self._before()
        return True


def test_a_put_whose_turn_is_further_away_than_a_call_may_take_is_throttled_and_not_waited_for(scene: Scene) -> None:
    waited: list[float] = []
    store = scene.account.store()
    store._vault._pace = Pace(1, 22.0, lambda: 0.0, waited.append)
    store.stage(KEY, new(1), store.prepare(KEY, 1, SPEC))
    with pytest.raises(ThrottledError, match="wait for their turn") as refused:
        store.stage(KEY, new(2), store.prepare(KEY, 2, SPEC))
    assert "DAENA_CONCURRENCY" in refused.value.hint
    assert waited == []
    assert len(scene.lying(STAGED)) == 1


def test_retry_after_is_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.rotate()
    waited: list[float] = []
    monkeypatch.setattr(HttpTransport, "sleep", lambda _, seconds: waited.append(float(seconds)))
    for action, seconds in (("readMetadata", "7"), ("setSecret", "11"), ("update", "13")):
        scene.server.between = once(action, lambda *_, n=seconds: refusal(429, "Throttled", **{"Retry-After": n}))
        assert scene.force().status is Status.ROTATED
    assert waited == [7.0, 11.0, 13.0]


def test_a_name_that_waits_to_be_purged_is_not_asked_for_again_and_again(scene: Scene) -> None:
    scene.rotate()
    scene.secrets.delete(STAGED)
    waited: list[float] = []
    scene.azure._vault._sleep = waited.append
    before = len(scene.server.calls)
    with pytest.raises(UnavailableError, match="recoverable") as refused:
        scene.azure.stage(KEY, new(2), scene.azure.prepare(KEY, 2, SPEC))
    assert f"--name {STAGED}" in refused.value.hint
    assert waited == []
    assert [call.method for call in scene.server.calls[before:]] == ["PUT"]


def test_a_vault_that_never_answers_a_put_is_unavailable_and_nothing_is_lost(scene: Scene) -> None:
    materials = scene.versions(1)
    scene.server.between = lambda asked, answer: None if asked.action == "setSecret" else answer()
    outcome = scene.force()
    assert outcome.status is Status.FAILED
    assert "reply was lost" in outcome.message
    scene.server.between = lambda _, answer: answer()
    scene.clock.move(minutes=61)
    scene.rotate()
    assert scene.materials()[0] == materials[0]
    scene.check()


# --- which version readers get


def test_of_versions_put_in_the_same_second_the_vault_says_which_is_the_newest(scene: Scene) -> None:
    scene.versions(4)
    for _ in range(5):  # the ids, by which they are listed, are random
        scene.force()
        seen = scene.azure.observe(KEY)
        assert seen.newest is not None
        assert seen.newest.version_id == scene.lying()[-1].version
    assert len({version.created for version in scene.lying()}) <= 3


def test_a_newest_version_that_is_disabled_is_found_all_the_same(scene: Scene) -> None:
    scene.versions(2)
    scene.change(scene.lying()[-1].version, attributes={"enabled": False})
    seen = scene.azure.observe(KEY)
    assert seen.newest is not None
    assert (seen.newest.number, seen.newest.enabled) == (2, False)
    assert any("disabled" in problem for problem in scene.problems())


def test_pages_may_be_short(scene: Scene) -> None:
    scene.versions(5)
    scene.secrets.page = 1
    assert [version.number for version in scene.azure.observe(KEY).versions] == [1, 2, 3, 4, 5]
    scene.check()


# --- replies that are none


FOREIGN: dict[str, Answer] = {
    "an empty object": Answer(200, {}),
    "another page": Answer(200, {"value": "x", "nextLink": None}),
    "no end": Answer(200, {"value": []}),
    "a list": Answer(200, [1]),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_listing_that_is_none_is_not_an_empty_one(scene: Scene, name: str) -> None:
    scene.server.between = lambda *_: FOREIGN[name]
    for ask in (lambda: list(scene.azure.inventory()), lambda: scene.azure.observe(KEY)):
        with pytest.raises(UnavailableError, match="no page of a listing"):
            ask()


def test_half_a_reply_says_nothing(scene: Scene) -> None:
    scene.rotate()
    scene.server.between = lambda _, answer: Answer(200, answer().document, {"Content-Length": "100000"})
    with pytest.raises(UnavailableError):
        scene.account.store(seconds=0.4).observe(KEY)


@pytest.mark.parametrize("field", ["id", "attributes"])
def test_a_version_that_lacks_what_every_version_has_is_not_believed(scene: Scene, field: str) -> None:
    scene.rotate()

    def between(_: Asked, answer: Callable[[], Answer]) -> Answer:
        document = dict(answer().document or {})
        document.pop(field, None)
        return Answer(200, document)

    scene.server.between = between
    with pytest.raises(UnavailableError, match="lacks"):
        scene.azure.read(KEY, StoredVersion(1, scene.lying()[0].version))


def test_a_reply_about_another_secret_is_not_believed(scene: Scene) -> None:
    scene.rotate()
    scene.put("x", name="app-other")
    scene.server.between = lambda *_: Answer(200, scene.secrets.get("app-other", ""))
    with pytest.raises(IntegrityError, match="told about"):
        scene.azure.read(KEY, StoredVersion(1, scene.lying()[0].version))


# --- material


@pytest.mark.parametrize("value", ["not base64", "AAA", "AA=A"])
def test_a_damaged_value_is_no_material(scene: Scene, value: str) -> None:
    version = scene.put(value, contentType=layout.content_type(NAME, 1))
    with pytest.raises(IntegrityError, match="no base64"):
        scene.azure.read(KEY, StoredVersion(1, version))


def test_a_value_of_another_key_does_not_open_here(scene: Scene) -> None:
    scene.rotate()
    stolen = scene.secrets.get(NAME, "")
    version = scene.put(stolen["value"], contentType=stolen["contentType"].replace(KEY, "other-key"))
    with pytest.raises(IntegrityError, match="was written as"):
        scene.azure.read(KEY, StoredVersion(1, version))


def test_a_version_id_that_key_vault_never_gave_is_not_asked_for(scene: Scene) -> None:
    scene.rotate()
    before = len(scene.server.calls)
    with pytest.raises(NotFoundError):
        scene.azure.read(KEY, StoredVersion(1, "../x"))
    assert len(scene.server.calls) == before


# --- life of a version


def test_every_copy_is_disabled_and_a_destroyed_one_stays_so(scene: Scene) -> None:
    scene = Scene(KeyPolicy(create=True, grace_days=0, destroy_after_days=1))
    scene.versions(4)
    scene.service().disable(KEY, 1)
    assert scene.enabled() == [2, 3, 4]
    scene.service().enable(KEY, 1)
    assert scene.enabled() == [1, 2, 3, 4]
    scene.service().destroy(KEY, 1)
    scene.clock.move(days=2)
    scene.rotate()
    assert scene.states()[1] is State.DESTROYED
    assert (scene.lying()[0].tags or {})[layout.DESTROYED] == "yes"
    with pytest.raises(RefusedError, match="was destroyed"):
        scene.azure.enable(KEY, StoredVersion(1, scene.lying()[0].version))
    assert scene.enabled() == [2, 3, 4]
    assert scene.problems() == []


def test_what_key_vault_cannot_destroy_is_said(scene: Scene) -> None:
    assert "destroys no single version" in scene.azure.destruction


# --- the head beside the key


def test_the_head_lies_on_what_readers_get_and_other_tags_stay(scene: Scene) -> None:
    scene.rotate()
    scene.change(scene.lying()[0].version, tags={**(scene.lying()[0].tags or {}), "team": "payments"})
    scene.service().pause(KEY, reason="audit")
    tags = scene.lying()[0].tags or {}
    assert (tags["team"], tags["daena-kms-paused"]) == ("payments", "yes")
    assert scene.rotate().status is Status.PAUSED


def test_a_head_that_is_none_of_ours_fails_the_key(scene: Scene) -> None:
    scene.rotate()
    scene.change(scene.lying()[0].version, tags={**(scene.lying()[0].tags or {}), "daena-kms-head": "1 2 3"})
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "was not written by us" in outcome.message


def test_a_version_that_has_lost_its_tags_is_drift(scene: Scene) -> None:
    scene.rotate()
    scene.change(scene.lying()[0].version, tags={})
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "which no claim names" in outcome.message or "not there" in outcome.message


def test_a_cut_manifest_shows_against_the_head_of_an_older_version(scene: Scene) -> None:
    """Whoever puts a value by hand leaves the newest version without a head."""
    scene.versions(2)
    scene.put("x" * 32)
    last = max(sequence for key, sequence in scene.memory.objects if key == KEY)
    del scene.memory.objects[KEY, last]
    assert any("the manifest was cut" in problem for problem in scene.problems())


def test_a_key_without_any_version_has_no_place_for_a_head(scene: Scene) -> None:
    with pytest.raises(NotFoundError):
        scene.azure.write_anchor(KEY, Anchor(1, "0" * 64, 1, START))


# --- permissions


ACTS: dict[str, Callable[[Scene], object]] = {
    "inventory": lambda s: list(s.azure.inventory()),
    "observe": lambda s: s.azure.observe(KEY),
    "stage": lambda s: s.azure.stage(KEY, new(9), s.azure.prepare(KEY, 9, SPEC)),
    "read": lambda s: s.azure.read(KEY, StoredVersion(1, s.lying()[0].version)),
    "promote": lambda s: s.azure.promote(
        KEY, StoredVersion(9, "", "1:9", "r", SPEC.name), None, KeyMaterial(b"x" * 32)
    ),
    "label": lambda s: s.azure.label(KEY, StoredVersion(1, s.lying()[0].version), new(1)),
    "disable": lambda s: s.azure.disable(KEY, StoredVersion(1, s.lying()[0].version)),
    "destroy": lambda s: s.azure.destroy(KEY, StoredVersion(1, s.lying()[0].version)),
    "write_anchor": lambda s: s.azure.write_anchor(KEY, Anchor(1, "0" * 64, 2, START)),
}


@pytest.mark.parametrize("act", ACTS)
def test_each_act_needs_what_its_table_says_and_no_more(scene: Scene, act: str) -> None:
    scene.versions(2)
    needed = {action.split("/")[1] for action in azure.REQUIRED_PERMISSIONS[act]}
    scene.server.allowed["tester"] = set(needed)
    before = len(scene.server.calls)
    scene.azure = scene.account.store()
    ACTS[act](scene)
    assert {call.action for call in scene.server.calls[before:]} <= needed
    scene.server.allowed["tester"] = set()
    with pytest.raises(DeniedError) as refused:
        ACTS[act](scene)
    assert "infra/azure" in refused.value.hint


def test_the_four_actions_are_all_that_a_life_needs(scene: Scene) -> None:
    scene.server.allowed["tester"] = {"setSecret", "getSecret", "readMetadata", "update"}
    scene.versions(3)
    scene.service().disable(KEY, 1)
    scene.service().enable(KEY, 1)
    scene.check()
    used = {call.action for call in scene.server.calls if call.principal == "tester"}
    assert used == scene.server.allowed["tester"]
    for missing in sorted(used):
        scene.server.allowed["tester"] = used - {missing}
        try:
            (outcome,) = scene.service().rotate(Order((KEY,), force=True, request=missing)).outcomes
        except DeniedError:
            continue  # nothing was begun
        assert outcome.status is Status.FAILED, missing
        scene.clock.move(minutes=61)
    scene.server.allowed.clear()
    scene.clock.move(minutes=61)
    scene.rotate()
    scene.check()


# --- quotas and limits


def test_no_more_creates_than_the_vault_takes(scene: Scene) -> None:
    now = [0.0]
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    pace, passed = Pace(CREATES, PER_SECONDS, lambda: now[0], sleep), []
    for _ in range(1000):
        pace.wait()
        passed.append(now[0])
        now[0] += 0.001
    for start in passed:
        assert len([at for at in passed if start <= at < start + 10]) <= 300
    assert now[0] < 1000 / 30 * 1.05, "and nearly as many as it takes"
    assert max(waited) <= 1, "nobody for long"


@pytest.mark.parametrize("length", [19_200, 19_201])
def test_what_key_vault_would_refuse_is_refused_before(scene: Scene, length: int) -> None:
    prepared = scene.azure.prepare(KEY, 1, SPEC, KeyMaterial(b"x" * length))
    if length <= 19_200:
        scene.azure.stage(KEY, new(1), prepared)
        return
    before = len(scene.server.calls)
    with pytest.raises(RefusedError, match="too long for Key Vault"):
        scene.azure.stage(KEY, new(1), prepared)
    assert len(scene.server.calls) == before


def test_a_ledger_whose_address_is_too_long_for_a_tag_is_refused(scene: Scene) -> None:
    scene.azure._ledger = "x" * 513
    with pytest.raises(ConfigurationError, match="daena-kms-ledger"):
        scene.azure.stage(KEY, new(1), scene.azure.prepare(KEY, 1, SPEC))


def test_more_tags_than_key_vault_takes_are_refused_before_a_change_too(scene: Scene) -> None:
    scene.rotate()
    before = len(scene.server.calls)
    with pytest.raises(RefusedError, match="16 tags"):
        scene.azure._vault.patch(NAME, scene.lying()[0].version, tags={f"t{n}": "x" for n in range(16)})
    with pytest.raises(ConfigurationError, match="too long"):
        scene.azure._vault.patch(NAME, scene.lying()[0].version, tags={"t": "x" * 513})
    assert len(scene.server.calls) == before


def test_all_our_tags_fit(scene: Scene) -> None:
    scene.versions(2)
    assert len(layout.OURS) + 1 <= layout.MOST_TAGS
    assert {tag for version in scene.lying() for tag in version.tags or {}} <= set(layout.OURS)
