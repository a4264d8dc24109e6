# Two accounts: the host's, which the function must own to run at all, and the manifests', where it may add and read
# and nothing else.

resource "azurerm_storage_account" "host" {
  #checkov:skip=CKV_AZURE_33:there are no queues here
  #checkov:skip=CKV_AZURE_59:a Flex Consumption app without a network of its own comes from no fixed address; roles decide who is let in
  #checkov:skip=CKV_AZURE_206:what is here is made anew by a deployment
  #checkov:skip=CKV2_AZURE_1:nothing but the app's archive and timer locks lies here
  #checkov:skip=CKV2_AZURE_33:as for the network
  #checkov:skip=CKV2_AZURE_38:what is here is made anew by a deployment
  #checkov:skip=CKV2_AZURE_41:there are no keys that could sign a SAS
  name                            = "${substr(local.plain, 0, 14)}host${local.suffix}"
  resource_group_name             = azurerm_resource_group.this.name
  location                        = azurerm_resource_group.this.location
  account_tier                    = "Standard"
  account_replication_type        = "LRS"
  min_tls_version                 = "TLS1_2"
  shared_access_key_enabled       = false
  local_user_enabled              = false
  allow_nested_items_to_be_public = false
  default_to_oauth_authentication = true
  tags                            = local.tags
}

resource "azurerm_storage_container" "app" {
  #checkov:skip=CKV2_AZURE_21:the host's own reads of its archive are no evidence
  name               = "app"
  storage_account_id = azurerm_storage_account.host.id
}

resource "azurerm_role_assignment" "host" {
  scope                = azurerm_storage_account.host.id
  role_definition_name = "Storage Blob Data Owner"
  principal_id         = azurerm_user_assigned_identity.function.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_storage_account" "manifests" {
  #checkov:skip=CKV_AZURE_33:there are no queues here
  #checkov:skip=CKV_AZURE_59:a Flex Consumption app without a network of its own comes from no fixed address; roles decide who is let in
  #checkov:skip=CKV2_AZURE_1:manifests hold no material; Microsoft's keys encrypt them at rest
  #checkov:skip=CKV2_AZURE_33:as for the network
  #checkov:skip=CKV2_AZURE_41:there are no keys that could sign a SAS
  name                            = "${substr(local.plain, 0, 14)}man${local.suffix}"
  resource_group_name             = azurerm_resource_group.this.name
  location                        = azurerm_resource_group.this.location
  account_tier                    = "Standard"
  account_replication_type        = "GRS"
  min_tls_version                 = "TLS1_2"
  shared_access_key_enabled       = false
  local_user_enabled              = false
  allow_nested_items_to_be_public = false
  default_to_oauth_authentication = true
  tags                            = local.tags

  blob_properties {
    versioning_enabled = true # `verify` refuses an entry that has two
    delete_retention_policy {
      days = 365
    }
    container_delete_retention_policy {
      days = 365
    }
  }

  lifecycle {
    prevent_destroy = true
  }
}

resource "azurerm_storage_container" "manifests" {
  #checkov:skip=CKV2_AZURE_21:the diagnostic setting below logs what is read, written and deleted
  name               = "manifests"
  storage_account_id = azurerm_storage_account.manifests.id
}

resource "azurerm_storage_container" "policy" {
  #checkov:skip=CKV2_AZURE_21:the diagnostic setting below logs what is read, written and deleted
  name               = "policy"
  storage_account_id = azurerm_storage_account.manifests.id
}

resource "azurerm_storage_container_immutability_policy" "manifests" {
  count                                 = var.immutable_days > 0 ? 1 : 0
  storage_container_resource_manager_id = azurerm_storage_container.manifests.id
  immutability_period_in_days           = var.immutable_days
  protected_append_writes_enabled       = false
}

resource "azurerm_monitor_diagnostic_setting" "manifests" {
  name                       = "${var.name}-audit"
  target_resource_id         = "${azurerm_storage_account.manifests.id}/blobServices/default"
  log_analytics_workspace_id = azurerm_log_analytics_workspace.this.id
  enabled_log {
    category = "StorageRead"
  }
  enabled_log {
    category = "StorageWrite"
  }
  enabled_log {
    category = "StorageDelete"
  }
}

# `blobs/write` would overwrite; `blobs/add/action` is Microsoft's "DataAction for creating blobs" (Azure documentation:
# "Actions and attributes for Azure role assignment conditions for Azure Blob Storage").
resource "azurerm_role_definition" "ledger" {
  name        = "${var.name}-${local.suffix} manifest writer"
  description = "Adds manifest entries and reads them; overwrites and deletes none."
  scope       = azurerm_storage_account.manifests.id
  permissions {
    data_actions = [
      "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/add/action",
      "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read",
    ]
  }
  assignable_scopes = [azurerm_storage_account.manifests.id]
}

resource "azurerm_role_assignment" "ledger" {
  scope              = azurerm_storage_container.manifests.id
  role_definition_id = azurerm_role_definition.ledger.role_definition_resource_id
  principal_id       = azurerm_user_assigned_identity.function.principal_id
  principal_type     = "ServicePrincipal"
}

resource "azurerm_role_assignment" "policy" {
  scope                = azurerm_storage_container.policy.id
  role_definition_name = "Storage Blob Data Reader"
  principal_id         = azurerm_user_assigned_identity.function.principal_id
  principal_type       = "ServicePrincipal"
}
