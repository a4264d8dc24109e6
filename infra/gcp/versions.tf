# What deploys daena-kms to Google Cloud. README: docs/gcp.md. `deploy.sh` checks the inputs first and does all the steps.

terraform {
  required_version = ">= 1.9" # a variable's rule may name another variable
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.50, < 8.0"
    }
  }
}

provider "google" {
  project        = var.project_id
  region         = var.region
  default_labels = { app = "daena-kms" }
}

data "google_project" "this" {
  project_id = var.project_id
}
