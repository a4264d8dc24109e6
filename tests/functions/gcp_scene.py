"""The function's bundle on the GCP doubles: a policy, and instances of the real functions-framework."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from daena_kms import app, names
from daena_kms.holdings import location
from daena_kms.manifest import History
from daena_kms.names import RESERVED_KEY
from daena_kms.service import Service
from daena_kms.settings import read_settings
from tests.infra.bundles import compiled, gcp_host_bundle
from tests.support import gcp_world
from tests.support.gcp_world import PREFIX
from tests.support.gsm_service import Between, plain
from tests.support.served_function import ServedFunction

KEY, BILLING = "daena-encryption-key", "billing-key"
POLICY = f"""
[defaults]
create = true

[keys.{KEY}]
[keys.{BILLING}]
"""
POLICY_OBJECT = "policy/daena-kms.toml"
RESERVED_SECRET = names.secret_name(PREFIX, RESERVED_KEY)


class Scene:
    """A project in which nothing was done yet but the policy put where it belongs."""

    def __init__(self) -> None:
        self.project = gcp_world.emptied()
        self._functions: list[ServedFunction] = []
        self.policy(POLICY)

    def environment(self, settings: Mapping[str, str] = {}) -> dict[str, str]:  # only read
        """What the function is deployed with, `settings` in its place."""
        deployed = {
            "DAENA_POLICY": f"gs://{self.project.bucket}/{POLICY_OBJECT}",
            "DAENA_TICK_MINUTES": "60",
            "DAENA_TIME_BUDGET_SECONDS": "1500",
        }
        return self.project.environment() | deployed | dict(settings)

    def function(self, settings: Mapping[str, str] = {}, source: Path | None = None) -> ServedFunction:  # only read
        """An instance that has answered nothing yet."""
        self._functions.append(ServedFunction(compiled(gcp_host_bundle()), self.environment(settings), source))
        return self._functions[-1]

    def close(self) -> None:
        """End every process."""
        self.between(plain)
        for function in self._functions:
            function.close()

    # --- the project, past the function

    def policy(self, text: str) -> None:
        """Put another policy there."""
        self._policy_object().upload_from_string(text)

    def remove_policy(self) -> None:
        """Take it away."""
        self._policy_object().delete()

    def _policy_object(self) -> Any:
        return self.project.client().bucket(self.project.bucket).blob(POLICY_OBJECT)

    def between(self, fault: Between) -> None:
        """Let somebody come between the clients and Secret Manager."""
        self.project.secrets.service.between = fault

    @property
    def calls(self) -> list[Any]:
        """What Secret Manager was asked for."""
        return self.project.secrets.service.calls

    def objects(self) -> list[str]:
        """What lies in the bucket."""
        return [blob.name for blob in self.project.client().list_blobs(self.project.bucket)]

    def state(self) -> tuple[int, list[str]]:
        """By which it shows whether anything was done."""
        return len(self.calls), self.objects()

    def opened(self) -> Service:
        """What a person with the command has."""
        settings = read_settings(self.environment())
        clouds = app.Clouds(settings)
        vars(clouds)["gcp"] = self.project.gcp()
        connection = app.connect(settings, trigger="test", makes=True, clouds=clouds)
        policy = app.load_policy(settings, clouds)
        return app.serve(connection, settings, policy, trigger="test", budget_seconds=None)

    def active(self) -> dict[str, int]:
        """The number of every key's active version; nothing may be open or wrong."""
        service = self.opened()
        assert [audit for audit in service.verify() if audit.problems or audit.warnings] == []
        standing = service.status()
        assert [key for key in standing if key.in_progress] == []
        return {key.key: key.active for key in standing if key.active}

    def materials(self) -> list[bytes]:
        """What signs the manifests, then the material of every version that they tell of."""
        service = self.opened()
        store, ledger = service.tools.store, service.journal.ledger
        found = [store.read(RESERVED_KEY, version) for version in store.observe(RESERVED_KEY).versions]
        for key in ledger.names():
            if key != RESERVED_KEY:
                records = History(service.journal.history(key)).versions.values()
                found += [store.read(key, location(record)) for record in records]
        return [material.reveal() for material in found]

    def payloads(self, secret: str) -> list[bytes]:
        """What lies in a secret, oldest version first."""
        return [payload for _, _, payload in self.project.secrets.store.newest(secret)]


Prepare = Callable[[Scene], Mapping[str, str]]


def root() -> Path:
    """The checkout."""
    return Path(__file__).parents[2]
