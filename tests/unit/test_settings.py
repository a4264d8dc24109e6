"""Settings: read once, every problem listed, unknown names suggest the nearest, secrets are not shown."""

import pickle
from datetime import timedelta
from pathlib import Path

import pytest

from daena_kms.errors import ConfigurationError
from daena_kms.material import KeyMaterial
from daena_kms.settings import SETTINGS, Settings, read_settings, settings_table

DEFAULTS = {
    "provider": "local",
    "home": Path(".kms"),
    "policy": "daena-kms.toml",
    "manifest_url": "",
    "public_key": "",
    "prefix": "",
    "aws_region": "",
    "aws_kms_key_id": "",
    "aws_profile": "",
    "azure_vault": "",
    "azure_tenant": "",
    "azure_client": "",
    "azure_secret": None,
    "gcp_project": "",
    "gcp_credentials": "",
    "gcp_locations": (),
    "gcp_endpoint": "",
    "local_kek": None,
    "local_passphrase": None,
    "backup_recipients": (),
    "backup_passphrase": None,
    "tick": timedelta(minutes=60),
    "slack": timedelta(minutes=30),
    "lease": timedelta(minutes=15),
    "call_timeout": timedelta(seconds=30),
    "concurrency": 10,
    "budget_seconds": 0,
}


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = read_settings({})
    assert {field: getattr(settings, field) for field in Settings.__struct_fields__} == DEFAULTS


@pytest.mark.parametrize("name", [setting.name for setting in SETTINGS])
def test_a_setting_that_is_empty_is_not_set(name: str) -> None:
    assert read_settings({name: ""}) == read_settings({})


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        pytest.param("DAENA_CLOUD_KMS_PROVIDER", "AWS", "provider", "aws", id="provider-in-capitals"),
        pytest.param("DAENA_HOME", "/var/lib/daena", "home", Path("/var/lib/daena"), id="home"),
        pytest.param("DAENA_POLICY", "p.toml", "policy", "p.toml", id="policy"),
        pytest.param("DAENA_MANIFEST_URL", "file:///m", "manifest_url", "file:///m", id="manifest-url"),
        pytest.param("DAENA_PUBLIC_KEY", "AB" * 32, "public_key", "ab" * 32, id="public-key-in-capitals"),
        pytest.param("DAENA_KEY_PREFIX", "daena-", "prefix", "daena-", id="prefix"),
        pytest.param("AWS_REGION", "eu-west-1", "aws_region", "eu-west-1", id="aws-region"),
        pytest.param("AWS_KMS_KEY_ID", "alias/a", "aws_kms_key_id", "alias/a", id="aws-kms-key"),
        pytest.param("AWS_PROFILE", "production", "aws_profile", "production", id="aws-profile"),
        pytest.param("AZURE_KEY_VAULT_URL", "https://v.x.net/", "azure_vault", "https://v.x.net", id="azure-vault"),
        pytest.param("AZURE_TENANT_ID", "t", "azure_tenant", "t", id="azure-tenant"),
        pytest.param("AZURE_CLIENT_ID", "c", "azure_client", "c", id="azure-client"),
        pytest.param("AZURE_CLIENT_SECRET", "x", "azure_secret", KeyMaterial(b"x"), id="azure-secret"),
        pytest.param("GCP_PROJECT_ID", "daena-prod-1", "gcp_project", "daena-prod-1", id="gcp-project"),
        pytest.param("GCP_PROJECT_ID", "e.com:daena-1", "gcp_project", "e.com:daena-1", id="gcp-project-of-a-domain"),
        pytest.param("GOOGLE_APPLICATION_CREDENTIALS", "/k.json", "gcp_credentials", "/k.json", id="gcp-credentials"),
        pytest.param(
            "GCP_SECRET_LOCATIONS",
            "europe-west1, us-east4",
            "gcp_locations",
            ("europe-west1", "us-east4"),
            id="gcp-locations",
        ),
        pytest.param("GCP_SECRET_MANAGER_ENDPOINT", "s.p.goog:443", "gcp_endpoint", "s.p.goog:443", id="gcp-endpoint"),
        pytest.param("DAENA_LOCAL_KEK", "x", "local_kek", KeyMaterial(b"x"), id="kek"),
        pytest.param(
            "DAENA_LOCAL_PASSPHRASE", "é ü", "local_passphrase", KeyMaterial("é ü".encode()), id="passphrase-not-ascii"
        ),
        pytest.param("DAENA_BACKUP_RECIPIENTS", "age1a, age1b,", "backup_recipients", ("age1a", "age1b"), id="age"),
        pytest.param("DAENA_BACKUP_PASSPHRASE", "x", "backup_passphrase", KeyMaterial(b"x"), id="backup-passphrase"),
        pytest.param("DAENA_TICK_MINUTES", "1440", "tick", timedelta(days=1), id="tick"),
        pytest.param("DAENA_SLACK_MINUTES", "0", "slack", timedelta(0), id="slack-none"),
        pytest.param("DAENA_LEASE_MINUTES", "20", "lease", timedelta(minutes=20), id="lease"),
        pytest.param("DAENA_CALL_TIMEOUT_SECONDS", "5", "call_timeout", timedelta(seconds=5), id="call-timeout"),
        pytest.param("DAENA_CONCURRENCY", "64", "concurrency", 64, id="concurrency-most"),
        pytest.param("DAENA_TIME_BUDGET_SECONDS", "600", "budget_seconds", 600, id="budget"),
    ],
)
def test_a_setting(name: str, text: str, field: str, value: object) -> None:
    assert getattr(read_settings({name: text}), field) == value


def test_the_table_of_tests_has_every_setting() -> None:
    assert {setting.field for setting in SETTINGS} == set(DEFAULTS) == set(Settings.__struct_fields__)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("DAENA_CLOUD_KMS_PROVIDER", "ibm", id="provider"),
        pytest.param("DAENA_PUBLIC_KEY", "ab" * 31, id="public-key-short"),
        pytest.param("DAENA_PUBLIC_KEY", "zz" * 32, id="public-key-no-hex"),
        pytest.param("DAENA_KEY_PREFIX", "Daena_", id="prefix"),
        pytest.param("AZURE_KEY_VAULT_URL", "http://v.vault.azure.net", id="vault-without-tls"),
        pytest.param("AZURE_KEY_VAULT_URL", "v", id="vault-by-name"),
        pytest.param("GCP_PROJECT_ID", "482913337105", id="project-by-number"),
        pytest.param("GCP_PROJECT_ID", "projects/daena", id="project-as-a-path"),
        pytest.param("GCP_SECRET_LOCATIONS", "europe-west1,,us-east4", id="no-location-between-commas"),
        pytest.param("GCP_SECRET_LOCATIONS", "Europe", id="no-location"),
        pytest.param(
            "GCP_SECRET_MANAGER_ENDPOINT", "https://secretmanager.googleapis.com", id="endpoint-as-an-address"
        ),
        pytest.param("AZURE_KEY_VAULT_URL", "https://v.vault.azure.net/secrets", id="vault-with-path"),
        pytest.param("DAENA_TICK_MINUTES", "0", id="tick-none"),
        pytest.param("DAENA_TICK_MINUTES", "-5", id="tick-negative"),
        pytest.param("DAENA_TICK_MINUTES", "1.5", id="tick-fraction"),
        pytest.param("DAENA_TICK_MINUTES", " 5", id="tick-space"),
        pytest.param("DAENA_TICK_MINUTES", "²", id="tick-superscript"),
        pytest.param("DAENA_TICK_MINUTES", "99999999", id="tick-too-long"),
        pytest.param("DAENA_TICK_MINUTES", "9" * 5000, id="tick-of-5000-digits"),
        pytest.param("DAENA_LEASE_MINUTES", "1", id="lease-too-short"),
        pytest.param("DAENA_CALL_TIMEOUT_SECONDS", "0", id="no-time-out"),
        pytest.param("DAENA_CONCURRENCY", "0", id="nothing-at-once"),
        pytest.param("DAENA_CONCURRENCY", "65", id="too-much-at-once"),
        pytest.param("DAENA_TIME_BUDGET_SECONDS", "soon", id="budget"),
        # As Python shows the byte ff of an environment: what is no text can be in no manifest, no backup and no JSON.
        pytest.param("DAENA_HOME", "caf\udcff", id="no-text-home"),
        pytest.param("DAENA_LOCAL_PASSPHRASE", "caf\udcff", id="no-text-passphrase"),
        pytest.param("DAENA_BACKUP_PASSPHRASE", "caf\udcff", id="no-text-backup-passphrase"),
        pytest.param("AZURE_CLIENT_SECRET", "caf\udcff", id="no-text-secret"),
    ],
)
def test_a_bad_setting_is_named(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as refused:
        read_settings({name: text})
    assert refused.value.hint
    assert len(refused.value.message) < 300, "a message is for reading, whatever was set"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        pytest.param("DAENA_POLCY", "DAENA_POLICY", id="letter-missing"),
        pytest.param("DAENA_POLICY_FILE", "DAENA_POLICY", id="word-more"),
        pytest.param("DAENA_PROVIDER", "DAENA_CLOUD_KMS_PROVIDER", id="words-missing"),
        pytest.param("DAENA_KMS_PROVIDER", "DAENA_CLOUD_KMS_PROVIDER", id="word-missing"),
        pytest.param("DAENA_LOCAL_PASSWORD", "DAENA_LOCAL_PASSPHRASE", id="other-word"),
        pytest.param("DAENA_TICK", "DAENA_TICK_MINUTES", id="unit-missing"),
        pytest.param("DAENA_LEASE_SECONDS", "DAENA_LEASE_MINUTES", id="other-unit"),
        pytest.param("DAENA_KEK", "DAENA_LOCAL_KEK", id="short"),
    ],
)
def test_an_unknown_setting_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name}: unknown setting; did you mean {near}\?"):
        read_settings({name: "x"})


def test_what_is_no_text_is_named_and_not_shown() -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_settings({"DAENA_LOCAL_KEK": "se\udcffcret", "DAENA_\udcff": "1"})
    assert "DAENA_LOCAL_KEK: it is not UTF-8 text" in refused.value.message
    assert "cret" not in refused.value.message
    refused.value.message.encode()


def test_what_resembles_nothing_gets_no_suggestion() -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_settings({"DAENA_ZZZZZZZZZZZZ": "x"})
    assert "did you mean" not in refused.value.message


@pytest.mark.parametrize("name", ["DAENA", "DAENAPOLICY", "XDAENA_POLICY", "_DAENA_KEY_ROTATE_COMPLETE", "AWS_OTHER"])
def test_what_is_not_ours_is_not_looked_at(name: str) -> None:
    assert read_settings({name: "x"}) == read_settings({})


def test_every_problem_is_listed_at_once() -> None:
    wrong = {
        "DAENA_POLCY": "x",
        "DAENA_CLOUD_KMS_PROVIDER": "ibm",
        "DAENA_TICK_MINUTES": "soon",
        "DAENA_PUBLIC_KEY": "x",
        "DAENA_CONCURRENCY": "0",
    }
    with pytest.raises(ConfigurationError) as refused:
        read_settings(wrong)
    for name in wrong:
        assert name in refused.value.message


@pytest.mark.parametrize("lease", ["2", "15", "1440"])
@pytest.mark.parametrize("call_timeout", ["1", "30", "60"])
def test_a_lease_outlasts_two_calls_whatever_is_set(lease: str, call_timeout: str) -> None:
    settings = read_settings({"DAENA_LEASE_MINUTES": lease, "DAENA_CALL_TIMEOUT_SECONDS": call_timeout})
    assert settings.lease >= 2 * settings.call_timeout


SECRETS = dict.fromkeys(
    ("DAENA_LOCAL_KEK", "DAENA_LOCAL_PASSPHRASE", "DAENA_BACKUP_PASSPHRASE", "AZURE_CLIENT_SECRET"), "hush hush"
)


def test_secrets_are_not_in_the_repr() -> None:
    settings = read_settings(SECRETS)
    for shown in (repr(settings), str(settings), f"{settings}", repr(vars(Settings))):
        assert "hush" not in shown


def test_settings_with_secrets_are_not_pickled() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(read_settings(SECRETS))


@pytest.mark.parametrize("name", list(SECRETS))
def test_secrets_are_not_in_an_error_about_something_else(name: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_settings({name: "hush hush", "DAENA_TICK_MINUTES": "x"})
    assert "hush" not in str(refused.value) + refused.value.hint


def test_the_table_for_the_readme_has_a_row_for_each_setting() -> None:
    rows = settings_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [setting.name for setting in SETTINGS]
    assert all(row.count("|") == 4 for row in rows)
