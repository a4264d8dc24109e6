resource "azurerm_key_vault" "this" {
  #checkov:skip=CKV_AZURE_109:a Flex Consumption app without a network of its own comes from no fixed address; roles decide who is let in
  #checkov:skip=CKV_AZURE_189:the same
  #checkov:skip=CKV2_AZURE_32:the same
  count                      = var.key_vault_id == null ? 1 : 0
  name                       = "${substr(local.plain, 0, 16)}-${local.suffix}"
  location                   = azurerm_resource_group.this.location
  resource_group_name        = azurerm_resource_group.this.name
  tenant_id                  = data.azurerm_client_config.current.tenant_id
  sku_name                   = "standard"
  rbac_authorization_enabled = true
  purge_protection_enabled   = true
  soft_delete_retention_days = 90
  tags                       = local.tags

  lifecycle {
    prevent_destroy = true
  }
}

locals {
  vault_id   = var.key_vault_id == null ? azurerm_key_vault.this[0].id : var.key_vault_id
  vault_name = element(split("/", local.vault_id), length(split("/", local.vault_id)) - 1)
  vault_url  = var.key_vault_id == null ? trimsuffix(azurerm_key_vault.this[0].vault_uri, "/") : "https://${local.vault_name}.vault.azure.net"
}

resource "azurerm_monitor_diagnostic_setting" "vault" {
  name                       = "${var.name}-audit"
  target_resource_id         = local.vault_id
  log_analytics_workspace_id = azurerm_log_analytics_workspace.this.id
  enabled_log {
    category = "AuditEvent"
  }
}

# No built-in role writes secrets and cannot delete or purge them.
resource "azurerm_role_definition" "rotator" {
  name        = "${var.name}-${local.suffix} key rotator"
  description = "Reads, writes, disables and tags secrets of a vault; deletes, purges, backs up and recovers none."
  scope       = local.vault_id
  permissions {
    data_actions = [
      "Microsoft.KeyVault/vaults/secrets/getSecret/action",
      "Microsoft.KeyVault/vaults/secrets/readMetadata/action",
      "Microsoft.KeyVault/vaults/secrets/setSecret/action",
      "Microsoft.KeyVault/vaults/secrets/update/action",
    ]
  }
  assignable_scopes = [local.vault_id]
}

resource "azurerm_role_assignment" "rotator" {
  scope              = local.vault_id
  role_definition_id = azurerm_role_definition.rotator.role_definition_resource_id
  principal_id       = azurerm_user_assigned_identity.function.principal_id
  principal_type     = "ServicePrincipal"
  condition          = var.vault_role_condition
  condition_version  = var.vault_role_condition == null ? null : "2.0"
}

# For applications, assigned by you. On the whole vault it also reads what is staged and the reserved secret: assign it
# on single secrets (scope …/vaults/NAME/secrets/KEY), which Key Vault supports, so that an application gets its key alone.
resource "azurerm_role_definition" "reader" {
  name        = "${var.name}-${local.suffix} key reader"
  description = "Reads the values of secrets, and lists none. Assign it on single secrets."
  scope       = local.vault_id
  permissions {
    data_actions = ["Microsoft.KeyVault/vaults/secrets/getSecret/action"]
  }
  assignable_scopes = [local.vault_id]
}
