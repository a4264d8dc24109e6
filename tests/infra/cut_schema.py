"""Cuts the schema of the resource types that we use out of the provider's, as a package of CDKTF carries it whole.

    npm pack @cdktf/provider-azurerm@14.23.1, unpacked; then
    python -m tests.infra.cut_schema package/.jsii tests/infra/azurerm.json

    npm pack @cdktf/provider-google@16.12.1, unpacked; then
    python -m tests.infra.cut_schema package/.jsii tests/infra/google.json

What the package tells: names, types, what is required, what is computed, how blocks nest. It does not tell which values
are good: `terraform test` asserts those. Its provider may be older than the one that infra/ asks for.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

TYPES = {
    "azurerm": (
        "azurerm_application_insights",
        "azurerm_function_app_flex_consumption",
        "azurerm_key_vault",
        "azurerm_log_analytics_workspace",
        "azurerm_monitor_action_group",
        "azurerm_monitor_diagnostic_setting",
        "azurerm_monitor_scheduled_query_rules_alert_v2",
        "azurerm_resource_group",
        "azurerm_role_assignment",
        "azurerm_role_definition",
        "azurerm_service_plan",
        "azurerm_storage_account",
        "azurerm_storage_container",
        "azurerm_storage_container_immutability_policy",
        "azurerm_user_assigned_identity",
        "data.azurerm_client_config",
    ),
    "google": (
        "google_cloud_run_v2_service_iam_binding",
        "google_cloud_scheduler_job",
        "google_cloudfunctions2_function",
        "google_logging_metric",
        "google_monitoring_alert_policy",
        "google_monitoring_notification_channel",
        "google_project_iam_audit_config",
        "google_project_iam_custom_role",
        "google_project_iam_member",
        "google_project_service",
        "google_service_account",
        "google_storage_bucket",
        "google_storage_bucket_iam_member",
        "google_storage_bucket_object",
        "data.google_project",
    ),
}
# Each class and property links to its place in the provider's documentation: version, kind, attribute, type.
_LINK = re.compile(r"/providers/[^/]+/[^/]+/([\d.]+)/docs/(resources|data-sources)/\w+(?:#(\w+))?(?:[^}]*?\s(\w+)\})?")
_SIMPLE = {"StringMap": ["map", "string"], "NumberMap": ["map", "number"], "BooleanMap": ["map", "bool"]}
_PRIMITIVES = {"boolean": "bool", "any": "dynamic"}
_COLLECTIONS = {"array": "list", "map": "map"}

Schema = dict[str, Any]


class Package:
    """One package's description of itself."""

    def __init__(self, path: Path) -> None:
        self._types: dict[str, Any] = json.loads(path.read_text())["types"]
        self._classes: dict[str, str] = {}
        self.version = ""
        for name, told in self._types.items():
            found = _LINK.search(_docs(told).get("summary", "")) if told["kind"] == "class" else None
            if found and found[4]:
                self._classes[("data." if found[2] == "data-sources" else "") + found[4]] = name
                self.version = found[1]

    def cut(self, wanted: tuple[str, ...]) -> Schema:
        """The schema of those types, and of the provider itself."""
        (provider,) = (name for name in self._types if re.search(r"\.provider\.\w+ProviderConfig$", name))
        made: Schema = {"version": self.version, "provider": self._block(provider), "resources": {}, "data": {}}
        made["provider"]["attributes"].pop("alias", None)
        for name in wanted:
            block = self._block(self._classes[name] + "Config", self._classes[name])
            if "id" in block["attributes"]:
                block["attributes"]["id"]["computed"] = True
            kind = "data" if name.startswith("data.") else "resources"
            made[kind][name.removeprefix("data.")] = block
        return made

    def _block(self, name: str, outputs: str = "") -> Schema:
        made: Schema = {"attributes": {}, "blocks": {}}
        given = self._types.get(name, {}).get("properties", [])
        for told in given:
            kind, what, many = self._kind(told["type"])
            attribute = _attribute(told)
            if kind == "attribute":
                flag = "optional" if told.get("optional") else "required"
                made["attributes"][attribute] = {"type": what, flag: True}
            else:
                made["blocks"][attribute] = {
                    "nesting": "single" if attribute == "timeouts" else "list",
                    "min": 0 if told.get("optional") else 1,
                    "max": 0 if many else 1,
                    **self._block(what, what + "OutputReference"),
                }
        self._add_outputs(made, outputs, {told["name"] for told in given})
        return made

    def _add_outputs(self, made: Schema, outputs: str, given: set[str]) -> None:
        for told in self._types.get(outputs, {}).get("properties", []):
            name = told["name"]
            if told.get("static") or name in given or name.endswith("Input") or name in ("internalValue", "fqn"):
                continue
            kind, what, _ = self._kind(told["type"])
            computed = what if kind == "attribute" else "dynamic"
            made["attributes"][_snake(name)] = {"type": computed, "computed": True}

    def _kind(self, told: Schema) -> tuple[str, Any, bool]:
        """Attribute or block, its type, and whether there may be many."""
        if "union" in told:
            choices = [each for each in told["union"]["types"] if each.get("fqn") != "cdktf.IResolvable"]
            if len(choices) == 1:
                return self._kind(choices[0])
            maps = all("collection" in each for each in choices)
            return "attribute", ["map", "bool"] if maps else "dynamic", False
        if "primitive" in told:
            return "attribute", _PRIMITIVES.get(told["primitive"], told["primitive"]), False
        if "collection" in told:
            kind, what, _ = self._kind(told["collection"]["elementtype"])
            if kind == "block":
                return kind, what, True
            return kind, [_COLLECTIONS[told["collection"]["kind"]], what], False
        name = told["fqn"]
        for ending, what in _SIMPLE.items():
            if name.endswith(ending):
                return "attribute", what, False
        unknown = name.endswith((".IResolvable", ".BooleanList", ".NumberList"))
        return ("attribute", "dynamic", False) if unknown else ("block", name, False)


def _docs(told: Schema) -> dict[str, str]:
    docs: dict[str, str] = told.get("docs") or {}
    return docs


def _attribute(told: Schema) -> str:
    for text in (_docs(told).get("remarks", ""), _docs(told).get("summary", "")):
        found = _LINK.search(text)
        if found and found[3]:
            return found[3]
    return _snake(told["name"])


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: "_" + found[1], name).lower()


if __name__ == "__main__":
    wanted = Path(sys.argv[2])
    cut = Package(Path(sys.argv[1])).cut(TYPES[wanted.stem])
    wanted.write_text(json.dumps(cut, separators=(",", ":"), sort_keys=True) + "\n")
