variable "project_id" {
  type        = string
  description = "The project in which everything is made."
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "A project's id, not its name or number, such as acme-prod-4711; `gcloud projects list` prints it."
  }
}

variable "name" {
  type        = string
  default     = "daena-kms"
  description = "The function's and the job's name, and the beginning of every other."
  validation {
    condition     = can(regex("^[a-z][a-z0-9]*(-[a-z0-9]+)*$", var.name)) && length(var.name) <= 16
    error_message = "Lower-case letters, digits and single hyphens, a letter first, at most 16 characters."
  }
}

variable "region" {
  type        = string
  default     = "europe-west1"
  description = "Where the function, the job and the buckets are. Cannot be changed later: the manifests lie there."
  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "A region such as europe-west1; `gcloud scheduler locations list` prints those that have a scheduler."
  }
}

variable "key_prefix" {
  type        = string
  default     = "daena-"
  description = <<-TEXT
    Before the name of every key's secret. The function may touch what begins with it and nothing else. Cannot be changed
    later without moving the keys; no other installation in this project may have one that begins with it.
  TEXT
  validation {
    condition     = can(regex("^[a-z0-9]+(-[a-z0-9]+)*-$", var.key_prefix)) && length(var.key_prefix) <= 64 && !startswith(var.key_prefix, "reserved-")
    error_message = "Lower-case letters, digits and single hyphens, one at the end, at most 64; not reserved-..."
  }
}

variable "policy_file" {
  type        = string
  description = "The rotation policy (TOML) on this machine. It is uploaded; the function reads it at each run."
  validation {
    condition     = fileexists(var.policy_file)
    error_message = "There is no such file; examples/daena-kms.toml is one to begin with."
  }
}

variable "archive" {
  type        = string
  default     = null
  description = "The function's source. Empty: build/bundles/gcp.zip, as `python infra/bundle.py gcp` builds it."
}

variable "schedule" {
  type        = string
  default     = "0 * * * *"
  description = "When it runs, UTC: unix-cron. An hourly tick is right for nearly all: what is due is rotated."
  validation {
    condition     = length(split(" ", var.schedule)) == 5 && alltrue([for field in split(" ", var.schedule) : can(regex("^(\\*|[0-9]+(-[0-9]+)?)(/[1-9][0-9]*)?(,(\\*|[0-9]+(-[0-9]+)?)(/[1-9][0-9]*)?)*$", field))])
    error_message = "Five fields, minutes first, such as 0 * * * *; numbers, *, lists, ranges and steps."
  }
  validation {
    condition = length(split(" ", var.schedule)) != 5 ? true : alltrue([
      for index, field in split(" ", var.schedule) : alltrue([
        for number in regexall("[0-9]+", replace(field, "/\\/[0-9]+/", "")) :
        tonumber(number) >= [0, 0, 1, 1, 0][index] && tonumber(number) <= [59, 23, 31, 12, 7][index]
      ])
    ])
    error_message = "A field is out of its range: minute 0-59, hour 0-23, day 1-31, month 1-12, weekday 0-7 (0 and 7 are Sunday)."
  }
  validation {
    condition     = alltrue([for range in regexall("([0-9]+)-([0-9]+)", var.schedule) : tonumber(range[0]) < tonumber(range[1])])
    error_message = "A range runs from the lower number to the higher."
  }
}

variable "tick_minutes" {
  type        = number
  default     = 60
  description = "The longest time between two ticks of the schedule: what would be too old by the next one is rotated."
  validation {
    condition     = var.tick_minutes >= 1 && var.tick_minutes <= 64800 && floor(var.tick_minutes) == var.tick_minutes
    error_message = "Whole minutes, from 1 to 64800 (45 days)."
  }
  validation {
    condition     = var.schedule != "0 * * * *" || var.tick_minutes == 60
    error_message = "The schedule 0 * * * * ticks every 60 minutes."
  }
  validation {
    condition     = var.tick_minutes >= local.longest_gap
    error_message = "The schedule has longer gaps: ${local.longest_gap} minutes between two ticks."
  }
}

variable "timeout_seconds" {
  type        = number
  default     = 1800
  description = "The longest that a run may take. It begins no further key in the last 5 minutes. Cloud Scheduler waits 30 minutes at most."
  validation {
    condition     = var.timeout_seconds >= 600 && var.timeout_seconds <= 1800 && floor(var.timeout_seconds) == var.timeout_seconds
    error_message = "Whole seconds, from 600 to 1800: Cloud Scheduler waits for no answer longer than 30 minutes."
  }
}

variable "public_key" {
  type        = string
  default     = ""
  description = "Pins the manifests' first public key, which the first run logs. With it, a run makes no manifests anew."
  validation {
    condition     = var.public_key == "" || can(regex("^[0-9a-fA-F]{64}$", var.public_key))
    error_message = "64 hexadecimal digits, as the first run logs them."
  }
}

variable "secret_locations" {
  type        = list(string)
  default     = []
  description = "Where new secrets' payloads lie, such as [\"europe-west1\", \"europe-west4\"]; empty for wherever Google puts them."
  validation {
    condition     = alltrue([for name in var.secret_locations : can(regex("^[a-z]+(-[a-z]+)*[0-9]+$", name))])
    error_message = "Names of locations, such as europe-west1."
  }
}

variable "ingress" {
  type        = string
  default     = "ALLOW_ALL"
  description = <<-TEXT
    From where requests reach the function; whoever sends one needs roles/run.invoker wherever it comes from.
    ALLOW_INTERNAL_ONLY leaves Cloud Scheduler and the project's own networks: no more requests from your own machine.
  TEXT
  validation {
    condition     = contains(["ALLOW_ALL", "ALLOW_INTERNAL_AND_GCLB", "ALLOW_INTERNAL_ONLY"], var.ingress)
    error_message = "ALLOW_ALL, ALLOW_INTERNAL_AND_GCLB or ALLOW_INTERNAL_ONLY."
  }
}

variable "invokers" {
  type        = list(string)
  default     = []
  description = "Who may send requests to the function beside the scheduler, such as user:ann@example.com."
  validation {
    condition     = alltrue([for member in var.invokers : can(regex("^(user|group|serviceAccount):[^@ ]+@[^@ ]+$", member))])
    error_message = "user:, group: or serviceAccount: and an address; never allUsers or allAuthenticatedUsers."
  }
}

variable "readers" {
  type        = list(string)
  default     = []
  description = "Applications that read every key, such as serviceAccount:app@PROJECT.iam.gserviceaccount.com. For single keys, see the output reader_condition."
  validation {
    condition     = alltrue([for member in var.readers : can(regex("^(user|group|serviceAccount):[^@ ]+@[^@ ]+$", member))])
    error_message = "user:, group: or serviceAccount: and an address; never allUsers or allAuthenticatedUsers."
  }
}

variable "alarm_email" {
  type        = string
  default     = ""
  description = "Who gets alarms."
  validation {
    condition     = var.alarm_email == "" || can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", var.alarm_email))
    error_message = "An address such as security@example.com."
  }
}

variable "notification_channels" {
  type        = list(string)
  default     = []
  description = "Channels of Cloud Monitoring that get alarms too, by name. Without any and without alarm_email nobody is told."
  validation {
    condition     = alltrue([for channel in var.notification_channels : can(regex("^projects/[^/]+/notificationChannels/[^/]+$", channel))])
    error_message = "projects/PROJECT/notificationChannels/ID, as `gcloud beta monitoring channels list` prints them."
  }
}

variable "retention_days" {
  type        = number
  default     = 0
  description = "If set: for so many days nobody can overwrite or delete a manifest. The bucket keeps no versions then, which Cloud Storage does not have beside it."
  validation {
    condition     = var.retention_days >= 0 && var.retention_days <= 36500 && floor(var.retention_days) == var.retention_days
    error_message = "Whole days, from 1 to 36500 (100 years); 0 for no such policy."
  }
}

variable "lock_retention" {
  type        = bool
  default     = false
  description = "IRREVERSIBLE: the retention can then be neither shortened nor removed by anybody, and the bucket not be deleted before its end."
  validation {
    condition     = !var.lock_retention || var.retention_days > 0
    error_message = "There is nothing to lock: set retention_days."
  }
}

variable "log_secret_reads" {
  type        = bool
  default     = false
  description = <<-TEXT
    Who read which secret, into Cloud Audit Logs: for the whole project, in place of what it may have set for Secret
    Manager, and at the price of logs. Who changed one is always logged.
  TEXT
}

# The longest time between two ticks, in minutes, where it is the same every week; 0 where days or months are named.
locals {
  fields = split(" ", var.schedule)
  # The values of minute, hour and weekday that a field names; the 7th weekday is the 0th.
  ticking = {
    for name, field in { minute = [0, 59, 60], hour = [1, 23, 24], weekday = [4, 7, 7] } : name => try(distinct(flatten([
      for part in split(",", local.fields[field[0]]) : [
        for value in range(
          startswith(part, "*") ? 0 : tonumber(regex("^[0-9]+", part)),
          1 + try(tonumber(regex("-([0-9]+)", part)[0]), can(regex("[*/]", part)) ? field[1] : tonumber(part)),
          try(tonumber(regex("/([0-9]+)", part)[0]), 1),
        ) : format("%02d", value % field[2])
      ]
    ])), [])
  }
  # Every tick of a week, by its minute of the week, in order.
  ticks = [for text in sort(flatten([
    for day in local.ticking.weekday : [
      for hour in local.ticking.hour : [
        for minute in local.ticking.minute : format("%05d", tonumber(day) * 1440 + tonumber(hour) * 60 + tonumber(minute))
      ]
    ]
  ])) : tonumber(text)]
  weekly      = try(local.fields[2] == "*" && local.fields[3] == "*", false) && length(local.ticks) > 0
  longest_gap = local.weekly ? max([for index, tick in local.ticks : index > 0 ? tick - local.ticks[index - 1] : tick + 10080 - local.ticks[length(local.ticks) - 1]]...) : 0
}
