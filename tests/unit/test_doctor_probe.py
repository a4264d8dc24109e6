"""What trying permissions comes to, with no service in sight; and the doubles' answers that it rests on."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import botocore.session
import pytest
from botocore.exceptions import ClientError
from google.cloud.storage import Client

from daena_kms.errors import (
    ConfigurationError,
    ConflictError,
    DeniedError,
    ExistsError,
    KmsError,
    NotFoundError,
    ThrottledError,
    UnavailableError,
)
from daena_kms.stores.probe import CREATE_ONLY, Check, Standing, Trials, Watch, create_again
from tests.support import aws_world
from tests.support.google_tokens import Tokens
from tests.support.gsm_service import within
from tests.support.strict_gcs import StrictGcs
from tests.support.strict_secrets import StrictSecrets

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
PERMISSIONS = ["secretmanager.versions.add", "secretmanager.secrets.update"]


def standings(trials: Trials) -> dict[str, str]:
    return {check.name: check.standing.value for check in trials.found}


def raising(problem: KmsError) -> None:
    raise problem


# --- trials


def test_the_first_answer_shows_that_the_service_can_be_reached() -> None:
    trials = Trials("it")
    assert trials.ask("a", lambda: 7) == 7
    assert trials.ask("b", lambda: raising(DeniedError("no", "ask for it"))) is None
    assert standings(trials) == {"it": "ok", "a": "ok", "b": "failed"}
    assert trials.found[2] == Check("b", Standing.FAILED, "no", "ask for it")


def test_a_denial_is_an_answer() -> None:
    trials = Trials("it")
    trials.ask("a", lambda: raising(DeniedError("no")))
    assert standings(trials) == {"it": "ok", "a": "failed"}


def test_without_an_answer_nothing_more_is_asked() -> None:
    trials, asked = Trials("it"), list[str]()
    trials.ask("a", lambda: raising(UnavailableError("gone", "check the network")))
    trials.ask("b", lambda: asked.append("b"))
    trials.skip("c", "because of nothing", "no hint now")
    assert (asked, standings(trials)) == ([], {"it": "failed", "a": "not-tried", "b": "not-tried", "c": "not-tried"})
    assert {check.message for check in trials.found[1:]} == {"because it gives no answer"}


@pytest.mark.parametrize("problem", [UnavailableError("disabled"), ConfigurationError("no such bucket")])
def test_what_makes_the_rest_useless_is_told_once(problem: KmsError) -> None:
    trials = Trials("it")
    trials.ask("a", lambda: 1)
    trials.ask("b", lambda: raising(problem))
    trials.ask("c", lambda: 1)
    assert standings(trials) == {"it": "ok", "a": "ok", "b": "failed", "c": "not-tried"}
    assert trials.found[-1].message == "because of b"


@pytest.mark.parametrize("problem", [DeniedError("no"), ThrottledError("slow down"), ConflictError("look again")])
def test_what_is_one_lines_own_fault_stops_no_other(problem: KmsError) -> None:
    trials = Trials("it")
    trials.ask("a", lambda: raising(problem))
    trials.ask("b", lambda: 1)
    assert standings(trials) == {"it": "ok", "a": "failed", "b": "ok"}


def test_a_request_that_cannot_succeed_is_allowed_where_it_is_refused_for_that() -> None:
    trials = Trials("it")
    trials.ask("a", lambda: raising(NotFoundError("no such version")), refusals=(NotFoundError,))
    trials.ask("b", lambda: raising(DeniedError("no")), refusals=(NotFoundError,))
    trials.ask("c", lambda: None, refusals=(NotFoundError,))
    assert standings(trials) == {"it": "ok", "a": "ok", "b": "failed", "c": "failed"}
    assert "nobody can" in trials.found[-1].message


# --- create-only


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        pytest.param(ExistsError("it is there"), {"put": "ok", CREATE_ONLY: "ok"}, id="refused"),
        pytest.param(None, {"put": "ok", CREATE_ONLY: "failed"}, id="overwritten"),
        pytest.param(DeniedError("no"), {"put": "failed", CREATE_ONLY: "not-tried"}, id="denied"),
    ],
)
def test_create_only(problem: KmsError | None, expected: dict[str, str]) -> None:
    trials, sent = Trials(), list[bytes]()

    def put(data: bytes) -> None:
        sent.append(data)
        if problem is not None:
            raise problem

    create_again(trials, "put", "get", b"what lies there", put)
    assert sent == [b"what lies there"], "the very bytes that were read, and once"
    assert standings(trials) == expected


def test_without_a_first_entry_nothing_is_put() -> None:
    trials = Trials()
    create_again(trials, "put", "get", None, lambda _: pytest.fail("put"))
    assert standings(trials) == {"put": "not-tried", CREATE_ONLY: "not-tried"}
    assert "init" in trials.found[0].hint


def test_where_it_could_not_be_read_init_is_no_advice() -> None:
    trials = Trials()
    trials.ask("get", lambda: raising(DeniedError("no")))
    create_again(trials, "put", "get", None, lambda _: pytest.fail("put"))
    assert [check.message for check in trials.found[1:]] == ["because of get"] * 2
    assert [check.hint for check in trials.found[1:]] == ["", ""]


# --- the clock


@pytest.mark.parametrize(
    ("dates", "skew"),
    [
        pytest.param([], None, id="none"),
        pytest.param(["", "yesterday"], None, id="no-dates"),
        pytest.param(["Thu, 01 Jan 2026 12:00:00 GMT"], 0, id="right"),
        pytest.param(["Thu, 01 Jan 2026 11:57:00 GMT"], 180, id="ahead"),
        pytest.param(["Thu, 01 Jan 2026 12:10:00 -0000"], -600, id="behind"),
        pytest.param(["Thu, 01 Jan 2026 11:50:00 GMT", "Thu, 01 Jan 2026 11:59:59 GMT"], 1, id="the-nearest-counts"),
    ],
)
def test_a_watch(dates: list[str], skew: int | None) -> None:
    watch = Watch(lambda: NOW)
    for date in dates:
        watch.heard(date)
    assert watch.skew == (None if skew is None else timedelta(seconds=skew))


# --- what the doubles answer


def test_dry_runs_of_kms() -> None:
    """recorded-replies: what would work is an error; what would not work fails as ever."""
    aws_world.account()
    kms = botocore.session.Session().create_client("kms", region_name=aws_world.REGION)
    key = aws_world.account().key
    asked = {"KeyId": key, "EncryptionContext": {"a": "b"}}
    blob = kms.encrypt(Plaintext=b"x", **asked)["CiphertextBlob"]
    for act, parameters in (
        (kms.encrypt, {"Plaintext": b"x", **asked}),
        (kms.generate_data_key, {"NumberOfBytes": 32, **asked}),
        (kms.decrypt, {"CiphertextBlob": blob, **asked}),
    ):
        with pytest.raises(ClientError) as caught:
            act(DryRun=True, **parameters)
        assert caught.value.response["Error"]["Code"] == "DryRunOperationException"
    with pytest.raises(ClientError) as caught:
        kms.decrypt(DryRun=True, CiphertextBlob=blob, KeyId=key, EncryptionContext={"a": "c"})
    assert caught.value.response["Error"]["Code"] == "InvalidCiphertextException"


@pytest.fixture(scope="module")
def secrets() -> Iterator[StrictSecrets]:
    made = StrictSecrets()
    yield made
    made.close()


def test_permissions_that_secret_manager_is_asked_about(secrets: StrictSecrets) -> None:
    secrets.store.put("app-a", b"1")
    client = secrets.client()
    whole = f"projects/{secrets.project_id}/secrets/"

    def held(name: str) -> list[str]:
        reply = client.test_iam_permissions(request={"resource": whole + name, "permissions": PERMISSIONS})
        return list(reply.permissions)

    assert held("app-a") == PERMISSIONS
    secrets.service.allowed = {"somebody@example.com": within(secrets.number, "app-", [PERMISSIONS[1]])}
    assert held("app-a") == [PERMISSIONS[1]]
    assert held("app-b") == [], "of what is not there nothing is granted, and it is no error"
    secrets.store.put("other", b"1")
    assert held("other") == []


def test_permissions_that_cloud_storage_is_asked_about() -> None:
    storage = StrictGcs(time.time, Tokens())
    storage.server.objects.create_bucket("a-bucket")
    wanted = ["storage.objects.create", "storage.objects.delete"]
    who = "somebody@example.com"
    client = Client(project="p", credentials=storage.credential(who), client_options={"api_endpoint": storage.url})
    assert client.bucket("a-bucket").test_iam_permissions(wanted) == wanted
    storage.server.allowed = {who: {wanted[0]}}
    assert client.bucket("a-bucket").test_iam_permissions(wanted) == wanted[:1]
    storage.server.allowed = {who: set()}
    assert client.bucket("a-bucket").test_iam_permissions(wanted) == []
    storage.close()
