#!/bin/sh
# Deploys daena-kms to Azure: builds the function app's archive, applies infra/azure, uploads the policy file and the app.
# Checks everything that can be checked before anything is changed. Can be run again: what is not given stays as it is.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
archive=build/bundles/azure.zip
asked=build/bundles/asked.tfvars.json

usage() {
    cat <<'TEXT'
usage: infra/azure/deploy.sh --policy FILE --subscription ID [options]

Deploys daena-kms to Azure, or changes what is deployed. What is not given stays as it was, or is the default.

  --policy FILE          the rotation policy (TOML); goes beside the manifests, where the function reads it at each run
  --subscription ID      where everything is made (default: ARM_SUBSCRIPTION_ID)
  --name NAME            of the resource group, and the beginning of every other name (default: daena-kms); cannot be
                         changed later
  --location REGION      such as westeurope (the default)
  --vault ID             an existing vault's resource id; without it, one is made; cannot be changed later
  --prefix PREFIX        before every key's name in the vault (default: daena-); cannot be changed later
  --schedule EXPRESSION  when it runs, UTC, six fields with seconds: '0 0 * * * *', the default, is right for nearly all
  --tick-minutes N       the longest time between two runs; needed with any other schedule
  --email ADDRESS        who gets alarms
  --public-key HEX       pins the manifests' first public key, which the first run logs
  --var NAME=VALUE       any other variable of infra/azure/variables.tf; can be repeated
  --no-build             deploy build/bundles/azure.zip as it lies there
  --yes                  do not ask before anything is changed
  --dry-run              check and build, show the other commands; needs no account and no credentials
  --help                 this

Log in first: `az login`, with an account that may make resources, roles and role assignments. To upload the policy it
needs Storage Blob Data Contributor on the manifests' account too, which no owner has by itself: assign it to whoever
deploys, on the resource group or above, once; it takes some minutes.

Terraform keeps its state in infra/azure unless you add a backend there. What was given in the last deployment that
worked lies in infra/azure/given.auto.tfvars.json: keep both. TERRAFORM and AZ name other programs than `terraform` and
`az`. Exit status: 0 done, 2 nothing was begun, else that of the command that failed.
TEXT
}

refuse() { # message, hint
    printf 'error: %s\n' "$1" >&2
    [ -z "${2-}" ] || printf 'hint: %s\n' "$2" >&2
    exit 2
}

problems=''
problem() { # one line; all are told at once
    problems="$problems
  $1"
}

matches() { # text, extended regular expression for all of it
    [ "$(printf '%s' "$1" | wc -l)" -eq 0 ] && printf '%s\n' "$1" | LC_ALL=C grep -Eqx -- "$2"
}

show() { # a command, as one would type it
    line='  $'
    for word in "$@"; do
        case $word in
            '' | *[!A-Za-z0-9_./:=,@+-]*) line="$line '$(printf '%s' "$word" | sed "s/'/'\\\\''/g")'" ;;
            *) line="$line $word" ;;
        esac
    done
    printf '%s\n' "$line"
}

run() { # show it, then do it
    show "$@"
    "$@"
}

change() { # show it; do it unless this is a dry run
    show "$@"
    [ -n "$dry" ] || "$@"
}

# ---- what is asked for

policy='' subscription=${ARM_SUBSCRIPTION_ID:-} name='' location='' vault='' prefix='' schedule='' tick='' email=''
pin='' variables='' dry='' yes='' build=yes

while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage && exit 0 ;;
        --dry-run) dry=yes && shift && continue ;;
        --no-build) build='' && shift && continue ;;
        --yes) yes=yes && shift && continue ;;
        --policy | --subscription | --name | --location | --vault | --prefix | --schedule) ;;
        --tick-minutes | --email | --public-key | --var) ;;
        *) refuse "unknown option $1" "infra/azure/deploy.sh --help" ;;
    esac
    [ $# -gt 1 ] || refuse "$1 needs a value" "infra/azure/deploy.sh --help"
    case $1 in
        --policy) policy=$2 ;;
        --subscription) subscription=$2 ;;
        --name) name=$2 ;;
        --location) location=$2 ;;
        --vault) vault=$2 ;;
        --prefix) prefix=$2 ;;
        --schedule) schedule=$2 ;;
        --tick-minutes) tick=$2 ;;
        --email) email=$2 ;;
        --public-key) pin=$2 ;;
        --var) variables="$variables
$2" ;;
    esac
    shift 2
done

# ---- is it usable? Nothing is asked of Azure before all of this is answered; Terraform checks its variables again.

hex='[0-9a-fA-F]'
matches "$subscription" "$hex{8}(-$hex{4}){3}-$hex{12}" \
    || problem "--subscription '$subscription': a UUID; \`az account show --query id\` prints it"
if [ -n "$name" ]; then
    { matches "$name" '[a-z][a-z0-9]*(-[a-z0-9]+)*' && [ ${#name} -le 16 ]; } \
        || problem "--name '$name': lower-case letters, digits and single hyphens, a letter first, at most 16 together"
fi
if [ -n "$prefix" ]; then
    { matches "$prefix" '[a-z0-9]+(-[a-z0-9]+)*-' && [ ${#prefix} -le 64 ] && [ "${prefix#reserved-}" = "$prefix" ]; } \
        || problem "--prefix '$prefix': lower-case letters, digits and single hyphens, one at the end; not reserved-..."
fi
if [ -n "$schedule" ] && [ "$schedule" != '0 0 * * * *' ]; then
    matches "$schedule" '([0-9*,/-]+ ){5}[0-9*,/-]+' \
        || problem "--schedule '$schedule': six fields, seconds first, such as '0 0 * * * *'"
    [ -n "$tick" ] || problem "--schedule '$schedule' needs --tick-minutes: the longest time between two runs"
fi
if [ -n "$tick" ]; then
    matches "$tick" '[1-9][0-9]{0,4}' && [ "$tick" -le 64800 ] \
        || problem "--tick-minutes '$tick': a whole number from 1 to 64800 (45 days)"
fi
[ -z "$email" ] || matches "$email" '[^@[:space:]]+@[^@[:space:]]+\.[^@[:space:]]+' \
    || problem "--email '$email' is no address"
[ -z "$pin" ] || matches "$pin" "$hex{64}" || problem "--public-key: 64 hexadecimal digits, as the first run logs them"

known=$(sed -n 's/^variable "\(.*\)" {$/\1/p' "$here/variables.tf" | tr '\n' ' ')
while IFS= read -r pair; do
    [ -n "$pair" ] || continue
    case " $known" in
        *" ${pair%%=*} "*) [ "${pair%%=*}" != "$pair" ] || problem "--var '$pair': NAME=VALUE expected" ;;
        *) problem "--var '$pair': infra/azure has $known" ;;
    esac
done <<TEXT
$variables
TEXT

case $policy in
    '') problem "--policy is not given; examples/daena-kms.toml is one to begin with" ;;
    /*) ;;
    *) policy=$PWD/$policy ;;
esac
[ -z "$policy" ] || [ -r "$policy" ] || problem "--policy $policy cannot be read"
[ -n "$build" ] || [ -r "$root/$archive" ] || problem "--no-build, but there is no $archive"
[ -n "$yes$dry" ] || [ -t 0 ] || problem "there is no terminal to ask on: --yes, or --dry-run"

python=$root/.venv/bin/python
[ -x "$python" ] || problem ".venv is not there: run \`make .venv/ready\` once"
terraform=${TERRAFORM:-terraform} az=${AZ:-az} missing=''
for tool in "$terraform" "$az"; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
done
[ -z "$missing" ] || [ -n "$dry" ] || problem "not on this machine:$missing"

[ -z "$problems" ] || refuse "nothing was begun:$problems" "infra/azure/deploy.sh --help"

cd "$root"

if [ -z "$dry" ]; then
    "$az" account show --subscription "$subscription" --output none \
        || refuse "these credentials do not work for the subscription $subscription" "\`az login\`"
    run "$terraform" -chdir=infra/azure init -input=false
fi

given=infra/azure/given.auto.tfvars.json
set -- "subscription_id=$subscription" "name=$name" "location=$location" "key_vault_id=$vault" "key_prefix=$prefix"
set -- "$@" "schedule=$schedule" "tick_minutes=$tick" "alarm_email=$email" "public_key=$pin" --var
while IFS= read -r pair; do
    [ -z "$pair" ] || set -- "$@" "$pair"
done <<TEXT
$variables
TEXT

# Prints what Terraform will be given: what was before, and on it what was given now.
merged=$("$python" - "$policy" "$given" "$@" <<'PYTHON'
import json
import sys
from datetime import timedelta
from pathlib import Path

from daena_kms import KmsError, Tick, parse_policy

HOURLY = "0 0 * * * *"
# What cannot be changed: its default, and what would be lost with another.
FIXED = {
    "name": ("daena-kms", "all that it made"),
    "subscription_id": (None, "all that it made"),
    "key_prefix": ("daena-", "the keys"),
    "key_vault_id": ("one that was made for it", "the keys"),
}


def refuse(message: str, hint: str) -> None:
    sys.exit(f"error: {message}\nhint: {hint}")


policy, file, *pairs = sys.argv[1:]
options, variables = pairs[: pairs.index("--var")], pairs[pairs.index("--var") + 1 :]
now = {name: value for name, _, value in (pair.partition("=") for pair in options) if value}
now |= {name: value for name, _, value in (pair.partition("=") for pair in variables)}
before = json.loads(Path(file).read_text()) if Path(file).exists() else {}
if before:
    for name, (default, lost) in FIXED.items():
        was = before.get(name, default)
        asked = now.get(name, was)
        if was is not None and asked.lower() != was.lower():
            told = f"{name} was {was!r}: with {asked!r} Terraform would lose {lost}"
            refuse(told, "leave it as it was, or deploy from another checkout")
if "schedule" in now and "tick_minutes" not in now:
    if now["schedule"] == HOURLY:
        now["tick_minutes"] = "60"
    elif now["schedule"] != before.get("schedule"):
        refuse(f"the schedule {now['schedule']!r} needs --tick-minutes", "the longest time between two runs")
merged = {"name": FIXED["name"][0]} | before | now
minutes = merged.get("tick_minutes", "60")
if not (minutes.isascii() and minutes.isdigit() and 1 <= int(minutes) <= 64800):
    refuse(f"tick_minutes {minutes!r}: a whole number from 1 to 64800 (45 days) expected", "see --help")
try:
    tick = Tick(interval=timedelta(minutes=int(minutes)))
    parse_policy(Path(policy).read_bytes(), tick=tick, prefix=merged.get("key_prefix", "daena-"), source=policy)
except KmsError as problem:
    sys.exit(f"error: {problem.message}\nhint: {problem.hint}")
print(json.dumps(merged, indent=2, sort_keys=True))
PYTHON
) || exit 2
value() { # of one variable; nothing if it is the default
    printf '%s\n' "$merged" | sed -n "s/^  \"$1\": \"\(.*\)\",\{0,1\}$/\1/p"
}

# ---- what will be done

tick=$(value tick_minutes) name=$(value name)
if [ "${tick:-60}" -gt 1432 ]; then
    echo "warning: two ticks are more than the 2 days that an alert of Azure looks back: no alarm when runs stay away."
fi
[ -z "$dry" ] || echo "A dry run: checks and builds, shows the other commands, changes nothing."
cat <<TEXT
daena-kms goes to Azure:
  policy          $policy
  variables       $(printf '%s' "$merged" | tr -d '\n')
TEXT
[ -z "$missing" ] || echo "  note            not on this machine:$missing; the deployment itself needs it"

# ---- do it

[ -z "$build" ] || run "$python" infra/bundle.py azure

set --
[ -z "$yes" ] || set -- -auto-approve
if [ -z "$dry" ]; then
    trap 'rm -f "$asked"' EXIT
    printf '%s\n' "$merged" >"$asked"
fi
change "$terraform" -chdir=infra/azure apply "$@" -var-file="$root/$asked"
# Only what worked is kept: the next run begins with it.
[ -n "$dry" ] || mv "$asked" "$given"

output() { # of what was applied
    if [ -n "$dry" ]; then
        printf '<%s>\n' "$1"
    else
        "$terraform" -chdir=infra/azure output -raw "$1"
    fi
}

# Each by itself: what cannot be said ends this here, before anything is uploaded.
account=$(output policy_account)
app=$(output function_app)
url=$(output run_url)
role=$(output reader_role)

# Whoever deploys needs Storage Blob Data Contributor on the account: nobody has keys to it.
change "$az" storage blob upload --auth-mode login --overwrite --account-name "$account" \
    --container-name policy --name daena-kms.toml --file "$policy" --output none
change "$az" functionapp deployment source config-zip --subscription "$subscription" --resource-group "$name" \
    --name "$app" --src "$archive"

echo
echo "By hand, from this checkout:"
show az functionapp function keys list --subscription "$subscription" --resource-group "$name" --name "$app" \
    --function-name run --query default --output tsv
show curl --fail-with-body -H 'x-functions-key: KEY' --data @functions/azure_function/events/rotate.json "$url"
cat <<TEXT
or in the portal: Function App, $app, run, Code + Test, with the content of a file in functions/azure_function/events/.

The first run makes the keys that sign the manifests, and logs their public key ("public_key"). Pin it, so that a ledger
that anybody else began is refused:
TEXT
show infra/azure/deploy.sh --subscription "$subscription" --name "$name" --policy "$policy" --public-key HEX
echo
echo "Applications that read keys need the role $role, on single secrets of the vault."
