#!/bin/sh
# Deploys daena-kms to Google Cloud: builds the function's source, applies infra/gcp, which uploads it and the policy.
# Checks everything that can be checked before anything is changed. Can be run again: what is not given stays as it is.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
archive=build/bundles/gcp.zip
asked=build/bundles/asked-gcp.tfvars.json

usage() {
    cat <<'TEXT'
usage: infra/gcp/deploy.sh --policy FILE --project ID [options]

Deploys daena-kms to Google Cloud, or changes what is deployed. What is not given stays as it was, or is the default.

  --policy FILE          the rotation policy (TOML); goes to a bucket, where the function reads it at each run
  --project ID           where everything is made (default: GOOGLE_CLOUD_PROJECT)
  --name NAME            of the function and the job, and the beginning of every other name (default: daena-kms); cannot
                         be changed later
  --region REGION        such as europe-west1 (the default); cannot be changed later
  --prefix PREFIX        before every key's name in Secret Manager (default: daena-); cannot be changed later
  --schedule EXPRESSION  when it runs, UTC, unix-cron: '0 * * * *', the default, is right for nearly all
  --tick-minutes N       the longest time between two runs; needed with any other schedule
  --email ADDRESS        who gets alarms
  --public-key HEX       pins the manifests' first public key, which the first run logs
  --var NAME=VALUE       any other variable of infra/gcp/variables.tf, a list as JSON; can be repeated:
                           --var 'readers=["serviceAccount:app@PROJECT.iam.gserviceaccount.com"]'
                           --var 'invokers=["user:ann@example.com"]'
  --no-build             deploy build/bundles/gcp.zip as it lies there
  --yes                  do not ask before anything is changed
  --dry-run              check and build, show the other commands; needs no account and no credentials
  --help                 this

Log in first, for gcloud and for Terraform: `gcloud auth login`, `gcloud auth application-default login`. Terraform
keeps its state in infra/gcp unless you add a backend there. What was given in the last deployment that worked lies in
infra/gcp/given.auto.tfvars.json: keep both. TERRAFORM and GCLOUD name other programs than `terraform` and `gcloud`.
Exit status: 0 done, 2 nothing was begun, else that of the command that failed.

What Terraform makes, in plain gcloud, with the defaults; the alarms are in infra/gcp/alerts.tf:

PROJECT=your-project REGION=europe-west1 POLICY=examples/daena-kms.toml
NUMBER=$(gcloud projects describe $PROJECT --format 'value(projectNumber)')
gcloud config set project $PROJECT
gcloud services enable artifactregistry.googleapis.com cloudbuild.googleapis.com cloudfunctions.googleapis.com \
    cloudscheduler.googleapis.com iam.googleapis.com logging.googleapis.com monitoring.googleapis.com \
    run.googleapis.com secretmanager.googleapis.com storage.googleapis.com
for account in function scheduler builder; do gcloud iam service-accounts create daena-kms-$account; done
FUNCTION=serviceAccount:daena-kms-function@$PROJECT.iam.gserviceaccount.com
SCHEDULER=daena-kms-scheduler@$PROJECT.iam.gserviceaccount.com
BUILDER=daena-kms-builder@$PROJECT.iam.gserviceaccount.com

# what the function may do with secrets
secrets=secretmanager.secrets versions=secretmanager.versions
gcloud iam roles create daena_kms_rotator --project $PROJECT --permissions $secrets.get,$secrets.update,\
$versions.access,$versions.add,$versions.destroy,$versions.disable,$versions.enable,$versions.get,$versions.list
keys="resource.name.startsWith(\"projects/$NUMBER/secrets/daena-\")"
reserved="resource.name.startsWith(\"projects/$NUMBER/secrets/reserved--daena-\")"
gcloud projects add-iam-policy-binding $PROJECT --member $FUNCTION \
    --role projects/$PROJECT/roles/daena_kms_rotator --condition "title=daena-kms-keys,expression=$keys || $reserved"
gcloud iam roles create daena_kms_finder --project $PROJECT --permissions $secrets.create,$secrets.list
gcloud projects add-iam-policy-binding $PROJECT --member $FUNCTION \
    --role projects/$PROJECT/roles/daena_kms_finder --condition None
gcloud iam roles create daena_kms_reader --project $PROJECT --permissions $versions.access

# the manifests, which it may add to and read, and the policy, which it may read
gcloud storage buckets create gs://$PROJECT-daena-kms-manifests --location $REGION --uniform-bucket-level-access \
    --public-access-prevention --soft-delete-duration 90d
gcloud storage buckets update gs://$PROJECT-daena-kms-manifests --versioning
gcloud iam roles create daena_kms_ledger --project $PROJECT \
    --permissions storage.objects.create,storage.objects.get,storage.objects.list
gcloud storage buckets add-iam-policy-binding gs://$PROJECT-daena-kms-manifests --member $FUNCTION \
    --role projects/$PROJECT/roles/daena_kms_ledger
gcloud storage buckets create gs://$PROJECT-daena-kms-source --location $REGION --uniform-bucket-level-access \
    --public-access-prevention
gcloud storage cp $POLICY gs://$PROJECT-daena-kms-source/policy/daena-kms.toml
gcloud storage cp build/bundles/gcp.zip gs://$PROJECT-daena-kms-source/source/gcp.zip
gcloud iam roles create daena_kms_policy --project $PROJECT --permissions storage.objects.get
policy="resource.name == \"projects/_/buckets/$PROJECT-daena-kms-source/objects/policy/daena-kms.toml\""
gcloud storage buckets add-iam-policy-binding gs://$PROJECT-daena-kms-source --member $FUNCTION \
    --role projects/$PROJECT/roles/daena_kms_policy --condition "title=daena-kms-policy,expression=$policy"

# the function, its schedule, and who may start it
for role in artifactregistry.writer logging.logWriter storage.objectViewer; do
    gcloud projects add-iam-policy-binding $PROJECT --member serviceAccount:$BUILDER --role roles/$role --condition None
done
gcloud functions deploy daena-kms --gen2 --region $REGION --runtime python313 --entry-point run --trigger-http \
    --no-allow-unauthenticated --source gs://$PROJECT-daena-kms-source/source/gcp.zip \
    --service-account ${FUNCTION#*:} --build-service-account projects/$PROJECT/serviceAccounts/$BUILDER \
    --memory 512Mi --cpu 1 --concurrency 1 --max-instances 1 --timeout 1800s --set-env-vars \
DAENA_CLOUD_KMS_PROVIDER=gcp,GCP_PROJECT_ID=$PROJECT,DAENA_KEY_PREFIX=daena-,DAENA_TICK_MINUTES=60,\
DAENA_TIME_BUDGET_SECONDS=1500,DAENA_MANIFEST_URL=gs://$PROJECT-daena-kms-manifests/manifests,\
DAENA_POLICY=gs://$PROJECT-daena-kms-source/policy/daena-kms.toml
gcloud run services add-iam-policy-binding daena-kms --region $REGION --role roles/run.invoker \
    --member serviceAccount:$SCHEDULER
URL=$(gcloud functions describe daena-kms --gen2 --region $REGION --format 'value(serviceConfig.uri)')
gcloud scheduler jobs create http daena-kms --location $REGION --schedule '0 * * * *' --time-zone Etc/UTC \
    --uri $URL --http-method POST --headers Content-Type=application/json --message-body '{"action":"rotate"}' \
    --oidc-service-account-email $SCHEDULER --oidc-token-audience $URL --attempt-deadline 1800s \
    --max-retry-attempts 2 --min-backoff 60s --max-backoff 600s --max-doublings 3
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

policy='' project=${GOOGLE_CLOUD_PROJECT:-} name='' region='' prefix='' schedule='' tick='' email=''
pin='' variables='' dry='' yes='' build=yes

while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage && exit 0 ;;
        --dry-run) dry=yes && shift && continue ;;
        --no-build) build='' && shift && continue ;;
        --yes) yes=yes && shift && continue ;;
        --policy | --project | --name | --region | --prefix | --schedule | --tick-minutes | --email) ;;
        --public-key | --var) ;;
        *) refuse "unknown option $1" "infra/gcp/deploy.sh --help" ;;
    esac
    [ $# -gt 1 ] || refuse "$1 needs a value" "infra/gcp/deploy.sh --help"
    case $1 in
        --policy) policy=$2 ;;
        --project) project=$2 ;;
        --name) name=$2 ;;
        --region) region=$2 ;;
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

# ---- is it usable? Nothing is asked of Google before all of this is answered; Terraform checks its variables again.

matches "$project" '[a-z][a-z0-9-]{4,28}[a-z0-9]' \
    || problem "--project '$project': a project's id, not its name or number; \`gcloud projects list\` prints it"
if [ -n "$name" ]; then
    { matches "$name" '[a-z][a-z0-9]*(-[a-z0-9]+)*' && [ ${#name} -le 16 ]; } \
        || problem "--name '$name': lower-case letters, digits and single hyphens, a letter first, at most 16 together"
fi
[ -z "$region" ] || matches "$region" '[a-z]+-[a-z]+[0-9]+' \
    || problem "--region '$region': a region such as europe-west1; \`gcloud scheduler locations list\` prints them"
if [ -n "$prefix" ]; then
    { matches "$prefix" '[a-z0-9]+(-[a-z0-9]+)*-' && [ ${#prefix} -le 64 ] && [ "${prefix#reserved-}" = "$prefix" ]; } \
        || problem "--prefix '$prefix': lower-case letters, digits and single hyphens, one at the end; not reserved-..."
fi
if [ -n "$schedule" ] && [ "$schedule" != '0 * * * *' ]; then
    matches "$schedule" '([0-9*,/-]+ ){4}[0-9*,/-]+' \
        || problem "--schedule '$schedule': five fields, minutes first, such as '0 * * * *'"
    [ -n "$tick" ] || problem "--schedule '$schedule' needs --tick-minutes: the longest time between two runs"
fi
if [ -n "$tick" ]; then
    { matches "$tick" '[1-9][0-9]{0,4}' && [ "$tick" -le 64800 ]; } \
        || problem "--tick-minutes '$tick': a whole number from 1 to 64800 (45 days)"
fi
[ -z "$email" ] || matches "$email" '[^@[:space:]]+@[^@[:space:]]+\.[^@[:space:]]+' \
    || problem "--email '$email' is no address"
[ -z "$pin" ] || matches "$pin" '[0-9a-fA-F]{64}' \
    || problem "--public-key: 64 hexadecimal digits, as the first run logs them"

known=$(sed -n 's/^variable "\(.*\)" {$/\1/p' "$here/variables.tf" | tr '\n' ' ')
while IFS= read -r pair; do
    [ -n "$pair" ] || continue
    case " $known" in
        *" ${pair%%=*} "*) [ "${pair%%=*}" != "$pair" ] || problem "--var '$pair': NAME=VALUE expected" ;;
        *) problem "--var '$pair': infra/gcp has $known" ;;
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
terraform=${TERRAFORM:-terraform} gcloud=${GCLOUD:-gcloud} missing=''
for tool in "$terraform" "$gcloud"; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
done
[ -z "$missing" ] || [ -n "$dry" ] || problem "not on this machine:$missing"

[ -z "$problems" ] || refuse "nothing was begun:$problems" "infra/gcp/deploy.sh --help"

cd "$root"

if [ -z "$dry" ]; then
    "$gcloud" projects describe "$project" --format 'value(projectNumber)' >/dev/null \
        || refuse "these credentials do not work for the project $project" "\`gcloud auth login\`"
    "$gcloud" auth application-default print-access-token >/dev/null \
        || refuse "Terraform has no credentials" "\`gcloud auth application-default login\`"
    run "$terraform" -chdir=infra/gcp init -input=false
fi

given=infra/gcp/given.auto.tfvars.json
set -- "project_id=$project" "name=$name" "region=$region" "key_prefix=$prefix" "policy_file=$policy"
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

HOURLY = "0 * * * *"
# What cannot be changed: its default, and what would be lost with another.
FIXED = {
    "name": ("daena-kms", "all that it made"),
    "project_id": (None, "all that it made"),
    "region": ("europe-west1", "the manifests"),
    "key_prefix": ("daena-", "the keys"),
}


def refuse(message, hint):
    sys.exit(f"error: {message}\nhint: {hint}")


def read(name, text):
    """A variable's value: lists are written as JSON."""
    try:
        return json.loads(text) if text.startswith("[") else text
    except ValueError:
        refuse(f"--var {name}={text} is no list in JSON", f"such as --var '{name}=[\"a\", \"b\"]'")


policy, file, *pairs = sys.argv[1:]
options, variables = pairs[: pairs.index("--var")], pairs[pairs.index("--var") + 1 :]
now = {name: value for name, _, value in (pair.partition("=") for pair in options) if value}
now |= {name: read(name, value) for name, _, value in (pair.partition("=") for pair in variables)}
before = json.loads(Path(file).read_text()) if Path(file).exists() else {}
if before:
    for name, (default, lost) in FIXED.items():
        was = before.get(name, default)
        if was is not None and now.get(name, was) != was:
            told = f"{name} was {was!r}: with {now[name]!r} Terraform would lose {lost}"
            refuse(told, "leave it as it was, or deploy from another checkout")
if "schedule" in now and "tick_minutes" not in now:
    if now["schedule"] == HOURLY:
        now["tick_minutes"] = "60"
    elif now["schedule"] != before.get("schedule"):
        refuse(f"the schedule {now['schedule']!r} needs --tick-minutes", "the longest time between two runs")
merged = {name: default for name, (default, _) in FIXED.items() if default} | before | now
minutes = merged.get("tick_minutes", "60")
if not (isinstance(minutes, str) and minutes.isascii() and minutes.isdigit() and 1 <= int(minutes) <= 64800):
    refuse(f"tick_minutes {minutes!r}: a whole number from 1 to 64800 (45 days) expected", "see --help")
try:
    tick = Tick(interval=timedelta(minutes=int(minutes)))
    parse_policy(Path(policy).read_bytes(), tick=tick, prefix=merged["key_prefix"], source=policy)
except KmsError as problem:
    refuse(problem.message, problem.hint)
print(json.dumps(merged, indent=2, sort_keys=True))
PYTHON
) || exit 2
value() { # of one variable; nothing if it was never given
    printf '%s\n' "$merged" | sed -n "s/^  \"$1\": \"\(.*\)\",\{0,1\}$/\1/p"
}

# ---- what will be done

tick=$(value tick_minutes) name=$(value name) region=$(value region)
if [ "${tick:-60}" -gt 697 ]; then
    echo "warning: two ticks are more than the 23.5 hours that an alert looks back: no alarm when runs stay away."
fi
case $merged in
    *'"lock_retention": "true"'*) echo "warning: lock_retention cannot be undone, by anybody." ;;
esac
[ -z "$dry" ] || echo "A dry run: checks and builds, shows the other commands, changes nothing."
cat <<TEXT
daena-kms goes to Google Cloud:
  policy          $policy
  variables       $(printf '%s' "$merged" | tr -d '\n')
TEXT
[ -z "$missing" ] || echo "  note            not on this machine:$missing; the deployment itself needs it"

# ---- do it

[ -z "$build" ] || run "$python" infra/bundle.py gcp

if [ -z "$dry" ]; then
    trap 'rm -f "$asked"' EXIT
    printf '%s\n' "$merged" >"$asked"
fi
# Without these two Terraform can ask nothing of a project; it enables the others itself.
change "$gcloud" services enable cloudresourcemanager.googleapis.com serviceusage.googleapis.com --project "$project"
set --
[ -z "$yes" ] || set -- -auto-approve
change "$terraform" -chdir=infra/gcp apply "$@" -var-file="$root/$asked" || {
    status=$?
    echo "Roles and metrics take some minutes until Google knows them everywhere: if that was it, run this again." >&2
    exit "$status"
}
# Only what worked is kept: the next run begins with it.
[ -n "$dry" ] || mv "$asked" "$given"

output() { # of what was applied
    if [ -n "$dry" ]; then
        printf '<%s>\n' "$1"
    else
        "$terraform" -chdir=infra/gcp output -raw "$1"
    fi
}

# Each by itself: what cannot be said ends this here.
job=$(output job)
url=$(output run_url)
role=$(output reader_role)

echo
echo "By hand, as the schedule would do it:"
show gcloud scheduler jobs run "$job" --project "$project" --location "$region"
cat <<TEXT
or in the console: Cloud Scheduler, $job, Force run. With a request of your own (--var 'invokers=["user:YOU"]' first):
  \$ curl --fail-with-body -H "Authorization: Bearer \$(gcloud auth print-identity-token)" \\
      -H 'Content-Type: application/json' --data @functions/gcp_function/events/rotate.json $url

The first run makes the keys that sign the manifests, and logs their public key ("public_key"). Pin it, so that a ledger
that anybody else began is refused:
TEXT
show infra/gcp/deploy.sh --project "$project" --name "$name" --policy "$policy" --public-key HEX
cat <<TEXT

Applications that read keys need the role $role: on single secrets,
TEXT
show gcloud secrets add-iam-policy-binding KEY --project "$project" --role "$role" --member serviceAccount:ADDRESS
echo "or for all of them, with --var 'readers=[\"serviceAccount:ADDRESS\"]'."
