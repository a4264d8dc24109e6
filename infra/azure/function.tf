resource "azurerm_service_plan" "this" {
  #checkov:skip=CKV_AZURE_211:Flex Consumption has one SKU
  #checkov:skip=CKV_AZURE_212:a tick runs on one instance; the next one comes within the hour
  #checkov:skip=CKV_AZURE_225:the same
  name                = "${var.name}-plan"
  location            = azurerm_resource_group.this.location
  resource_group_name = azurerm_resource_group.this.name
  os_type             = "Linux"
  sku_name            = "FC1"
  tags                = local.tags
}

resource "azurerm_function_app_flex_consumption" "this" {
  name                = "${var.name}-${local.suffix}"
  location            = azurerm_resource_group.this.location
  resource_group_name = azurerm_resource_group.this.name
  service_plan_id     = azurerm_service_plan.this.id
  https_only          = true
  tags                = local.tags

  runtime_name          = "python"
  runtime_version       = "3.13"
  instance_memory_in_mb = 512
  # Two runs at once do no harm, and no good either: one takes what is due, the other reports it as in progress.
  maximum_instance_count = 40

  storage_container_type            = "blobContainer"
  storage_container_endpoint        = "${azurerm_storage_account.host.primary_blob_endpoint}${azurerm_storage_container.app.name}"
  storage_authentication_type       = "UserAssignedIdentity"
  storage_user_assigned_identity_id = azurerm_user_assigned_identity.function.id

  webdeploy_publish_basic_authentication_enabled = false

  identity {
    type         = "UserAssigned"
    identity_ids = [azurerm_user_assigned_identity.function.id]
  }

  site_config {
    application_insights_connection_string = azurerm_application_insights.this.connection_string
    minimum_tls_version                    = "1.2"
    scm_minimum_tls_version                = "1.2"
    http2_enabled                          = true
  }

  app_settings = {
    AzureWebJobsStorage__accountName = azurerm_storage_account.host.name
    AzureWebJobsStorage__credential  = "managedidentity"
    AzureWebJobsStorage__clientId    = azurerm_user_assigned_identity.function.client_id
    AZURE_CLIENT_ID                  = azurerm_user_assigned_identity.function.client_id
    AZURE_KEY_VAULT_URL              = local.vault_url
    DAENA_CLOUD_KMS_PROVIDER         = "azure"
    DAENA_KEY_PREFIX                 = var.key_prefix
    DAENA_MANIFEST_URL               = "${azurerm_storage_account.manifests.primary_blob_endpoint}${azurerm_storage_container.manifests.name}/${var.name}"
    DAENA_POLICY                     = "${azurerm_storage_account.manifests.primary_blob_endpoint}${azurerm_storage_container.policy.name}/daena-kms.toml"
    DAENA_PUBLIC_KEY                 = var.public_key
    DAENA_TICK_MINUTES               = tostring(var.tick_minutes)
    DAENA_TIME_BUDGET_SECONDS        = "1500" # of the 30 minutes that host.json gives a run
    ROTATION_SCHEDULE                = var.schedule
  }

  depends_on = [
    azurerm_role_assignment.host,
    azurerm_role_assignment.ledger,
    azurerm_role_assignment.policy,
    azurerm_role_assignment.rotator,
  ]
}
