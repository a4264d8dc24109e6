locals {
  # IAM knows secrets by the project's number.
  secrets   = "projects/${data.google_project.this.number}/secrets/"
  role_name = replace(var.name, "-", "_")
}

resource "google_project_service" "this" {
  for_each = toset([
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudfunctions.googleapis.com",
    "cloudscheduler.googleapis.com",
    "iam.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "run.googleapis.com",
    "secretmanager.googleapis.com",
    "storage.googleapis.com",
  ])
  service            = each.value
  disable_on_destroy = false # others in the project may use it
}

resource "google_service_account" "function" {
  account_id   = "${var.name}-function"
  display_name = "daena-kms: rotates keys"
  depends_on   = [google_project_service.this]
}

resource "google_service_account" "scheduler" {
  account_id   = "${var.name}-scheduler"
  display_name = "daena-kms: starts the function"
  depends_on   = [google_project_service.this]
}

resource "google_service_account" "builder" {
  account_id   = "${var.name}-builder"
  display_name = "daena-kms: builds the function's image"
  depends_on   = [google_project_service.this]
}

# What a build needs (Google: "Custom Service Account for Cloud Build"). Without an account of its own, it would be the
# project's default one, which may do nothing in new projects and nearly everything in old ones.
resource "google_project_iam_member" "builder" {
  for_each = toset(["roles/artifactregistry.writer", "roles/logging.logWriter", "roles/storage.objectViewer"])
  project  = var.project_id
  role     = each.value
  member   = google_service_account.builder.member
}
