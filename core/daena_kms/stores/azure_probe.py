"""Trying what credentials may do on Azure, without changing anything.

Key Vault decides on a data action before it looks for the secret: `secrets/update/action` is tried by a change of a
version that is not there, which asks for nothing to be changed. A put takes no condition (azure-keyvault-secrets:
`set_secret`), and whatever it puts is a version: `secrets/setSecret/action` is not tried.

In Blob Storage who may add blobs and not overwrite any is denied where one lies already, in the same words as who may
not add any either. A denial shows that the manifests are create-only, and leaves open whether one can be added.
"""

import itertools
from collections.abc import Callable
from typing import Any

from azure.keyvault.secrets import SecretClient

from ..errors import DeniedError, NotFoundError, RefusedError
from ..ledger import object_name
from ..names import RESERVED_KEY, secret_name
from .azure_calls import Azure, Patience, asked
from .azure_ledger import BlobLedger, open_container, split_url
from .probe import CREATE_ONLY, FIRST, Check, Trials, Watch, create_again, not_tried, ok, read_first

_VAULT, _BLOBS = "Key Vault", "Blob Storage"
_READ_METADATA, _GET, _SET, _UPDATE = (
    "secrets/readMetadata/action", "secrets/getSecret/action", "secrets/setSecret/action", "secrets/update/action",
)  # fmt: skip
_ADD, _READ = "blobs/add/action", "blobs/read"
_NOWHERE = "0" * 32  # the id of no version: Key Vault draws them
_A_ROTATION = "a rotation would show it; the role that infra/azure defines has it"


class AzureProbe:
    """Tries the data actions of one vault."""

    def __init__(self, azure: Azure, watch: Watch, *, url: str, prefix: str) -> None:
        self._azure = azure
        self._watch = watch
        self._url = url
        self._name = secret_name(prefix, RESERVED_KEY)

    def credentials(self) -> str:
        return self._azure.identity.actor()

    def checks(self) -> list[Check]:
        azure, name = self._azure, self._name
        hook = told_time(self._watch)
        client: Any = asked(
            lambda: SecretClient(
                self._url,
                azure.identity,
                retry_policy=Patience(azure.seconds),
                raw_response_hook=hook,
                **azure.timeouts,
            ),
            "use of Key Vault",
        )
        trials = Trials(_VAULT)

        def asks(about: str, needs: str, ask: Callable[[], Any]) -> Callable[[], None]:
            def ask_it() -> None:
                azure.asked(ask, about, name, needs=needs)

            return ask_it

        listed = asks(
            "list of the keys",
            _READ_METADATA,
            lambda: [*itertools.islice(client.list_properties_of_secrets(max_page_size=1), 1)],
        )
        got = asks(f"get of {name}", _GET, lambda: client.get_secret(name))
        changed = asks(f"update of {name}", _UPDATE, lambda: client.update_secret_properties(name, _NOWHERE))
        trials.ask(_READ_METADATA, listed)
        trials.ask(_GET, lambda: _whatever_it_is(got))
        trials.ask(_UPDATE, changed, refusals=(NotFoundError,))
        trials.skip(_SET, "because whatever is put is one more version", _A_ROTATION)
        return trials.found


def _whatever_it_is(got: Callable[[], None]) -> None:
    """Only who may get a secret is told that it is not there, or disabled."""
    try:
        got()
    except (NotFoundError, RefusedError):
        return


def blob_checks(azure: Azure, url: str, watch: Watch) -> list[Check]:
    """Tries the data actions of a ledger in Blob Storage, and whether it is create-only."""
    ledger = BlobLedger(azure, url)
    account, container, path = split_url(url)
    blobs: Any = open_container(azure, account, container)
    first = f"{path}/{RESERVED_KEY}/{object_name(FIRST)}"
    hook = told_time(watch)
    trials = Trials(_BLOBS)
    stored = read_first(trials, _READ, ledger)

    def put(data: bytes) -> None:
        azure.asked(
            lambda: blobs.upload_blob(first, data, overwrite=False, raw_response_hook=hook),
            f"put of {first}",
            needs=_ADD,
        )

    def denied(_: DeniedError) -> list[Check]:
        refused = "who may overwrite nothing is denied both where something lies and everywhere"
        return [ok(CREATE_ONLY, "these credentials may overwrite nothing"), not_tried(_ADD, refused, _A_ROTATION)]

    create_again(trials, _ADD, _READ, stored, put, denied)
    return trials.found


def told_time(watch: Watch) -> Callable[[Any], None]:
    """A hook of the SDK's: each reply's date."""

    def hook(response: Any) -> None:
        watch.heard(str(response.http_response.headers.get("Date", "")))

    return hook
