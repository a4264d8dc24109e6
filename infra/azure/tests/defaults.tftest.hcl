# `terraform test` against a provider that only knows the schema: tests/infra/test_azure_template.py runs it.

mock_provider "azurerm" {
  mock_resource "azurerm_key_vault" {
    defaults = {
      id        = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/x/providers/Microsoft.KeyVault/vaults/daenakms-abc123"
      vault_uri = "https://daenakms-abc123.vault.azure.net/"
    }
  }
  mock_resource "azurerm_storage_account" {
    defaults = {
      id                    = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/x/providers/Microsoft.Storage/storageAccounts/account"
      primary_blob_endpoint = "https://account.blob.core.windows.net/"
    }
  }
  mock_resource "azurerm_user_assigned_identity" {
    defaults = {
      id           = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/x/providers/Microsoft.ManagedIdentity/userAssignedIdentities/function"
      client_id    = "11111111-1111-1111-1111-111111111111"
      principal_id = "22222222-2222-2222-2222-222222222222"
    }
  }
  mock_resource "azurerm_monitor_action_group" {
    defaults = { id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/x/providers/Microsoft.Insights/actionGroups/alarms" }
  }
  mock_resource "azurerm_application_insights" {
    defaults = { id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/x/providers/Microsoft.Insights/components/insights" }
  }
  mock_resource "azurerm_log_analytics_workspace" {
    defaults = { id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/x/providers/Microsoft.OperationalInsights/workspaces/logs" }
  }
}

variables {
  subscription_id = "00000000-0000-0000-0000-000000000000"
}

run "settings" {
  command = apply

  assert {
    condition     = azurerm_function_app_flex_consumption.this.app_settings["AZURE_KEY_VAULT_URL"] == "https://daenakms-abc123.vault.azure.net"
    error_message = "the vault that was made is the vault that is used"
  }
  assert {
    condition     = azurerm_function_app_flex_consumption.this.app_settings["DAENA_MANIFEST_URL"] == "https://account.blob.core.windows.net/manifests/daena-kms"
    error_message = "the manifests lie in the container of that name"
  }
  assert {
    condition     = azurerm_function_app_flex_consumption.this.app_settings["AZURE_CLIENT_ID"] == "11111111-1111-1111-1111-111111111111"
    error_message = "the function works under its own identity"
  }
  assert {
    condition     = azurerm_function_app_flex_consumption.this.app_settings["ROTATION_SCHEDULE"] == "0 0 * * * *"
    error_message = "hourly"
  }
  assert {
    condition     = azurerm_function_app_flex_consumption.this.runtime_version == "3.13" && azurerm_function_app_flex_consumption.this.https_only && length(azurerm_storage_container_immutability_policy.manifests) == 0
    error_message = "Python 3.13, TLS only, nothing that cannot be undone"
  }
  assert {
    condition     = output.alarm_on_silence == "PT3H"
    error_message = "two hourly ticks and a little fit into three hours"
  }
}

run "identity" {
  command = apply

  assert {
    condition     = azurerm_function_app_flex_consumption.this.identity[0].type == "UserAssigned" && tolist(azurerm_function_app_flex_consumption.this.identity[0].identity_ids) == tolist([azurerm_user_assigned_identity.function.id])
    error_message = "the app has the one identity that the roles are given to"
  }
  assert {
    condition     = azurerm_function_app_flex_consumption.this.storage_authentication_type == "UserAssignedIdentity" && azurerm_function_app_flex_consumption.this.storage_user_assigned_identity_id == azurerm_user_assigned_identity.function.id
    error_message = "the app is loaded under it too"
  }
  assert {
    condition = alltrue([
      for role in [azurerm_role_assignment.host, azurerm_role_assignment.ledger, azurerm_role_assignment.policy, azurerm_role_assignment.rotator] :
      role.principal_id == "22222222-2222-2222-2222-222222222222" && role.principal_type == "ServicePrincipal"
    ])
    error_message = "every role is given to it and to nobody else"
  }
}

run "alarms" {
  command = apply

  assert {
    condition     = toset(keys(azurerm_monitor_scheduled_query_rules_alert_v2.this)) == toset(["failed", "overdue", "silent"])
    error_message = "three alerts"
  }
  assert {
    condition = alltrue([
      for alert in azurerm_monitor_scheduled_query_rules_alert_v2.this :
      tolist(alert.action[0].action_groups) == tolist([azurerm_monitor_action_group.this.id]) && tolist(alert.scopes) == tolist([azurerm_application_insights.this.id])
    ])
    error_message = "each looks where the app logs, and tells the action group"
  }
  assert {
    condition     = azurerm_application_insights.this.workspace_id == azurerm_log_analytics_workspace.this.id && azurerm_application_insights.this.sampling_percentage == 100
    error_message = "no line is left out"
  }
}

run "evidence" {
  command = apply

  assert {
    condition     = azurerm_monitor_diagnostic_setting.vault.target_resource_id == azurerm_key_vault.this[0].id && toset(azurerm_monitor_diagnostic_setting.vault.enabled_log[*].category) == toset(["AuditEvent"])
    error_message = "who read which key is logged"
  }
  assert {
    condition     = azurerm_monitor_diagnostic_setting.manifests.target_resource_id == "${azurerm_storage_account.manifests.id}/blobServices/default" && toset(azurerm_monitor_diagnostic_setting.manifests.enabled_log[*].category) == toset(["StorageRead", "StorageWrite", "StorageDelete"])
    error_message = "so is what is done to the manifests"
  }
  assert {
    condition = alltrue([
      for setting in [azurerm_monitor_diagnostic_setting.vault, azurerm_monitor_diagnostic_setting.manifests] :
      setting.log_analytics_workspace_id == azurerm_log_analytics_workspace.this.id
    ])
    error_message = "both where it is kept"
  }
}

run "twice_a_day" {
  command = plan
  variables {
    schedule     = "0 30 3,15 * * *"
    tick_minutes = 720
  }
  assert {
    condition     = output.alarm_on_silence == "P2D"
    error_message = "two days"
  }
}

run "monthly" {
  command = plan
  variables {
    schedule     = "0 0 3 1 */3 *"
    tick_minutes = 64800
  }
  assert {
    condition     = startswith(output.alarm_on_silence, "none") && !contains(keys(azurerm_monitor_scheduled_query_rules_alert_v2.this), "silent")
    error_message = "no alert looks back so far, and that is said"
  }
}

run "an_existing_vault" {
  command = plan
  variables {
    key_vault_id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/y/providers/Microsoft.KeyVault/vaults/ours"
  }
  assert {
    condition     = length(azurerm_key_vault.this) == 0 && output.vault_url == "https://ours.vault.azure.net"
    error_message = "nothing is made beside it"
  }
}

run "immutable" {
  command = plan
  variables {
    immutable_days = 400
  }
  assert {
    condition     = azurerm_storage_container_immutability_policy.manifests[0].immutability_period_in_days == 400
    error_message = "as long as was asked for"
  }
}

run "mail" {
  command = plan
  variables {
    alarm_email = "security@example.com"
  }
  assert {
    condition     = azurerm_monitor_action_group.this.email_receiver[0].email_address == "security@example.com"
    error_message = "somebody is told"
  }
}
