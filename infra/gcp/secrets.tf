# The secrets themselves are made by the function: here is who may do what.

locals {
  # What core/daena_kms/stores/gcp.py says that it needs. What is asked of one secret goes with the condition below;
  # what is asked of the project has no secret's name that a condition could look at.
  secret_permissions = [
    "secretmanager.secrets.get",
    "secretmanager.secrets.update",
    "secretmanager.versions.access",
    "secretmanager.versions.add",
    "secretmanager.versions.destroy",
    "secretmanager.versions.disable",
    "secretmanager.versions.enable",
    "secretmanager.versions.get",
    "secretmanager.versions.list",
  ]
  project_permissions = [
    "secretmanager.secrets.create",
    "secretmanager.secrets.list",
  ]
  # The signing keys of the manifests have a prefix of their own, so that no reader's role includes them.
  rotator_condition = "resource.name.startsWith(\"${local.secrets}${var.key_prefix}\") || resource.name.startsWith(\"${local.secrets}reserved--${var.key_prefix}\")"
  # Staged versions are in secrets whose names end so: nobody is to read what is not verified.
  reader_condition = "resource.type == \"secretmanager.googleapis.com/SecretVersion\" && resource.name.startsWith(\"${local.secrets}${var.key_prefix}\") && !resource.name.extract(\"/secrets/{name}/versions/\").endsWith(\"--staged\")"
}

# The only built-in role that may update a secret is the one that also deletes any, and gives access to any.
resource "google_project_iam_custom_role" "rotator" {
  role_id     = "${local.role_name}_rotator"
  title       = "${var.name}: rotates keys"
  description = "Reads, adds, disables and destroys versions of secrets; deletes no secret and gives nobody access."
  permissions = local.secret_permissions
  depends_on  = [google_project_service.this]
}

resource "google_project_iam_member" "rotator" {
  project = var.project_id
  role    = google_project_iam_custom_role.rotator.id
  member  = google_service_account.function.member
  condition {
    title       = "${var.name}-keys"
    description = "Secrets that begin with ${var.key_prefix} or reserved--${var.key_prefix}"
    expression  = local.rotator_condition
  }
}

resource "google_project_iam_custom_role" "finder" {
  role_id     = "${local.role_name}_finder"
  title       = "${var.name}: finds and makes keys"
  description = "Lists the project's secrets, without their values, and makes empty ones."
  permissions = local.project_permissions
  depends_on  = [google_project_service.this]
}

resource "google_project_iam_member" "finder" {
  project = var.project_id
  role    = google_project_iam_custom_role.finder.id
  member  = google_service_account.function.member
}

resource "google_project_iam_custom_role" "reader" {
  role_id     = "${local.role_name}_reader"
  title       = "${var.name}: reads keys"
  description = "Reads the values of secrets, and lists none. Grant it with the condition that the output reader_condition shows."
  permissions = ["secretmanager.versions.access"]
  depends_on  = [google_project_service.this]
}

resource "google_project_iam_member" "reader" {
  for_each = toset(var.readers)
  project  = var.project_id
  role     = google_project_iam_custom_role.reader.id
  member   = each.value
  condition {
    title       = "${var.name}-readers"
    description = "Keys that begin with ${var.key_prefix}, staged versions left out"
    expression  = local.reader_condition
  }
}

resource "google_project_iam_audit_config" "secrets" {
  count   = var.log_secret_reads ? 1 : 0
  project = var.project_id
  service = "secretmanager.googleapis.com"
  audit_log_config {
    log_type = "DATA_READ"
  }
  audit_log_config {
    log_type = "DATA_WRITE"
  }
}
