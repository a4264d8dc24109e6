"""Where the load is put: a store's double with its cloud's quotas in force, and calls that take their time.

Quotas and their sources (`cloud-facts.md`; AWS: "AWS Secrets Manager quotas", reference_limits.html):

* AWS, of a region: PutSecretValue, UpdateSecretVersionStage, UpdateSecret (and calls about replicas) 50 a second
  together; TagResource and UntagResource 50; CreateSecret 50; ListSecretVersionIds 50; ListSecrets 100; DescribeSecret
  and GetSecretValue 10,000 (40,000 of the first, AWS says by now). KMS: 10,000 in the smaller regions.
* Azure, of a vault in ten seconds: 300 creations of secrets, 4,000 of all else.
* Google Cloud, of a project in a minute: 600 writes, 600 reads, 90,000 accesses; of one secret 2 additions and updates
  a second.

S3, blobs and Cloud Storage take thousands a second, and are not limited here. That an attempt takes 20 to 60 ms,
evenly, is an assumption: no cloud promises anything.
"""

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import botocore.httpsession
import grpc
import requests
from google.api_core import grpc_helpers
from werkzeug.wrappers import Response

from tests.support import aws_world, azure_world, gcp_world
from tests.support.gsm_errors import GoogleError, exhausted
from tests.support.gsm_service import METHODS, Call, Carried
from tests.support.moto_http import signed_for
from tests.support.moto_service import JSON_TYPE
from tests.support.quotas import Limit, Quotas
from tests.support.vault_http import Answer, Asked
from tests.support.virtual_time import VirtualTime

SHORTEST, LONGEST = 0.02, 0.06
"""How long an attempt takes, in seconds."""

Wire = Callable[..., Any]


class Ground(NamedTuple):
    """A double, and what its cloud's function is given."""

    settings: dict[str, str]
    """Where the library finds it, and those that infra/ sets."""
    seconds: float | None
    """For how long the platform lets a run go on, where the entry point asks."""
    limits: tuple[Limit, ...]
    """The first is the one that binds. None where there is no quota."""
    enforced: Callable[[Quotas], AbstractContextManager[None]]
    """As long as the block."""


def _limit(name: str, calls: str, most: int, seconds: float) -> Limit:
    return Limit(name, frozenset(calls.split()), most, seconds)


AWS = (
    _limit("versions and labels", "PutSecretValue UpdateSecretVersionStage UpdateSecret", 50, 1),
    _limit("tags", "TagResource UntagResource", 50, 1),
    _limit("creations", "CreateSecret", 50, 1),
    _limit("lists of versions", "ListSecretVersionIds", 50, 1),
    _limit("lists", "ListSecrets", 100, 1),
    _limit("reads", "DescribeSecret GetSecretValue", 10_000, 1),
    _limit("keys", "GenerateDataKey Encrypt Decrypt", 10_000, 1),
)
AZURE = (_limit("creations", "setSecret", 300, 10), _limit("all else", "", 4_000, 10))
_WRITES = " ".join(rpc for rpc, method in METHODS.items() if method.writes)
GCP = (
    _limit("writes", _WRITES, 600, 60),
    _limit("reads", "ListSecrets GetSecret ListSecretVersions GetSecretVersion", 600, 60),
    _limit("accesses", "AccessSecretVersion", 90_000, 60),
)
OF_ONE, OF_ONE_SECRET = "writes of one secret per second", ("AddSecretVersion", "UpdateSecret")


def aws(_: VirtualTime, __: Path) -> Ground:
    """Secrets Manager, KMS and S3."""
    account = aws_world.emptied()
    server = account.server._server
    application = server.app

    @contextmanager
    def enforced(quotas: Quotas) -> Iterator[None]:
        def metered(environ: Any, start_response: Any) -> Any:
            action = str(environ.get("HTTP_X_AMZ_TARGET", "")).rpartition(".")[2]
            if action and signed_for(environ) != "s3" and quotas.over(action):
                body = json.dumps({"__type": "ThrottlingException", "message": "Rate exceeded"})
                return Response(body, status=400, content_type=JSON_TYPE)(environ, start_response)
            return application(environ, start_response)

        with mock.patch.object(server, "app", metered):
            yield

    return Ground(account.environment(), 900.0, AWS, enforced)


def azure(clock: VirtualTime, _: Path) -> Ground:
    """Key Vault, and blobs on Azurite."""
    account = azure_world.emptied()
    server = account.vault.server

    @contextmanager
    def enforced(quotas: Quotas) -> Iterator[None]:
        def metered(asked: Asked, answer: Callable[[], Answer]) -> Answer:
            if (over := quotas.over(asked.action)) is None:
                return answer()
            said = "Request was not processed because too many requests were received."
            document = {"error": {"code": "Throttled", "message": f"{said} Reason: VaultRequestTypeLimitReached"}}
            return Answer(429, document, {"Retry-After": str(math.ceil(quotas.frees(over)))})

        with mock.patch.object(server, "between", metered):
            yield

    server.secrets._clock = clock.time
    settings = account.environment() | {"DAENA_TIME_BUDGET_SECONDS": "1500"}
    return Ground(settings, 1800.0, AZURE, enforced)


def gcp(clock: VirtualTime, _: Path) -> Ground:
    """Secret Manager, and Cloud Storage."""
    project = gcp_world.emptied()
    service = project.secrets.service

    @contextmanager
    def enforced(quotas: Quotas) -> Iterator[None]:
        of_one = Quotas([Limit(OF_ONE, frozenset(), 2, 1)], clock.monotonic, apart=True)

        def metered(call: Call, carried: Carried) -> Any:
            if (over := quotas.over(call.rpc)) is not None:
                raise _exhausted(f"{over.name} per minute")
            if call.rpc in OF_ONE_SECRET and of_one.over(call.resource) is not None:
                quotas.refused[OF_ONE] += 1
                raise _exhausted(OF_ONE)
            return carried()

        def _exhausted(limit: str) -> GoogleError:
            return exhausted(service.number, "requests", limit)

        with mock.patch.object(service, "between", metered):
            yield

    project.secrets.clock.source = clock.time
    return Ground(project.environment() | {"DAENA_TIME_BUDGET_SECONDS": "1500"}, None, GCP, enforced)


def local(_: VirtualTime, folder: Path) -> Ground:
    """A vault in a folder."""

    @contextmanager
    def enforced(_: Quotas) -> Iterator[None]:
        yield

    return Ground({"DAENA_CLOUD_KMS_PROVIDER": "local", "DAENA_HOME": str(folder / "home")}, None, (), enforced)


GROUNDS: Mapping[str, Callable[[VirtualTime, Path], Ground]] = {"aws": aws, "azure": azure, "gcp": gcp, "local": local}


@contextmanager
def taking_time(clock: VirtualTime, chance: random.Random) -> Iterator[None]:
    """Each attempt of a call, by whatever client that is made in here, takes its time on that clock."""

    def slowly(send: Wire) -> Wire:
        def sending(*args: Any, **options: Any) -> Any:
            clock.sleep(chance.uniform(SHORTEST, LONGEST) / 2)
            reply = send(*args, **options)
            clock.sleep(chance.uniform(SHORTEST, LONGEST) / 2)
            return reply

        return sending

    channel = grpc_helpers.create_channel

    def slow_channel(*args: Any, **options: Any) -> Any:
        return grpc.intercept_channel(channel(*args, **options), _Slowly(slowly))

    with ExitStack() as patches:
        for owner in (botocore.httpsession.URLLib3Session, requests.Session):
            patches.enter_context(mock.patch.object(owner, "send", slowly(owner.send)))
        patches.enter_context(mock.patch.object(grpc_helpers, "create_channel", slow_channel))
        yield


class _Slowly(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc, unused-ignore]
    """The same for a channel."""

    def __init__(self, slowly: Callable[[Wire], Wire]) -> None:
        self._slowly = slowly

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        def answered() -> Any:
            call = continuation(client_call_details, request)
            call.exception()  # returns once it is there
            return call

        return self._slowly(answered)()
