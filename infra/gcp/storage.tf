# Two buckets: the manifests', where the function may add and read and nothing else, and the source's, with the
# function's archive and the policy. The policy is not beside the manifests: a retention there would freeze it too.

locals {
  # What core/daena_kms/stores/gcp_ledger.py says that it needs. Without storage.objects.delete nothing is overwritten.
  ledger_permissions = [
    "storage.objects.create",
    "storage.objects.get",
    "storage.objects.list",
  ]
  archive = var.archive == null ? "${path.module}/../../build/bundles/gcp.zip" : var.archive
}

resource "google_storage_bucket" "manifests" {
  #checkov:skip=CKV_GCP_62:who adds, reads and deletes is in Cloud Audit Logs, where the project has them for storage
  #checkov:skip=CKV_GCP_78:versions are kept unless a retention forbids that there be two; Cloud Storage has one or the other
  name                        = "${var.project_id}-${var.name}-manifests"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false
  depends_on                  = [google_project_service.this]

  versioning {
    enabled = var.retention_days == 0 # `verify` refuses an entry that has two
  }

  soft_delete_policy {
    retention_duration_seconds = 7776000 # 90 days, the most
  }

  dynamic "retention_policy" {
    for_each = var.retention_days == 0 ? [] : [var.retention_days]
    content {
      retention_period = retention_policy.value * 86400
      is_locked        = var.lock_retention
    }
  }

  lifecycle {
    prevent_destroy = true
  }
}

resource "google_project_iam_custom_role" "ledger" {
  role_id     = "${local.role_name}_ledger"
  title       = "${var.name}: writes manifests"
  description = "Adds objects to a bucket and reads them; overwrites and deletes none."
  permissions = local.ledger_permissions
  depends_on  = [google_project_service.this]
}

resource "google_storage_bucket_iam_member" "ledger" {
  bucket = google_storage_bucket.manifests.name
  role   = google_project_iam_custom_role.ledger.id
  member = google_service_account.function.member
}

resource "google_storage_bucket" "source" {
  #checkov:skip=CKV_GCP_62:what is here is made anew by a deployment
  name                        = "${var.project_id}-${var.name}-source"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true
  depends_on                  = [google_project_service.this]

  versioning {
    enabled = true # earlier policies
  }
}

# Another archive has another name, so that Terraform deploys it.
resource "google_storage_bucket_object" "archive" {
  name   = "source/${try(filesha256(local.archive), "none")}.zip"
  bucket = google_storage_bucket.source.name
  source = local.archive

  lifecycle {
    create_before_destroy = true
    precondition {
      condition     = fileexists(local.archive)
      error_message = "There is no ${local.archive}: `.venv/bin/python infra/bundle.py gcp` builds it."
    }
  }
}

resource "google_storage_bucket_object" "policy" {
  name         = "policy/daena-kms.toml"
  bucket       = google_storage_bucket.source.name
  source       = var.policy_file
  content_type = "application/toml"
}

resource "google_project_iam_custom_role" "policy" {
  role_id     = "${local.role_name}_policy"
  title       = "${var.name}: reads the policy"
  description = "Reads objects of a bucket."
  permissions = ["storage.objects.get"]
  depends_on  = [google_project_service.this]
}

resource "google_storage_bucket_iam_member" "policy" {
  bucket = google_storage_bucket.source.name
  role   = google_project_iam_custom_role.policy.id
  member = google_service_account.function.member
  condition {
    title       = "${var.name}-policy"
    description = "The policy alone"
    expression  = "resource.name == \"projects/_/buckets/${google_storage_bucket.source.name}/objects/${google_storage_bucket_object.policy.name}\""
  }
}
