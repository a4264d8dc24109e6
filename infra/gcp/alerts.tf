# Single lines of the log raise four of the alarms; the fifth needs a metric, because it waits for a line that is not there.

resource "google_monitoring_notification_channel" "email" {
  count        = var.alarm_email == "" ? 0 : 1
  display_name = "${var.name}: security"
  type         = "email"
  labels       = { email_address = var.alarm_email }
  depends_on   = [google_project_service.this]
}

locals {
  channels = concat(google_monitoring_notification_channel.email[*].name, var.notification_channels)
  logged   = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"${var.name}\""
  # Every rotation that was carried out, well or badly, writes one such line; requests by hand for `status` write none.
  ran = "${local.logged} AND (jsonPayload.message=\"done\" OR jsonPayload.message=\"failed\") AND jsonPayload.metrics.Runs=1"
  figures = {
    keys-rotated       = { field = "KeysRotated", unit = "1" }
    keys-failed        = { field = "KeysFailed", unit = "1" }
    keys-overdue       = { field = "KeysOverdue", unit = "1" }
    keys-in-progress   = { field = "KeysInProgress", unit = "1" }
    keys-deferred      = { field = "KeysDeferred", unit = "1" }
    oldest-active-days = { field = "OldestActiveDays", unit = "d" }
    duration           = { field = "Duration", unit = "s" }
  }
  alerts = {
    failed = {
      says     = "A run of daena-kms failed, or could not begin: the log names each key and what to do."
      severity = "ERROR"
      filter   = "${local.logged} AND (jsonPayload.message=\"failed\" OR severity>=ERROR)"
    }
    overdue = {
      says     = "A key is older than its policy allows: the report names it and says why it was not rotated."
      severity = "CRITICAL"
      filter   = "${local.ran} AND jsonPayload.metrics.KeysOverdue>0"
    }
    stuck = {
      says     = "A claim on a key is open past its lease, and the run that found it could not take it over: the report names the key."
      severity = "ERROR"
      filter   = "${local.ran} AND jsonPayload.metrics.KeysStuck>0"
    }
    undelivered = {
      says     = "Cloud Scheduler could not start daena-kms, or got no good answer: its own log says why."
      severity = "ERROR"
      filter   = "resource.type=\"cloud_scheduler_job\" AND resource.labels.job_id=\"${var.name}\" AND severity>=ERROR"
    }
  }
  # Two ticks and a little: one that comes late is no missing one. An absence alert reaches back 23.5 hours at most.
  silence = (2 * var.tick_minutes + 15) * 60
  no_run  = local.silence <= 84600 ? local.silence : null
}

resource "google_logging_metric" "runs" {
  name        = "${var.name}-runs"
  description = "Runs that were carried out, well or badly."
  filter      = local.ran
  depends_on  = [google_project_service.this]
  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
  }
}

# For dashboards, by the names that the figures have in the log.
resource "google_logging_metric" "figures" {
  for_each        = local.figures
  name            = "${var.name}-${each.key}"
  description     = "${each.value.field} of each run."
  filter          = local.ran
  value_extractor = "EXTRACT(jsonPayload.metrics.${each.value.field})"
  depends_on      = [google_project_service.this]
  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
    unit        = each.value.unit
  }
}

resource "google_monitoring_alert_policy" "line" {
  for_each              = local.alerts
  display_name          = "${var.name}: ${each.key}"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = local.channels
  depends_on            = [google_project_service.this]

  conditions {
    display_name = each.key
    condition_matched_log {
      filter = each.value.filter
    }
  }

  alert_strategy {
    auto_close = "86400s"
    notification_rate_limit {
      period = "3600s"
    }
  }

  documentation {
    content   = each.value.says
    mime_type = "text/markdown"
  }
}

# Begins to watch with the first run: an alert knows nothing of what never was.
resource "google_monitoring_alert_policy" "silent" {
  count                 = local.no_run == null ? 0 : 1
  display_name          = "${var.name}: silent"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = local.channels
  # Monitoring knows a new metric after some minutes only; until then it refuses an alert on it. A build takes as long.
  depends_on = [google_cloud_scheduler_job.tick]

  conditions {
    display_name = "no line of a run"
    condition_absent {
      filter   = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.runs.name}\" AND resource.type=\"cloud_run_revision\""
      duration = "${local.no_run}s"
      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM" # each deployment begins a series of its own, and ends the one before
      }
    }
  }

  # The same where the metric goes on as zero.
  conditions {
    display_name = "no run counted"
    condition_threshold {
      filter          = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.runs.name}\" AND resource.type=\"cloud_run_revision\""
      duration        = "0s"
      comparison      = "COMPARISON_LT"
      threshold_value = 1
      aggregations {
        alignment_period     = "${local.no_run}s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  documentation {
    content   = "daena-kms has not run for two ticks: look at the job ${var.name} in Cloud Scheduler, and whether it is paused."
    mime_type = "text/markdown"
  }
}
