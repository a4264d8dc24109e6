# What deploys daena-kms to Azure. README: docs/azure.md. `deploy.sh` checks the inputs first and does all the steps.

terraform {
  required_version = ">= 1.9" # from there on a validation may look at another variable
  required_providers {
    azurerm = {
      source = "hashicorp/azurerm"
      # Below 4.81 Key Vault is managed through API versions that stop on 2027-02-27.
      version = ">= 4.81, < 5.0"
    }
  }
}

provider "azurerm" {
  features {}
  subscription_id     = var.subscription_id
  storage_use_azuread = true # no account has keys
}

data "azurerm_client_config" "current" {}
