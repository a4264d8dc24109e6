# `terraform test` against a provider that only knows the schema: tests/infra/test_gcp_template.py runs it.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "424242" }
  }
  mock_resource "google_cloudfunctions2_function" {
    defaults = {
      service_config = { uri = "https://daena-kms-abc123-ew.a.run.app" }
    }
  }
}

variables {
  project_id  = "acme-prod-4711"
  policy_file = "variables.tf" # any file will do
  archive     = "main.tf"
}

run "settings" {
  command = apply

  assert {
    condition = google_cloudfunctions2_function.this.service_config[0].environment_variables == tomap({
      DAENA_CLOUD_KMS_PROVIDER  = "gcp"
      DAENA_KEY_PREFIX          = "daena-"
      DAENA_MANIFEST_URL        = "gs://acme-prod-4711-daena-kms-manifests/manifests"
      DAENA_POLICY              = "gs://acme-prod-4711-daena-kms-source/policy/daena-kms.toml"
      DAENA_TICK_MINUTES        = "60"
      DAENA_TIME_BUDGET_SECONDS = "1500"
      GCP_PROJECT_ID            = "acme-prod-4711"
    })
    error_message = "the settings are these, and no key is pinned that nobody knows yet"
  }
  assert {
    condition     = google_cloudfunctions2_function.this.build_config[0].runtime == "python313" && google_cloudfunctions2_function.this.build_config[0].entry_point == "run"
    error_message = "Python 3.13, and main.py's function run"
  }
  assert {
    condition     = google_cloudfunctions2_function.this.service_config[0].max_instance_request_concurrency == 1 && google_cloudfunctions2_function.this.service_config[0].max_instance_count == 1
    error_message = "one run at a time"
  }
  assert {
    condition     = google_cloudfunctions2_function.this.service_config[0].service_account_email == google_service_account.function.email
    error_message = "the function works under its own account"
  }
  assert {
    condition     = google_cloudfunctions2_function.this.build_config[0].source[0].storage_source[0].object == "source/${filesha256("main.tf")}.zip"
    error_message = "the source is named by its content, so that another is deployed"
  }
  assert {
    condition     = google_storage_bucket_object.policy.source == "variables.tf"
    error_message = "the policy that was given is uploaded"
  }
}

run "schedule" {
  command = apply

  assert {
    condition     = google_cloud_scheduler_job.tick.schedule == "0 * * * *" && google_cloud_scheduler_job.tick.time_zone == "Etc/UTC"
    error_message = "hourly, by UTC"
  }
  assert {
    condition     = tonumber(trimsuffix(google_cloud_scheduler_job.tick.attempt_deadline, "s")) >= google_cloudfunctions2_function.this.service_config[0].timeout_seconds
    error_message = "no run is given up on before its end"
  }
  assert {
    condition     = tonumber(trimsuffix(google_cloud_scheduler_job.tick.attempt_deadline, "s")) <= 1800
    error_message = "Cloud Scheduler waits 30 minutes at most"
  }
  assert {
    condition     = google_cloud_scheduler_job.tick.http_target[0].oidc_token[0].audience == google_cloudfunctions2_function.this.service_config[0].uri
    error_message = "the token is for the function's own address"
  }
  assert {
    condition     = can(regex("^https://[^/]+$", google_cloud_scheduler_job.tick.http_target[0].oidc_token[0].audience))
    error_message = "an audience has no path"
  }
  assert {
    condition     = google_cloud_scheduler_job.tick.http_target[0].uri == google_cloudfunctions2_function.this.service_config[0].uri && google_cloud_scheduler_job.tick.http_target[0].http_method == "POST"
    error_message = "the function takes POST alone"
  }
  assert {
    condition     = google_cloud_scheduler_job.tick.http_target[0].oidc_token[0].service_account_email == google_service_account.scheduler.email
    error_message = "the scheduler has an account of its own"
  }
  assert {
    condition     = jsondecode(base64decode(google_cloud_scheduler_job.tick.http_target[0].body)) == { action = "rotate" } && google_cloud_scheduler_job.tick.http_target[0].headers["Content-Type"] == "application/json"
    error_message = "what it sends is what the function reads"
  }
  assert {
    condition     = google_cloud_scheduler_job.tick.retry_config[0].retry_count >= 1 && google_cloud_scheduler_job.tick.retry_config[0].retry_count <= 5
    error_message = "a failed run is tried again; five times is the most"
  }
}

run "access" {
  command = apply

  assert {
    condition     = toset(google_cloud_run_v2_service_iam_binding.invoker.members) == toset([google_service_account.scheduler.member]) && google_cloud_run_v2_service_iam_binding.invoker.role == "roles/run.invoker"
    error_message = "the scheduler alone starts the function"
  }
  assert {
    condition     = google_project_iam_member.rotator.condition[0].expression == "resource.name.startsWith(\"projects/424242/secrets/daena-\") || resource.name.startsWith(\"projects/424242/secrets/reserved--daena-\")"
    error_message = "the project's number, the prefix, and what is reserved for it"
  }
  assert {
    condition     = google_project_iam_member.rotator.member == google_service_account.function.member && google_project_iam_member.finder.member == google_service_account.function.member
    error_message = "the function's account rotates"
  }
  assert {
    condition     = google_storage_bucket_iam_member.ledger.bucket == google_storage_bucket.manifests.name && google_storage_bucket_iam_member.ledger.role == google_project_iam_custom_role.ledger.id
    error_message = "manifests are written to their own bucket"
  }
  assert {
    condition     = google_storage_bucket_iam_member.policy.bucket == google_storage_bucket.source.name && google_storage_bucket_iam_member.policy.condition[0].expression == "resource.name == \"projects/_/buckets/acme-prod-4711-daena-kms-source/objects/policy/daena-kms.toml\""
    error_message = "of the other bucket, the policy alone is read"
  }
  assert {
    condition     = length(google_project_iam_member.reader) == 0 && length(google_project_iam_audit_config.secrets) == 0
    error_message = "nobody reads keys, and nothing of the project's is replaced, unless that is asked for"
  }
}

run "manifests" {
  command = plan

  assert {
    condition     = google_storage_bucket.manifests.uniform_bucket_level_access && google_storage_bucket.manifests.public_access_prevention == "enforced" && google_storage_bucket.manifests.versioning[0].enabled && !google_storage_bucket.manifests.force_destroy
    error_message = "one way in, none for the public, versions kept"
  }
  assert {
    condition     = length(google_storage_bucket.manifests.retention_policy) == 0
    error_message = "nothing that cannot be undone"
  }
}

run "retention" {
  command = plan
  variables {
    retention_days = 400
  }
  assert {
    condition     = google_storage_bucket.manifests.retention_policy[0].retention_period == 34560000 && !google_storage_bucket.manifests.retention_policy[0].is_locked && !google_storage_bucket.manifests.versioning[0].enabled
    error_message = "as long as was asked for, not locked, and no versions beside it"
  }
}

run "locked" {
  command = plan
  variables {
    retention_days = 400
    lock_retention = true
  }
  assert {
    condition     = google_storage_bucket.manifests.retention_policy[0].is_locked
    error_message = "locked when that is asked for"
  }
}

run "alarms" {
  command = apply

  assert {
    condition     = google_monitoring_alert_policy.silent[0].conditions[0].condition_absent[0].duration == "8100s" && output.alarm_on_silence == "8100s"
    error_message = "two hourly ticks and a quarter of an hour"
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.silent[0].conditions[0].condition_absent[0].filter, "\"logging.googleapis.com/user/${google_logging_metric.runs.name}\"") && google_monitoring_alert_policy.silent[0].conditions[1].condition_threshold[0].filter == google_monitoring_alert_policy.silent[0].conditions[0].condition_absent[0].filter
    error_message = "it waits for the metric that counts runs"
  }
  assert {
    condition     = alltrue([for condition in google_monitoring_alert_policy.silent[0].conditions : alltrue([for how in concat(condition.condition_absent, condition.condition_threshold) : how.aggregations[0].cross_series_reducer == "REDUCE_SUM"])])
    error_message = "a deployment is no silence"
  }
  assert {
    condition     = toset(keys(google_monitoring_alert_policy.line)) == toset(["failed", "overdue", "stuck", "undelivered"])
    error_message = "four more"
  }
  assert {
    condition     = alltrue([for alert in google_monitoring_alert_policy.line : length(alert.alert_strategy[0].notification_rate_limit) == 1])
    error_message = "an alert on lines of the log needs a limit of how often it tells"
  }
  assert {
    condition     = alltrue([for name in ["failed", "overdue", "stuck"] : strcontains(google_monitoring_alert_policy.line[name].conditions[0].condition_matched_log[0].filter, "resource.labels.service_name=\"${google_cloudfunctions2_function.this.name}\"")])
    error_message = "the lines are the function's"
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.line["undelivered"].conditions[0].condition_matched_log[0].filter, "resource.labels.job_id=\"${google_cloud_scheduler_job.tick.name}\"")
    error_message = "the lines are the job's"
  }
  assert {
    condition     = length(google_monitoring_alert_policy.silent[0].notification_channels) == 0
    error_message = "nobody is told unless somebody was named"
  }
}

run "the_longest_watched" {
  command = plan
  variables {
    schedule     = "37 */11 * * *"
    tick_minutes = 697
  }
  assert {
    condition     = google_monitoring_alert_policy.silent[0].conditions[0].condition_absent[0].duration == "84540s"
    error_message = "23.5 hours are the most that an absence alert looks back"
  }
}

run "the_shortest_that_is_not" {
  command = plan
  variables {
    schedule     = "37 */11 * * *"
    tick_minutes = 698
  }
  assert {
    condition     = startswith(output.alarm_on_silence, "none") && length(google_monitoring_alert_policy.silent) == 0
    error_message = "no alert looks back so far, and that is said"
  }
}

run "given" {
  command = apply
  variables {
    alarm_email           = "security@example.com"
    notification_channels = ["projects/acme-prod-4711/notificationChannels/17"]
    public_key            = "abababababababababababababababababababababababababababababababab"
    secret_locations      = ["europe-west1", "europe-west4"]
    timeout_seconds       = 600
    invokers              = ["user:ann@example.com"]
    readers               = ["serviceAccount:app@acme-prod-4711.iam.gserviceaccount.com"]
    key_prefix            = "team-one-"
    log_secret_reads      = true
  }
  assert {
    condition     = google_monitoring_notification_channel.email[0].labels["email_address"] == "security@example.com" && length(google_monitoring_alert_policy.silent[0].notification_channels) == 2
    error_message = "somebody is told, by both channels"
  }
  assert {
    condition     = google_cloudfunctions2_function.this.service_config[0].environment_variables["DAENA_PUBLIC_KEY"] == "abababababababababababababababababababababababababababababababab"
    error_message = "the key is pinned"
  }
  assert {
    condition     = google_cloudfunctions2_function.this.service_config[0].environment_variables["GCP_SECRET_LOCATIONS"] == "europe-west1,europe-west4"
    error_message = "new secrets lie where it was said"
  }
  assert {
    condition     = google_cloudfunctions2_function.this.service_config[0].environment_variables["DAENA_TIME_BUDGET_SECONDS"] == "300" && google_cloud_scheduler_job.tick.attempt_deadline == "600s"
    error_message = "the deadlines follow the timeout"
  }
  assert {
    condition     = toset(google_cloud_run_v2_service_iam_binding.invoker.members) == toset([google_service_account.scheduler.member, "user:ann@example.com"])
    error_message = "who was named may send requests"
  }
  assert {
    condition     = google_project_iam_member.reader["serviceAccount:app@acme-prod-4711.iam.gserviceaccount.com"].condition[0].expression == "resource.type == \"secretmanager.googleapis.com/SecretVersion\" && resource.name.startsWith(\"projects/424242/secrets/team-one-\") && !resource.name.extract(\"/secrets/{name}/versions/\").endsWith(\"--staged\")"
    error_message = "an application reads what has the prefix, and nothing staged"
  }
  assert {
    condition     = output.reader_condition == google_project_iam_member.reader["serviceAccount:app@acme-prod-4711.iam.gserviceaccount.com"].condition[0].expression
    error_message = "the recipe is what is granted here"
  }
  assert {
    condition     = google_project_iam_audit_config.secrets[0].service == "secretmanager.googleapis.com"
    error_message = "who reads is logged"
  }
}

run "no_archive" {
  command = plan
  variables {
    archive = "nothing.zip"
  }
  expect_failures = [google_storage_bucket_object.archive]
}
