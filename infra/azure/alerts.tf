resource "azurerm_monitor_action_group" "this" {
  name                = "${var.name}-alarms"
  resource_group_name = azurerm_resource_group.this.name
  short_name          = "daena-kms"
  tags                = local.tags

  dynamic "email_receiver" {
    for_each = var.alarm_email == "" ? [] : [var.alarm_email]
    content {
      name                    = "security"
      email_address           = email_receiver.value
      use_common_alert_schema = true
    }
  }
}

locals {
  # How far back an alert may look, in minutes: nothing in between is accepted.
  windows = [5, 10, 15, 30, 45, 60, 120, 180, 240, 300, 360, 1440, 2880]
  # Two ticks and a little: one that comes late is no missing one.
  fitting = [for minutes in local.windows : minutes if minutes >= 2 * var.tick_minutes + 15]
  no_run = length(local.fitting) == 0 ? null : (
    local.fitting[0] < 60 ? "PT${local.fitting[0]}M" :
    local.fitting[0] < 1440 ? "PT${local.fitting[0] / 60}H" : "P${local.fitting[0] / 1440}D"
  )
  # What the function writes: one line a run with its figures, and every line as JSON. See function_app.py.
  errors = <<-KQL
    traces
    | where message startswith '{"message": '
    | extend line = parse_json(message)
    | where tostring(line.level) == 'ERROR' and tostring(line.logger) startswith 'daena_kms'
  KQL
  runs   = <<-KQL
    traces
    | where message startswith '{"message": "done"' or message startswith '{"message": "failed"'
    | extend run = parse_json(message)
    | where tolong(run.metrics.Runs) == 1
  KQL
  alerts = merge(
    {
      failed = {
        says     = "A run of daena-kms failed: the log names each key and what to do."
        severity = 1
        window   = "PT1H"
        # The requests too: what dies without a word leaves no line.
        query    = <<-KQL
          requests
          | where name in ('tick', 'run') and (success == false or toint(resultCode) >= 500)
          | project timestamp
          | union (${local.errors}| project timestamp)
        KQL
        operator = "GreaterThan"
      }
      overdue = {
        says     = "A key is older than its policy allows, or a claim on it is stuck."
        severity = 1
        window   = "PT1H"
        query    = "${local.runs}| where todouble(run.metrics.KeysOverdue) > 0 or todouble(run.metrics.KeysStuck) > 0"
        operator = "GreaterThan"
      }
    },
    local.no_run == null ? {} : {
      silent = {
        says     = "daena-kms has not run for two ticks."
        severity = 1
        window   = local.no_run
        query    = "${local.runs}| where tostring(run.trigger) == 'azure.timer'" # a run by hand is no tick
        operator = "LessThan"
      }
    },
  )
}

resource "azurerm_monitor_scheduled_query_rules_alert_v2" "this" {
  for_each              = local.alerts
  name                  = "${var.name}-${each.key}"
  location              = azurerm_resource_group.this.location
  resource_group_name   = azurerm_resource_group.this.name
  description           = each.value.says
  severity              = each.value.severity
  scopes                = [azurerm_application_insights.this.id]
  window_duration       = each.value.window
  evaluation_frequency  = contains(["P1D", "P2D", "PT6H"], each.value.window) ? "PT1H" : "PT15M"
  skip_query_validation = true # the tables are there once the app has run
  tags                  = local.tags

  criteria {
    query                   = each.value.query
    time_aggregation_method = "Count"
    operator                = each.value.operator
    threshold               = each.value.operator == "LessThan" ? 1 : 0
  }

  action {
    action_groups = [azurerm_monitor_action_group.this.id]
  }
}
