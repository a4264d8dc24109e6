output "resource_group" {
  value       = azurerm_resource_group.this.name
  description = "Holds everything."
}

output "function_app" {
  value       = azurerm_function_app_flex_consumption.this.name
  description = "Its functions are `tick`, which the schedule starts, and `run`, for runs by hand."
}

output "run_url" {
  value       = "https://${azurerm_function_app_flex_consumption.this.default_hostname}/api/run"
  description = "POST a request here, with the function's key in the header x-functions-key."
}

output "vault_url" {
  value       = local.vault_url
  description = "Where the keys are."
}

output "manifest_url" {
  value       = azurerm_function_app_flex_consumption.this.app_settings["DAENA_MANIFEST_URL"]
  description = "Where the evidence is: DAENA_MANIFEST_URL for the command on your own machine."
}

output "policy_account" {
  value       = azurerm_storage_account.manifests.name
  description = "The policy lies here, in the container `policy`, as daena-kms.toml."
}

output "reader_role" {
  value       = azurerm_role_definition.reader.role_definition_resource_id
  description = "Assign it to applications, on single secrets of the vault."
}

output "alarm_on_silence" {
  value       = local.no_run == null ? "none: no alert of Azure looks back over two ticks of this schedule" : local.no_run
  description = "How far back the alarm for missing runs looks."
}
