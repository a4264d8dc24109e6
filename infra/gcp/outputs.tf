output "function" {
  value       = google_cloudfunctions2_function.this.name
  description = "The function, and the Cloud Run service that it is."
}

output "run_url" {
  value       = google_cloudfunctions2_function.this.service_config[0].uri
  description = "POST a request here, with an identity token of one of var.invokers."
}

output "job" {
  value       = google_cloud_scheduler_job.tick.name
  description = "Starts the function; `gcloud scheduler jobs run` does so at once."
}

output "run_by_hand" {
  value       = "gcloud scheduler jobs run ${google_cloud_scheduler_job.tick.name} --project ${var.project_id} --location ${var.region}"
  description = "Starts a run at once, as the schedule would; in the console: Cloud Scheduler, the job, Force run."
}

output "manifest_url" {
  value       = "gs://${google_storage_bucket.manifests.name}/manifests"
  description = "Where the evidence is: DAENA_MANIFEST_URL for the command on your own machine."
}

output "policy_url" {
  value       = "gs://${google_storage_bucket.source.name}/${google_storage_bucket_object.policy.name}"
  description = "The policy: DAENA_POLICY for the command on your own machine."
}

output "function_account" {
  value       = google_service_account.function.email
  description = "Rotates keys."
}

output "scheduler_account" {
  value       = google_service_account.scheduler.email
  description = "Starts the function."
}

output "rotator_roles" {
  value       = [google_project_iam_custom_role.rotator.id, google_project_iam_custom_role.finder.id, google_project_iam_custom_role.ledger.id]
  description = "What the function may do: with keys that have the prefix, with the project's list of secrets, with manifests."
}

output "reader_role" {
  value       = google_project_iam_custom_role.reader.id
  description = "Grant it to applications, on single secrets or with reader_condition."
}

output "reader_condition" {
  value       = local.reader_condition
  description = "The IAM condition with which reader_role leaves out staged versions and the manifests' signing keys."
}

output "alarm_on_silence" {
  value       = local.no_run == null ? "none: no alert of Cloud Monitoring looks back over two ticks of this schedule" : "${local.no_run}s"
  description = "How far back the alarm for missing runs looks."
}
