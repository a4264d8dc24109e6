resource "google_cloudfunctions2_function" "this" {
  #checkov:skip=CKV_GCP_124:requests by hand come from outside; Cloud Run checks the identity of whoever sends one (var.ingress)
  name        = var.name
  location    = var.region
  description = "Rotates the keys that begin with ${var.key_prefix}"

  build_config {
    runtime         = "python313"
    entry_point     = "run"
    service_account = google_service_account.builder.id
    source {
      storage_source {
        bucket = google_storage_bucket.source.name
        object = google_storage_bucket_object.archive.name
      }
    }
  }

  service_config {
    service_account_email = google_service_account.function.email
    ingress_settings      = var.ingress
    available_memory      = "512Mi"
    available_cpu         = "1"
    timeout_seconds       = var.timeout_seconds
    # Two runs at once do no harm, and no good either: one takes what is due, the other reports it as in progress.
    max_instance_count               = 1
    max_instance_request_concurrency = 1
    all_traffic_on_latest_revision   = true

    environment_variables = merge(
      {
        DAENA_CLOUD_KMS_PROVIDER  = "gcp"
        DAENA_KEY_PREFIX          = var.key_prefix
        DAENA_MANIFEST_URL        = "gs://${google_storage_bucket.manifests.name}/manifests"
        DAENA_POLICY              = "gs://${google_storage_bucket.source.name}/${google_storage_bucket_object.policy.name}"
        DAENA_TICK_MINUTES        = tostring(var.tick_minutes)
        DAENA_TIME_BUDGET_SECONDS = tostring(var.timeout_seconds - 300) # what has begun by then has time to end
        GCP_PROJECT_ID            = var.project_id
      },
      var.public_key == "" ? {} : { DAENA_PUBLIC_KEY = var.public_key },
      length(var.secret_locations) == 0 ? {} : { GCP_SECRET_LOCATIONS = join(",", var.secret_locations) },
    )
  }

  # A role takes a moment until it is in force: first what the build and the first run need.
  depends_on = [
    google_project_iam_member.builder,
    google_project_iam_member.finder,
    google_project_iam_member.rotator,
    google_storage_bucket_iam_member.ledger,
    google_storage_bucket_iam_member.policy,
  ]
}

# All who have this role on the function, nobody else: whoever was added by hand goes at the next deployment.
resource "google_cloud_run_v2_service_iam_binding" "invoker" {
  project  = var.project_id
  location = var.region
  name     = google_cloudfunctions2_function.this.name
  role     = "roles/run.invoker"
  members  = concat([google_service_account.scheduler.member], var.invokers)
}

resource "google_cloud_scheduler_job" "tick" {
  name             = var.name
  region           = var.region
  description      = "Starts ${var.name}: what is due is rotated"
  schedule         = var.schedule
  time_zone        = "Etc/UTC"
  attempt_deadline = "${var.timeout_seconds}s" # as long as the function may take: a run is not given up on before its end

  # Each try is an ordinary run: nothing happens twice.
  retry_config {
    retry_count          = 2
    min_backoff_duration = "60s"
    max_backoff_duration = "600s"
    max_doublings        = 3
  }

  http_target {
    http_method = "POST"
    uri         = google_cloudfunctions2_function.this.service_config[0].uri
    headers     = { "Content-Type" = "application/json" }
    body        = base64encode(jsonencode({ action = "rotate" }))
    oidc_token {
      service_account_email = google_service_account.scheduler.email
      audience              = google_cloudfunctions2_function.this.service_config[0].uri
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_binding.invoker]
}
