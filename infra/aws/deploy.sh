#!/bin/sh
# Deploys daena-kms to AWS: builds the function's archive, deploys infra/aws/template.yaml, uploads the policy file.
# Checks everything that can be checked before anything is changed. Can be run again: what is not given stays as it is.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
template=infra/aws/template.yaml
archive=build/bundles/aws.zip
quarterly='cron(0 0 1 */3 ? *)'

usage() {
    cat <<'TEXT'
usage: infra/aws/deploy.sh --policy FILE [options]

Deploys daena-kms to AWS, or changes what is deployed. What is not given stays as it was, or is the template's default.

  --policy FILE          the rotation policy (TOML); goes to the bucket, where the function reads it at each run
  --stack NAME           name of the stack, of the function and of whatever else needs one (default: daena-kms)
  --region REGION        default: AWS_REGION or AWS_DEFAULT_REGION
  --prefix PREFIX        before every key's name in Secrets Manager, such as daena- ; cannot be changed later
  --schedule EXPRESSION  when it runs, UTC: 'rate(1 hour)', 'cron(0 0 1 * ? *)'; an hourly tick is right for nearly all
  --tick-minutes N       the longest time between two runs; needed with cron(...), follows from rate(...)
  --email ADDRESS        who gets alarms; AWS asks that address to confirm
  --public-key HEX       pins the manifests' first public key, which the first run logs
  --parameter NAME=VALUE any other parameter of infra/aws/template.yaml; can be repeated
  --no-build             deploy build/bundles/aws.zip as it lies there
  --yes                  do not ask before the stack is changed
  --dry-run              build and validate, show the other commands; needs no account and no credentials
  --help                 this

Credentials come from where the AWS CLI finds them (AWS_PROFILE, ...). AWS and SAM name other programs than `aws` and
`sam`. Exit status: 0 done, 2 nothing was begun, anything else is that of the command that failed.
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

stack=daena-kms region=${AWS_REGION:-${AWS_DEFAULT_REGION:-}} policy='' dry='' yes='' build=yes parameters=''
prefix='' schedule='' tick='' email='' pin='' pinned=''

while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage && exit 0 ;;
        --dry-run) dry=yes && shift && continue ;;
        --no-build) build='' && shift && continue ;;
        --yes) yes=yes && shift && continue ;;
        --policy | --stack | --region | --prefix | --schedule | --tick-minutes) ;;
        --email | --public-key | --parameter) ;;
        *) refuse "unknown option $1" "infra/aws/deploy.sh --help" ;;
    esac
    [ $# -gt 1 ] || refuse "$1 needs a value" "infra/aws/deploy.sh --help"
    case $1 in
        --policy) policy=$2 ;;
        --stack) stack=$2 ;;
        --region) region=$2 ;;
        --prefix) prefix=$2 ;;
        --schedule) schedule=$2 ;;
        --tick-minutes) tick=$2 ;;
        --email) email=$2 ;;
        --public-key) pin=$2 pinned=yes ;;
        --parameter) parameters="$parameters
$2" ;;
    esac
    shift 2
done

# ---- is it usable? Nothing is asked of AWS before all of this is answered.

overrides=''
override() { # name, value: in the form that sam reads; what it could misread is refused
    case $2 in
        *[\"\\]*) problem "$1: no quotes and no backslashes" ;;
        *) overrides="$overrides${overrides:+ }$1=\"$2\"" ;;
    esac
}

known=$(sed -n '/^Parameters:/,/^Rules:/s/^  \([A-Za-z]*\):$/\1/p' "$here/template.yaml" | tr '\n' ' ')

matches "$stack" '[A-Za-z][A-Za-z0-9-]{0,49}' \
    || problem "--stack '$stack': a letter, then letters, digits and hyphens, at most 50 together"
if [ -z "$region" ]; then
    problem "--region is not given, and neither AWS_REGION nor AWS_DEFAULT_REGION is set"
elif ! matches "$region" '[a-z]{2,4}(-[a-z]+)+-[0-9]+'; then
    problem "--region '$region' is no region; one is eu-central-1"
fi
if [ -n "$prefix" ]; then
    { matches "$prefix" '[a-z0-9]+(-[a-z0-9]+)*-' && [ ${#prefix} -le 64 ] && [ "${prefix#reserved-}" = "$prefix" ]; } \
        || problem "--prefix '$prefix': lower-case letters, digits and single hyphens, one at the end; not reserved-..."
    override KeyPrefix "$prefix"
fi

minutes() { # of a rate(...) expression; nothing for any other
    matches "$1" 'rate\((1 (minute|hour|day)|([2-9]|[1-9][0-9]{1,4}) (minutes|hours|days))\)' || return 0
    count=${1#rate(} && count=${count%% *}
    case $1 in
        *minute*) echo "$count" ;;
        *hour*) echo $((count * 60)) ;;
        *day*) echo $((count * 1440)) ;;
    esac
}

if [ -n "$schedule" ]; then
    implied=$(minutes "$schedule")
    if [ -z "$implied" ] && ! matches "$schedule" 'cron\(([^ ]+ ){5}[^ ]+\)'; then
        problem "--schedule '$schedule' is neither rate(1 hour), rate(N minutes|hours|days) nor cron(six fields)"
    elif [ -z "$implied" ] && [ -z "$tick" ]; then
        problem "--schedule '$schedule' needs --tick-minutes: the longest time between two runs"
    elif [ -n "$implied" ] && [ -n "$tick" ] && [ "$tick" != "$implied" ]; then
        problem "--tick-minutes $tick: $schedule is $implied"
    fi
    tick=${tick:-$implied}
    override ScheduleExpression "$schedule"
fi
if [ -n "$tick" ]; then
    if ! matches "$tick" '[1-9][0-9]{0,4}' || [ "$tick" -gt 64800 ]; then
        problem "--tick-minutes '$tick': a whole number from 1 to 64800 (45 days)"
    else
        # Two ticks, in periods that CloudWatch knows: none longer than a day, a week together at most.
        if [ "$tick" -le 1440 ]; then
            period=$((tick * 60)) periods=2
        elif [ "$tick" -le 5040 ]; then
            period=86400 periods=$(((2 * tick + 1439) / 1440))
        else
            period=86400 periods=0
        fi
        override TickMinutes "$tick"
        override NoRunPeriodSeconds "$period"
        override NoRunPeriods "$periods"
    fi
fi
if [ -n "$email" ]; then
    matches "$email" '[^@[:space:]]+@[^@[:space:]]+' || problem "--email '$email' is no address"
    override AlarmEmail "$email"
fi
if [ -n "$pinned" ]; then
    matches "$pin" '([0-9a-fA-F]{64})?' || problem "--public-key: 64 hexadecimal digits, as the first run logs them"
    override PublicKey "$pin"
fi
while IFS= read -r pair; do
    [ -n "$pair" ] || continue
    name=${pair%%=*}
    case " $known" in
        *" $name "*) ;;
        *) problem "--parameter '$pair': the template has $known" && continue ;;
    esac
    case $name in
        KeyPrefix | PublicKey | ScheduleExpression | TickMinutes)
            problem "--parameter '$pair': this one has an option of its own" && continue
            ;;
    esac
    [ "$name" != "$pair" ] || problem "--parameter '$pair': NAME=VALUE expected"
    override "$name" "${pair#*=}"
done <<TEXT
$parameters
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
sam=${SAM:-$root/.venv/tools/sam/bin/sam}
if [ -z "${SAM:-}" ] && [ ! -x "$sam" ]; then sam=sam; fi
command -v "$sam" >/dev/null || problem "$sam is not there: run \`make .venv/tools/sam/ready\`, or install the SAM CLI"
aws=${AWS:-aws}
aws_is_there=yes
command -v "$aws" >/dev/null || aws_is_there=''
[ -n "$aws_is_there$dry" ] || problem "$aws is not there: install the AWS CLI"

[ -z "$problems" ] || refuse "nothing was begun:$problems" "infra/aws/deploy.sh --help"

cd "$root"
export SAM_CLI_TELEMETRY=0

deployed=''
deployed_value() { # of one parameter of the stack as it is; nothing if there is none
    printf '%s\n' "$deployed" | awk -v name="$1" '$1 == name { print $2 }'
}
if [ -z "$dry" ]; then
    account=$("$aws" sts get-caller-identity --query Account --output text --region "$region") \
        || refuse "these credentials do not work" "\`aws sts get-caller-identity\` must work with the same environment"
    query='Stacks[0].Parameters[].[ParameterKey,ParameterValue]'
    if ! deployed=$("$aws" cloudformation describe-stacks --stack-name "$stack" --region "$region" \
        --query "$query" --output text 2>&1); then
        case $deployed in
            *'does not exist'*) deployed='' ;;
            *) refuse "the stack $stack cannot be looked at: $deployed" "check the permissions of these credentials" ;;
        esac
    fi
    before=$(deployed_value KeyPrefix)
    [ -z "$before" ] || [ "${prefix:-$before}" = "$before" ] || refuse \
        "the keys of the stack $stack begin with $before: with --prefix $prefix it would lose them" \
        "leave --prefix out, or deploy a second stack: --stack"
fi
prefix=${prefix:-$(deployed_value KeyPrefix)}
tick=${tick:-$(deployed_value TickMinutes)}

"$python" - "$policy" "${prefix:-daena-}" "${tick:-60}" <<'PYTHON' || exit 2
import sys
from datetime import timedelta
from pathlib import Path

from daena_kms import KmsError, Tick, parse_policy

path, prefix, minutes = sys.argv[1:]
try:
    tick = Tick(interval=timedelta(minutes=int(minutes)))
    parse_policy(Path(path).read_bytes(), tick=tick, prefix=prefix, source=path)
except KmsError as problem:
    sys.exit(f"error: {problem.message}\nhint: {problem.hint}")
PYTHON

# ---- what will be done

if [ "$schedule" = "$quarterly" ]; then
    echo "warning: $quarterly leaves up to 92 days between two runs: a key under a 90-day rule gets up to 2"
    echo "  days too old, a new one more. See ScheduleExpression in $template."
fi
if [ "${periods:-1}" -eq 0 ]; then
    echo "warning: two ticks are more than the 7 days that CloudWatch looks back: no alarm when runs stay away."
fi
[ -z "$dry" ] || echo "A dry run: builds and validates, shows the other commands, changes nothing."
cat <<TEXT
daena-kms goes to AWS:
  stack       $stack in $region${account:+, account $account}
  keys        ${prefix:-daena-}* in Secrets Manager, wrapped by a KMS key of the stack
  policy      $policy
  parameters  ${overrides:-as they are}
TEXT
[ -n "$aws_is_there" ] || echo "  note        $aws is not on this machine; the deployment itself needs it"

# ---- do it

[ -z "$build" ] || run "$python" infra/bundle.py aws
run "$sam" validate --lint --template-file "$template" --region "$region"

if [ -z "$yes$dry" ]; then
    printf 'Change the stack %s now? [y/N] ' "$stack"
    read -r answer || answer=''
    case $answer in
        y | Y | yes) ;;
        *) refuse "nothing was changed" ;;
    esac
fi

set -- deploy --template-file "$template" --stack-name "$stack" --region "$region" --capabilities CAPABILITY_IAM
set -- "$@" --resolve-s3 --no-confirm-changeset --no-fail-on-empty-changeset
[ -z "$overrides" ] || set -- "$@" --parameter-overrides "$overrides"
change "$sam" "$@"

output() { # of the stack
    if [ -n "$dry" ]; then
        printf '<%s>\n' "$1"
    else
        "$aws" cloudformation describe-stacks --stack-name "$stack" --region "$region" --output text \
            --query "Stacks[0].Outputs[?OutputKey=='$1'].OutputValue"
    fi
}

# A first tick that is faster than this fails, and is tried again a minute later.
bucket=$(output BucketName)
change "$aws" s3 cp "$policy" "s3://$bucket/policy/daena-kms.toml" --region "$region"

reader=$(output ReaderPolicyArn)
echo
echo "By hand, from this checkout:"
show "$aws" lambda invoke --region "$region" --function-name "$stack" --cli-read-timeout 0 \
    --payload fileb://functions/aws_lambda/events/rotate.json /dev/stdout
cat <<TEXT
or in the console: Lambda, $stack, Test, with the content of a file in functions/aws_lambda/events/.

The first run makes the keys that sign the manifests, and logs their public key. Pin it, so that a ledger that anybody
else began is refused:
TEXT
show "$aws" logs filter-log-events --region "$region" --log-group-name "/aws/lambda/$stack" --output text \
    --filter-pattern '{ $.public_key = * }' --query 'events[].message'
show infra/aws/deploy.sh --stack "$stack" --region "$region" --policy "$policy" --public-key HEX
echo
echo "Applications that read keys need the policy $reader."
