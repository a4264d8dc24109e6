variable "subscription_id" {
  type        = string
  description = "The subscription in which everything is made."
  validation {
    condition     = can(regex("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", lower(var.subscription_id)))
    error_message = "A subscription's id is a UUID; `az account show --query id` prints it."
  }
}

variable "name" {
  type        = string
  default     = "daena-kms"
  description = "Begins the name of everything that is made; the function app's is this and six characters."
  validation {
    condition     = can(regex("^[a-z][a-z0-9]*(-[a-z0-9]+)*$", var.name)) && length(var.name) <= 16
    error_message = "Lower-case letters, digits and single hyphens, a letter first, at most 16 characters."
  }
}

variable "location" {
  type        = string
  default     = "westeurope"
  description = "The region. Flex Consumption must be offered there: `az functionapp list-flexconsumption-locations`."
  validation {
    condition     = can(regex("^[a-z0-9]+$", var.location))
    error_message = "A region by its short name, such as westeurope."
  }
}

variable "key_vault_id" {
  type        = string
  default     = null
  description = "An existing vault (RBAC), by its resource id. Empty: one is made, for this app alone."
  validation {
    condition     = var.key_vault_id == null ? true : can(regex("/providers/Microsoft.KeyVault/vaults/[^/]+$", var.key_vault_id))
    error_message = "A vault's resource id ends with /providers/Microsoft.KeyVault/vaults/NAME."
  }
}

variable "key_prefix" {
  type        = string
  default     = "daena-"
  description = "Before every key's name in the vault. Cannot be changed later without moving the keys."
  validation {
    condition     = var.key_prefix == "" ? true : can(regex("^[a-z0-9]+(-[a-z0-9]+)*-$", var.key_prefix)) && length(var.key_prefix) <= 64 && !startswith(var.key_prefix, "reserved-")
    error_message = "Lower-case letters, digits and single hyphens, one at the end, at most 64; not reserved-..."
  }
}

variable "vault_role_condition" {
  type        = string
  default     = null
  description = <<-TEXT
    A condition (version 2.0) on the rotator's role in the vault, for a vault that others use too. Conditions on Key
    Vault are a preview, and one that touches readMetadata makes every listing fail: write it for the other three.
  TEXT
}

variable "schedule" {
  type        = string
  default     = "0 0 * * * *"
  description = "When it runs, UTC: NCRONTAB with seconds. An hourly tick is right for nearly all: what is due is rotated."
  validation {
    condition     = length(split(" ", var.schedule)) == 6 && alltrue([for field in split(" ", var.schedule) : can(regex("^(\\*|[0-9]+(-[0-9]+)?)(/[1-9][0-9]*)?(,(\\*|[0-9]+(-[0-9]+)?)(/[1-9][0-9]*)?)*$", field))])
    error_message = "Six fields, seconds first, such as 0 0 * * * *; numbers, *, lists, ranges and steps (from 1)."
  }
  validation {
    condition = alltrue([
      for range in regexall("([0-9]+)-([0-9]+)", var.schedule) : tonumber(range[0]) <= tonumber(range[1])
    ])
    error_message = "A range ends before it begins."
  }
  validation {
    condition = length(split(" ", var.schedule)) != 6 ? true : alltrue([
      for index, field in split(" ", var.schedule) : alltrue([
        for number in regexall("[0-9]+", replace(field, "/\\/[0-9]+/", "")) :
        tonumber(number) >= [0, 0, 0, 1, 1, 0][index] && tonumber(number) <= [59, 59, 23, 31, 12, 6][index]
      ])
    ])
    error_message = "A field is out of its range: second 0-59, minute 0-59, hour 0-23, day 1-31, month 1-12, weekday 0-6."
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
    condition     = var.schedule != "0 0 * * * *" || var.tick_minutes == 60
    error_message = "The schedule 0 0 * * * * ticks every 60 minutes."
  }
  validation {
    condition     = var.tick_minutes >= local.longest_gap
    error_message = "The schedule has longer gaps: at most ${local.longest_gap} minutes between two ticks."
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

variable "alarm_email" {
  type        = string
  default     = ""
  description = "Who gets alarms. Empty: nobody is told, the alerts are in the portal alone."
  validation {
    condition     = var.alarm_email == "" || can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", var.alarm_email))
    error_message = "An address such as security@example.com."
  }
}

variable "log_days" {
  type        = number
  default     = 365
  description = "For how many days logs are kept."
  validation {
    condition     = var.log_days >= 30 && var.log_days <= 730
    error_message = "From 30 to 730 days."
  }
}

variable "immutable_days" {
  type        = number
  default     = 0
  description = "If set: for so many days nobody can overwrite or delete a manifest. Unlocked; locking it is irreversible, and yours to do."
  validation {
    condition     = var.immutable_days >= 0 && var.immutable_days <= 146000
    error_message = "From 1 to 146000 days; 0 for no such policy."
  }
}

# The longest time between two ticks in minutes, where it is the same every week; 0 where days or months are named.
locals {
  schedule = split(" ", var.schedule)
  # Every minute, hour and weekday that is named. A part of a field is `first`, `first-last` or `*`, each with a step.
  ticking = { for name, field in { minute = [1, 59], hour = [2, 23], weekday = [5, 6] } : name => try([
    for value in range(field[1] + 1) : value if anytrue([
      for part in regexall("(\\*|[0-9]+)(?:-([0-9]+))?(?:/([0-9]+))?", local.schedule[field[0]]) :
      part[0] == "*" ? value % tonumber(coalesce(part[2], "1")) == 0 :
      value >= tonumber(part[0])
      && value <= tonumber(coalesce(part[1], part[2] == null ? part[0] : field[1]))
      && (value - tonumber(part[0])) % tonumber(coalesce(part[2], "1")) == 0
    ])
  ], []) }
  hours = flatten([for day in local.ticking.weekday : [for hour in local.ticking.hour : day * 24 + hour]])
  longest_gap = try(local.schedule[3] != "*" || local.schedule[4] != "*" ? 0 : max(concat(
    [for index, minute in local.ticking.minute : minute - local.ticking.minute[max(index - 1, 0)]],
    # From the last tick of an hour that has some to the first one of the next that has; after the last comes the first.
    [
      for index, hour in local.hours :
      (hour - (index > 0 ? local.hours[index - 1] : local.hours[length(local.hours) - 1] - 168)) * 60
      + local.ticking.minute[0] - local.ticking.minute[length(local.ticking.minute) - 1]
    ],
  )...), 0)
}
