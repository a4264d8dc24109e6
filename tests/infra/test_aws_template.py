"""The AWS template: what tools find in it, what no tool and no emulator knows, and that all of this would notice.

A *demand* is a function that raises AssertionError where the template falls short. Each is asked of the template as it
is, and of one into which the fault was planted that it is there for.
"""

import json
import os
import re
import subprocess
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from daena_kms import ConfigurationError, invocation, names, read_settings
from daena_kms.fleet import Report
from daena_kms.names import RESERVED_KEY
from daena_kms.settings import SETTINGS
from daena_kms.stores import aws, aws_layout, aws_ledger

from .aws_template import (
    ACCOUNT,
    PARTITION,
    REGION,
    ROOT,
    SOURCE,
    STACK,
    Document,
    Resolver,
    Resources,
    Template,
    as_list,
    granted,
    matches,
    of_type,
    parameters,
    policies,
    shipped,
    stack,
    statements,
    transformed,
)

TOOLS = ROOT / ".venv" / "tools"
EVENTS = ROOT / "functions" / "aws_lambda" / "events"
REGIONS = ["eu-central-1", REGION]
PREFIX = "daena-"
HERE = f"{REGION}:{ACCOUNT}"

# Where the things that policies name are in the stack that these tests resolve.
KEY = f"arn:{PARTITION}:kms:{HERE}:key/00000000-0000-4000-8000-000000000000"
BUCKET = f"arn:{PARTITION}:s3:::{STACK}-manifests"
FUNCTION = f"arn:{PARTITION}:lambda:{HERE}:function:{STACK}"
LOGS = f"arn:{PARTITION}:logs:{HERE}:log-group:/aws/lambda/{STACK}:*"
FAILED = f"arn:{PARTITION}:sqs:{HERE}:{STACK}-failed-runs"
UNDELIVERED = f"arn:{PARTITION}:sqs:{HERE}:{STACK}-undelivered-ticks"
TOPIC = f"arn:{PARTITION}:sns:{HERE}:{STACK}-alarms"
ROLE = f"arn:{PARTITION}:iam::{ACCOUNT}:role/{STACK}"
GROUP = f"arn:{PARTITION}:scheduler:{HERE}:schedule-group/{STACK}"


def secret(name: str, suffix: str = "-a1B2c3") -> str:
    """The ARN of a secret; six characters are AWS's own. Without them: what IAM is asked about before it exists."""
    return f"arn:{PARTITION}:secretsmanager:{HERE}:secret:{name}{suffix}"


KEYS, RESERVED = f"{PREFIX}*", f"reserved--{PREFIX}manifest-keys"

# Everything that anybody is allowed by this stack. What is added here needs a reason.
FUNCTION_MAY = {
    ("secretsmanager:ListSecrets", "*"),
    *(
        (f"secretsmanager:{action}", secret(name, suffix))
        for action in (
            "CreateSecret",
            "DescribeSecret",
            "GetSecretValue",
            "ListSecretVersionIds",
            "PutSecretValue",
            "TagResource",
            "UpdateSecretVersionStage",
        )
        for name, suffix in ((KEYS, ""), (RESERVED, ""), (RESERVED, "-??????"))
    ),
    ("kms:Decrypt", KEY),
    ("kms:Encrypt", KEY),
    ("kms:GenerateDataKey", KEY),
    ("s3:GetObject", f"{BUCKET}/manifests/*"),
    ("s3:PutObject", f"{BUCKET}/manifests/*"),
    ("s3:GetObject", f"{BUCKET}/policy/*"),
    ("s3:ListBucket", BUCKET),
    ("s3:ListBucketVersions", BUCKET),
    ("sqs:SendMessage", FAILED),
    ("logs:CreateLogStream", LOGS),
    ("logs:PutLogEvents", LOGS),
}
TRACES = {("xray:PutTraceSegments", "*"), ("xray:PutTelemetryRecords", "*")}
GRANTS = {
    "FunctionRole.rotate-keys": FUNCTION_MAY,
    "SchedulerRole.start-the-function": {("lambda:InvokeFunction", FUNCTION), ("sqs:SendMessage", UNDELIVERED)},
    "ReaderPolicy.policy": {
        ("secretsmanager:DescribeSecret", secret(KEYS, "")),
        ("secretsmanager:GetSecretValue", secret(KEYS, "")),
        ("kms:Decrypt", KEY),
    },
}


# --- what tools find


def tool(environment: str, name: str) -> str:
    """The path of a tool that has an environment of its own."""
    path = TOOLS / environment / "bin" / name
    if not path.exists():
        pytest.fail(f"{name} is not there: run `make .venv/tools/{environment}/ready` (`make test` does)")
    return str(path)


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a tool without this machine's credentials."""
    inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    variables = inherited | {"HOME": "/nonexistent", "PYTHONWARNINGS": "ignore"} | environment
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables, timeout=120)


def library(name: str) -> Any:
    """A linter that is a library of this environment: slow to import, so imported by the tests that use it alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parliament imports pkg_resources, which says that it will go
        return import_module(name)


def lint_findings(template: Template) -> list[str]:
    """What cfn-lint says, warnings included."""
    cfnlint, config = library("cfnlint.api"), library("cfnlint.config")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = cfnlint.lint(json.dumps(template), config=config.ManualArgs(regions=REGIONS))
    return [f"{match.rule.id} {'.'.join(map(str, match.path or ()))}: {match.message}" for match in found]


def policy_findings(template: Template) -> list[str]:
    """What parliament says about every policy of the stack."""
    parliament, found = library("parliament"), []
    # What parliament does not know: who is trusted is said without a resource, and in a key's policy `*` is that key.
    implied = {"FunctionRole.trust": ROLE, "SchedulerRole.trust": ROLE}
    excused = {("WrappingKey.policy", "RESOURCE_STAR")}
    for place, document in policies(stack(template, Tracing="Active")).items():
        named = {"Resource": implied[place]} if place in implied else {}
        whole = {**document, "Statement": [s | named for s in document["Statement"]]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = parliament.analyze_policy_string(json.dumps(whole))
        findings = [finding for finding in answer.findings if (place, finding.issue) not in excused]
        found += [f"{place}: {finding.issue} {finding.detail}" for finding in findings]
    return found


def test_cfn_lint_finds_nothing_in_what_sam_makes_of_it() -> None:
    """In SAM's shorthand it overlooks much of what it finds here."""
    assert lint_findings(shipped()) == []


def test_sam_finds_nothing() -> None:
    done = run(tool("sam", "sam"), "validate", "--lint", "--template", str(SOURCE), "--region", "eu-central-1",
               SAM_CLI_TELEMETRY="0", HOME=os.environ.get("HOME", "/tmp"))  # fmt: skip  # noqa: S108
    assert done.returncode == 0, done.stdout + done.stderr


def test_parliament_finds_nothing_in_any_policy() -> None:
    assert policy_findings(shipped()) == []


def test_every_policy_is_looked_at() -> None:
    """Were the search blind, every test of policies would pass."""
    assert set(policies(stack())) == {
        *GRANTS,
        "AlarmTopicPolicy.policy",
        "FailedRunsPolicy.policy",
        "FunctionRole.trust",
        "ManifestBucketPolicy.policy",
        "SchedulerRole.trust",
        "UndeliveredTicksPolicy.policy",
        "WrappingKey.policy",
    }


def test_checkov_finds_nothing_but_what_is_excused_and_every_excuse_is_needed(tmp_path: Path) -> None:
    template = shipped()
    file = tmp_path / "template.json"
    file.write_text(json.dumps(template))
    done = run(tool("checkov", "checkov"), "--file", str(file), "--framework", "cloudformation", "--output", "json",
               "--skip-download", BC_SKIP_MAPPING="TRUE", HOME=str(tmp_path))  # fmt: skip
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    outcome = json.loads(done.stdout)["results"]
    assert [f"{check['check_id']} {check['resource']}" for check in outcome["failed_checks"]] == []
    assert len(outcome["passed_checks"]) > 25, "checkov did not read the template"
    # SAM copies a function's metadata to what it makes beside it.
    excused = {
        (skip["id"], f"{resource['Type']}.{name}")
        for name, resource in template["Resources"].items()
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", [])
        if resource["Type"] != "AWS::Lambda::EventInvokeConfig"
    }
    assert {(check["check_id"], check["resource"]) for check in outcome["skipped_checks"]} == excused


def schedules_refused(*expressions: str) -> set[str]:
    """Those that are none. cfn-lint knows their grammar only in a rule of EventBridge (E3027)."""
    rules = {
        f"Rule{i}": {"Type": "AWS::Events::Rule", "Properties": {"ScheduleExpression": text, "State": "ENABLED"}}
        for i, text in enumerate(expressions)
    }
    findings = lint_findings({"Resources": rules})
    return {text for i, text in enumerate(expressions) if any(f"E3027 Resources.Rule{i}." in f for f in findings)}


def test_every_schedule_that_the_template_names_is_one() -> None:
    named = set(re.findall(r"(?:rate|cron)\([^).]+\)", SOURCE.read_text()))
    assert {"rate(1 hour)", "cron(0 0 1 */3 ? *)", "cron(0 0 1 * ? *)"} <= named
    none = {"cron(0 0 1 */3 * *)", "rate(1 hours)", "cron(0 0 1 */3 ?)"}
    assert schedules_refused(*named, *none) == none


# --- what they cannot know


def properties(resources: Resources, name: str) -> dict[str, Any]:
    found: dict[str, Any] = resources[name]["Properties"]
    return found


def the_wrapping_key_outlives_the_stack(template: Template) -> None:
    key = stack(template)["WrappingKey"]
    assert (key["DeletionPolicy"], key["UpdateReplacePolicy"]) == ("Retain", "Retain")
    assert key["Properties"]["EnableKeyRotation"] is True
    assert key["Properties"]["PendingWindowInDays"] == 30


def the_wrapping_key_is_left_to_the_accounts_policies(template: Template) -> None:
    [statement] = properties(stack(template), "WrappingKey")["KeyPolicy"]["Statement"]
    assert statement["Principal"] == {"AWS": f"arn:{PARTITION}:iam::{ACCOUNT}:root"}
    assert (statement["Effect"], statement["Action"]) == ("Allow", "kms:*")


def the_bucket_keeps_every_version_for_good(template: Template) -> None:
    bucket = stack(template)["ManifestBucket"]
    assert (bucket["DeletionPolicy"], bucket["UpdateReplacePolicy"]) == ("Retain", "Retain")
    assert bucket["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
    assert "LifecycleConfiguration" not in bucket["Properties"]
    guard = stack(template)["ManifestBucketPolicy"]
    assert (guard["DeletionPolicy"], guard["UpdateReplacePolicy"]) == ("Retain", "Retain")


def the_bucket_is_nobody_elses(template: Template) -> None:
    bucket = properties(stack(template), "ManifestBucket")
    blocked = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    assert bucket["PublicAccessBlockConfiguration"] == dict.fromkeys(blocked, True)
    assert bucket["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    [rule] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule == {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}


def objects_are_locked_when_asked_for_and_only_then(template: Template) -> None:
    bucket = properties(stack(template), "ManifestBucket")
    assert bucket["ObjectLockEnabled"] is True, "to lock later must not need a new bucket"
    assert "ObjectLockConfiguration" not in bucket
    locked = properties(stack(template, ObjectLockDays="400", ObjectLockMode="COMPLIANCE"), "ManifestBucket")
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": "400"}}
    assert locked["ObjectLockConfiguration"] == {"ObjectLockEnabled": "Enabled", "Rule": rule}
    known = parameters(template)
    assert (known["ObjectLockDays"]["Default"], known["ObjectLockMode"]["Default"]) == (0, "GOVERNANCE")


def manifests_are_created_only(template: Template) -> None:
    document = policies(stack(template))["ManifestBucketPolicy.policy"]
    [creation] = statements(document, effect="Deny", action="s3:PutObject")
    assert creation["Principal"] == "*"
    assert as_list(creation["Resource"]) == [f"{BUCKET}/manifests/*"]
    assert creation["Condition"] == {"Null": {"s3:if-none-match": "true"}}
    for action in ("s3:DeleteObject", "s3:DeleteObjectVersion"):
        [deletion] = statements(document, effect="Deny", action=action)
        assert deletion["Principal"] == "*"
        assert as_list(deletion["Resource"]) == [f"{BUCKET}/manifests/*"]
        assert "Condition" not in deletion, "a way around it"
    assert not [s for s in document["Statement"] if s["Effect"] == "Allow"]


def nothing_is_reached_without_tls(template: Template) -> None:
    demanded = {
        "ManifestBucketPolicy": ("s3:*", [BUCKET, f"{BUCKET}/*"]),
        "UndeliveredTicksPolicy": ("sqs:*", [UNDELIVERED]),
        "FailedRunsPolicy": ("sqs:*", [FAILED]),
        "AlarmTopicPolicy": ("sns:Publish", [TOPIC]),
    }
    for name, (action, resources) in demanded.items():
        found = statements(policies(stack(template))[f"{name}.policy"], effect="Deny", action=action)
        assert [(s["Principal"], as_list(s["Resource"]), s.get("Condition")) for s in found] == [
            ("*", resources, {"Bool": {"aws:SecureTransport": "false"}})
        ], name


CONTEXT = "kms:EncryptionContext:daena-kms:key"


def contexts(document: Document, action: str) -> list[str]:
    """The keys whose material a policy opens: patterns of their secrets' names."""
    [statement] = statements(document, effect="Allow", action=action)
    [(operator, conditions)] = statement["Condition"].items()
    assert operator == "StringLike"
    [(name, patterns)] = conditions.items()
    assert name == CONTEXT
    return as_list(patterns)


def wrapped_under(key: str, prefix: str = PREFIX) -> str:
    """The name in the encryption context, as the store writes it."""
    return aws_layout.context(names.secret_name(prefix, key), 1)["daena-kms:key"]


def the_function_wraps_for_its_own_keys_only(template: Template) -> None:
    document = policies(stack(template))["FunctionRole.rotate-keys"]
    for action in ("kms:GenerateDataKey", "kms:Encrypt", "kms:Decrypt"):
        patterns = contexts(document, action)
        assert matches(patterns, wrapped_under("orders"))
        assert matches(patterns, wrapped_under(RESERVED_KEY))
        assert not matches(patterns, wrapped_under("orders", "other-"))
        assert not matches(patterns, wrapped_under(RESERVED_KEY, "other-"))


def secrets_named(document: Document, action: str) -> list[str]:
    return [resource for act, resource in granted(document) if act == action]


def the_function_keeps_its_own_secrets_only(template: Template) -> None:
    document = policies(stack(template))["FunctionRole.rotate-keys"]
    name = names.secret_name(PREFIX, "orders")
    for action in ("CreateSecret", "DescribeSecret", "GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage"):
        patterns = secrets_named(document, f"secretsmanager:{action}")
        for suffix in ("", "-a1B2c3"):  # before it exists, and after
            assert matches(patterns, secret(name, suffix))
            assert matches(patterns, secret(aws_layout.archive_name(name, 3), suffix))
            assert matches(patterns, secret(names.secret_name(PREFIX, RESERVED_KEY), suffix))
        assert not matches(patterns, secret("other-orders"))
        assert not matches(patterns, secret(names.secret_name("other-", RESERVED_KEY)))
        assert not matches(patterns, secret(f"{RESERVED}-of-somebody"))
        assert not matches(patterns, secret(name).replace(ACCOUNT, "999999999999"))


def readers_get_nothing_that_is_reserved(template: Template) -> None:
    document = policies(stack(template))["ReaderPolicy.policy"]
    name = names.secret_name(PREFIX, "orders")
    for action in ("secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"):
        patterns = secrets_named(document, action)
        assert matches(patterns, secret(name))
        assert matches(patterns, secret(aws_layout.archive_name(name, 1)))
        assert not matches(patterns, secret(names.secret_name(PREFIX, RESERVED_KEY)))
        assert not matches(patterns, secret("other-orders"))
    assert matches(contexts(document, "kms:Decrypt"), wrapped_under("orders"))
    assert not matches(contexts(document, "kms:Decrypt"), wrapped_under(RESERVED_KEY))


def readers_read_by_stage(template: Template) -> None:
    """A disabled version has lost its label, and can be found by its id alone."""
    [statement] = statements(
        policies(stack(template))["ReaderPolicy.policy"], effect="Allow", action="secretsmanager:GetSecretValue"
    )
    condition = statement["Condition"]
    assert set(condition) == {"StringLikeIfExists", "Null"}
    assert condition["Null"] == {"secretsmanager:VersionId": "true"}
    [(name, stages)] = condition["StringLikeIfExists"].items()
    assert name == "secretsmanager:VersionStage"
    for stage in (aws_layout.CURRENT, aws_layout.PREVIOUS, aws_layout.kept(17)):
        assert matches(stages, stage)
    for stage in (aws_layout.disabled(17), aws_layout.STAGED, aws_layout.PENDING):
        assert not matches(stages, stage)


def everybody_may_what_is_listed_here_and_no_more(template: Template) -> None:
    found = policies(stack(template))
    assert {place: set(granted(found[place])) for place in GRANTS} == GRANTS
    for place in GRANTS:
        for statement in found[place]["Statement"]:
            assert not {"NotAction", "NotResource", "NotPrincipal"} & set(statement)
    traced = policies(stack(template, Tracing="Active"))["FunctionRole.rotate-keys"]
    assert set(granted(traced)) == FUNCTION_MAY | TRACES


def roles_have_no_policies_from_elsewhere(template: Template) -> None:
    for name, role in of_type(stack(template), "AWS::IAM::Role").items():
        assert "ManagedPolicyArns" not in role["Properties"], name
    assert not of_type(stack(template), "AWS::IAM::Policy")
    assert not of_type(stack(template), "AWS::Lambda::Permission"), "the scheduler comes with a role"


def roles_trust_their_service_only(template: Template) -> None:
    found = policies(stack(template))
    [function] = found["FunctionRole.trust"]["Statement"]
    assert function == {
        "Effect": "Allow",
        "Principal": {"Service": "lambda.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }
    [scheduler] = found["SchedulerRole.trust"]["Statement"]
    assert scheduler == {
        "Effect": "Allow",
        "Principal": {"Service": "scheduler.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": ACCOUNT, "aws:SourceArn": GROUP}},
    }
    assert properties(stack(template), "Schedule")["GroupName"] == STACK


def both_dead_letter_paths_end_in_a_queue_of_their_own(template: Template) -> None:
    resources = stack(template)
    undelivered = properties(resources, "Schedule")["Target"]["DeadLetterConfig"]["Arn"]
    failed = properties(resources, "FunctionEventInvokeConfig")["DestinationConfig"]["OnFailure"]["Destination"]
    assert (undelivered, failed) == (UNDELIVERED, FAILED)
    assert ("sqs:SendMessage", undelivered) in granted(policies(resources)["SchedulerRole.start-the-function"])
    assert ("sqs:SendMessage", failed) in granted(policies(resources)["FunctionRole.rotate-keys"])
    for name, queue in of_type(resources, "AWS::SQS::Queue").items():
        assert queue["Properties"]["MessageRetentionPeriod"] == 14 * 86_400, name
        assert queue["Properties"]["SqsManagedSseEnabled"] is True, name


WAITING = "ApproximateNumberOfMessagesVisible"
ALARMS = {
    "a run failed": ("AWS/Lambda", "Errors", "FunctionName", STACK),
    "a key is overdue": ("DaenaKms", "KeysOverdue", "service", STACK),
    "a claim is stuck": ("DaenaKms", "KeysStuck", "service", STACK),
    "no run": ("DaenaKms", "Runs", "service", STACK),
    "a tick did not arrive": ("AWS/SQS", WAITING, "QueueName", f"{STACK}-undelivered-ticks"),
    "a failed run is kept": ("AWS/SQS", WAITING, "QueueName", f"{STACK}-failed-runs"),
}


def every_trouble_has_an_alarm(template: Template) -> None:
    resources = stack(template)
    variables = properties(resources, "Function")["Environment"]["Variables"]
    assert (variables["POWERTOOLS_METRICS_NAMESPACE"], variables["POWERTOOLS_SERVICE_NAME"]) == ("DaenaKms", STACK)
    found = {}
    for name, alarm in of_type(resources, "AWS::CloudWatch::Alarm").items():
        rule = alarm["Properties"]
        [dimension] = rule["Dimensions"]
        found[rule["Namespace"], rule["MetricName"], dimension["Name"], dimension["Value"]] = name
        assert (rule["Threshold"], rule["AlarmActions"]) == (1, [TOPIC]), name
        assert rule["AlarmName"].startswith(f"{STACK}-"), "the topic takes no other"
        if rule["MetricName"] != "Runs":
            assert rule["ComparisonOperator"] == "GreaterThanOrEqualToThreshold", name
            assert rule["Statistic"] in ("Sum", "Maximum"), name
            assert rule["TreatMissingData"] == "ignore", name
    assert set(found) == set(ALARMS.values())
    told = invocation.metrics(Report(datetime.now(UTC), datetime.now(UTC), "", ()))
    assert {metric for namespace, metric, *_ in found if namespace == "DaenaKms"} <= set(told)


def no_run_for_two_ticks_is_an_alarm(template: Template) -> None:
    rule = properties(stack(template), "NoRunAlarm")
    known = parameters(template)
    seconds = int(rule["Period"]) * int(rule["EvaluationPeriods"])
    assert seconds == 2 * 60 * known["TickMinutes"]["Default"]
    assert "DatapointsToAlarm" not in rule
    assert (rule["Statistic"], rule["ComparisonOperator"]) == ("Sum", "LessThanThreshold")
    assert rule["TreatMissingData"] == "breaching", "no run, no data"
    assert "NoRunAlarm" not in stack(template, NoRunPeriods="0")


def the_topic_takes_this_accounts_alarms_only(template: Template) -> None:
    [allowed] = statements(policies(stack(template))["AlarmTopicPolicy.policy"], effect="Allow", action="sns:Publish")
    assert allowed["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
    assert allowed["Condition"] == {
        "StringEquals": {"aws:SourceAccount": ACCOUNT},
        "ArnLike": {"aws:SourceArn": f"arn:{PARTITION}:cloudwatch:{HERE}:alarm:{STACK}-*"},
    }
    assert "AlarmSubscription" not in stack(template)
    subscription = properties(stack(template, AlarmEmail="keys@example.org"), "AlarmSubscription")
    assert subscription == {"TopicArn": TOPIC, "Protocol": "email", "Endpoint": "keys@example.org"}


def the_schedule_asks_every_hour_and_gives_up_after_one(template: Template) -> None:
    resources = stack(template)
    schedule = properties(resources, "Schedule")
    assert (schedule["ScheduleExpression"], schedule["ScheduleExpressionTimezone"]) == ("rate(1 hour)", "UTC")
    assert schedule["FlexibleTimeWindow"] == {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": "10"}
    assert properties(stack(template, FlexibleWindowMinutes="0"), "Schedule")["FlexibleTimeWindow"] == {"Mode": "OFF"}
    target = schedule["Target"]
    assert target["Arn"] == FUNCTION
    assert target["RoleArn"].endswith("SchedulerRole")
    assert target["RetryPolicy"] == {"MaximumRetryAttempts": 10, "MaximumEventAgeInSeconds": 3600}
    event = json.loads(target["Input"])
    assert event == {
        "source": "aws.scheduler",
        "scheduled_time": "<aws.scheduler.scheduled-time>",
        "execution_id": "<aws.scheduler.execution-id>",
        "attempt": "<aws.scheduler.attempt-number>",
    }
    assert event.keys() == json.loads((EVENTS / "scheduler.json").read_text()).keys()


def no_run_comes_before_the_bucket_is_guarded(template: Template) -> None:
    assert "ManifestBucketPolicy" in stack(template)["Schedule"]["DependsOn"]


def the_function_is_what_was_agreed(template: Template) -> None:
    resources = stack(template)
    function = properties(resources, "Function")
    agreed = {
        "Handler": "handler.lambda_handler",
        "Runtime": "python3.13",
        "Architectures": ["arm64"],
        "MemorySize": 256,
        "Timeout": 900,
        "TracingConfig": {"Mode": "PassThrough"},
    }
    assert {name: function[name] for name in agreed} == agreed
    assert "ReservedConcurrentExecutions" not in function
    assert properties(stack(template, ReservedConcurrency="2"), "Function")["ReservedConcurrentExecutions"] == "2"
    logging = function["LoggingConfig"]
    assert (logging["LogFormat"], logging["LogGroup"]) == ("JSON", f"/aws/lambda/{STACK}")
    assert properties(resources, "FunctionLogGroup")["RetentionInDays"] == "400"
    invoked = properties(resources, "FunctionEventInvokeConfig")
    assert (invoked["MaximumRetryAttempts"], invoked["MaximumEventAgeInSeconds"]) == (1, 3600)


def the_environment_is_settings_that_exist(template: Template) -> None:
    pin = "ab" * 32
    variables = properties(stack(template, PublicKey=pin), "Function")["Environment"]["Variables"]
    ours = {name for name in variables if not name.startswith("POWERTOOLS_")}
    assert ours <= {setting.name for setting in SETTINGS}
    settings = read_settings({**variables, "AWS_REGION": REGION})
    assert (settings.provider, settings.prefix, settings.public_key) == ("aws", PREFIX, pin)
    assert settings.aws_kms_key_id == KEY
    bucket = BUCKET.rpartition(":")[2]
    assert aws_ledger.split_url(settings.manifest_url) == (bucket, "manifests")
    assert aws_ledger.split_url(settings.policy) == (bucket, "policy/daena-kms.toml")
    assert settings.tick.total_seconds() == 3600, "the default schedule"


def the_outputs_say_where_everything_is(template: Template) -> None:
    outputs = Resolver(template, {}).outputs()
    assert outputs["FunctionName"] == STACK
    assert outputs["KeyArn"] == KEY
    assert outputs["AlarmTopicArn"] == TOPIC
    assert outputs["BucketName"] == BUCKET.rpartition(":")[2]
    for name in ("FunctionRoleArn", "SchedulerRoleArn", "ReaderPolicyArn"):
        assert outputs[name].startswith(f"arn:{PARTITION}:iam::{ACCOUNT}:")
    [payload] = re.findall(r"fileb://(\S+)", outputs["InvokeCommand"])
    assert (ROOT / payload).is_file()
    assert f"--function-name {STACK} " in outputs["InvokeCommand"]


DEMANDS: list[Callable[[Template], None]] = [
    the_wrapping_key_outlives_the_stack,
    the_wrapping_key_is_left_to_the_accounts_policies,
    the_bucket_keeps_every_version_for_good,
    the_bucket_is_nobody_elses,
    objects_are_locked_when_asked_for_and_only_then,
    manifests_are_created_only,
    nothing_is_reached_without_tls,
    the_function_wraps_for_its_own_keys_only,
    the_function_keeps_its_own_secrets_only,
    readers_get_nothing_that_is_reserved,
    readers_read_by_stage,
    everybody_may_what_is_listed_here_and_no_more,
    roles_have_no_policies_from_elsewhere,
    roles_trust_their_service_only,
    both_dead_letter_paths_end_in_a_queue_of_their_own,
    every_trouble_has_an_alarm,
    no_run_for_two_ticks_is_an_alarm,
    the_topic_takes_this_accounts_alarms_only,
    the_schedule_asks_every_hour_and_gives_up_after_one,
    no_run_comes_before_the_bucket_is_guarded,
    the_function_is_what_was_agreed,
    the_environment_is_settings_that_exist,
    the_outputs_say_where_everything_is,
]


@pytest.mark.parametrize("demand", DEMANDS, ids=lambda demand: demand.__name__)
def test_the_template_meets(demand: Callable[[Template], None]) -> None:
    demand(shipped())


def test_what_the_store_and_the_ledger_need_is_what_the_function_may() -> None:
    needed = {
        permission
        for table in (aws.REQUIRED_PERMISSIONS, aws_ledger.REQUIRED_PERMISSIONS)
        for permissions in table.values()
        for permission in permissions
    }
    runtime = ("logs:", "sqs:")
    assert {action for action, _ in FUNCTION_MAY if not action.startswith(runtime)} == needed


# --- parameters


def accepts(parameter: str, value: str) -> bool:
    """Whether CloudFormation would take the value."""
    rule = parameters(shipped())[parameter]
    if "AllowedValues" in rule and value not in map(str, rule["AllowedValues"]):
        return False
    if "MinValue" in rule and not rule["MinValue"] <= int(value) <= rule["MaxValue"]:
        return False
    return len(value) <= rule.get("MaxLength", 4096) and bool(re.fullmatch(rule.get("AllowedPattern", ".*"), value))


def setting_accepts(name: str, value: str) -> bool:
    [setting] = [setting for setting in SETTINGS if setting.name == name]
    try:
        setting.read(value)
    except ConfigurationError:
        return False
    return True


GOOD_PREFIXES = ["daena-", "a-", "team-1-", "x" * 63 + "-"]
BAD_PREFIXES = ["", "daena", "reserved-", "reserved-x-", "a--", "-a-", "A-", "a_b-", "a-*", "x" * 64 + "-"]


@pytest.mark.parametrize("prefix", GOOD_PREFIXES + BAD_PREFIXES)
def test_a_prefix_that_the_template_takes_is_one_that_the_code_takes(prefix: str) -> None:
    """Not the other way round: without a hyphen at its end a prefix is a trap in a policy."""
    assert accepts("KeyPrefix", prefix) == (prefix in GOOD_PREFIXES)
    assert accepts("KeyPrefix", prefix) == (prefix.endswith("-") and setting_accepts("DAENA_KEY_PREFIX", prefix))


def test_no_prefix_reaches_what_is_reserved() -> None:
    reserved = names.secret_name(PREFIX, RESERVED_KEY)
    for end in range(1, len(reserved)):
        if accepts("KeyPrefix", reserved[:end]):
            pytest.fail(f"with the prefix {reserved[:end]!r} readers could read {reserved}")


@pytest.mark.parametrize("value", ["0", "1", "60", "64800", "64801"])
def test_a_tick_that_the_template_takes_is_one_that_the_code_takes(value: str) -> None:
    assert accepts("TickMinutes", value) == setting_accepts("DAENA_TICK_MINUTES", value)


@pytest.mark.parametrize("value", ["", "ab" * 32, "AB" * 32, "ab" * 31, "zz" * 32, "ab" * 33])
def test_a_pin_that_the_template_takes_is_one_that_the_code_takes(value: str) -> None:
    assert accepts("PublicKey", value) == setting_accepts("DAENA_PUBLIC_KEY", value)


def test_a_late_start_leaves_time_for_the_run() -> None:
    slack_minutes = read_settings({}).slack.total_seconds() / 60
    assert parameters(shipped())["FlexibleWindowMinutes"]["MaxValue"] <= slack_minutes - 10


@pytest.mark.parametrize(
    ("schedule", "minutes", "refused"),
    [
        ("rate(1 hour)", "60", False),
        ("cron(0 * * * ? *)", "60", False),
        ("rate(1 day)", "1440", False),
        ("cron(0 0 1 * ? *)", "44640", False),
        ("rate(1 day)", "60", True),
        ("cron(0 0 1 */3 ? *)", "60", True),
    ],
)
def test_a_slower_schedule_is_refused_while_the_tick_is_said_to_be_hourly(
    schedule: str, minutes: str, refused: bool
) -> None:
    chosen = {"ScheduleExpression": schedule, "TickMinutes": minutes}
    assert bool(Resolver(shipped(), chosen).refusals()) == refused


def test_the_quarterly_schedule_needs_more_than_the_longest_tick() -> None:
    """What the template says about the guide's cron is arithmetic on the code's own limit."""
    text = SOURCE.read_text()
    longest_gap = 92 * 24 * 60
    assert str(longest_gap) in text
    assert not accepts("TickMinutes", str(longest_gap))
    assert accepts("TickMinutes", str(31 * 24 * 60))
    assert str(31 * 24 * 60) in text


# --- all of this would notice

Plant = Callable[[Template], None]
# A demand asserts; or it does not find the statement or the property that it looks for.
FALLS_SHORT = (AssertionError, KeyError, ValueError)


def of(template: Template, name: str) -> dict[str, Any]:
    found: dict[str, Any] = template["Resources"][name]["Properties"]
    return found


def statement_of(template: Template, name: str, sid: str) -> dict[str, Any]:
    """A statement, unresolved, by its Sid."""
    place = of(template, name)
    document = place["Policies"][0]["PolicyDocument"] if "Policies" in place else place["PolicyDocument"]
    [found] = [s for s in document["Statement"] if s.get("Sid") == sid]
    wanted: dict[str, Any] = found
    return wanted


def drop(template: Template, name: str, sid: str) -> None:
    document = of(template, name)["PolicyDocument"]
    document["Statement"] = [s for s in document["Statement"] if s["Sid"] != sid]


def _versioning_off(t: Template) -> None:
    of(t, "ManifestBucket")["VersioningConfiguration"]["Status"] = "Suspended"


def _old_versions_expire(t: Template) -> None:
    rule = {"Id": "tidy", "Status": "Enabled", "NoncurrentVersionExpiration": {"NoncurrentDays": 30}}
    of(t, "ManifestBucket")["LifecycleConfiguration"] = {"Rules": [rule]}


def _bucket_goes_with_the_stack(t: Template) -> None:
    t["Resources"]["ManifestBucket"]["DeletionPolicy"] = "Delete"


def _public_policies_allowed(t: Template) -> None:
    of(t, "ManifestBucket")["PublicAccessBlockConfiguration"]["BlockPublicPolicy"] = False


def _locked_by_default(t: Template) -> None:
    t["Parameters"]["ObjectLockDays"]["Default"] = 30


def _never_locked(t: Template) -> None:
    del of(t, "ManifestBucket")["ObjectLockConfiguration"]


def _overwriting_allowed(t: Template) -> None:
    drop(t, "ManifestBucketPolicy", "DenyOverwritingManifests")


def _overwriting_denied_the_wrong_way_round(t: Template) -> None:
    deny = statement_of(t, "ManifestBucketPolicy", "DenyOverwritingManifests")
    deny["Condition"] = {"Null": {"s3:if-none-match": "false"}}


def _only_a_part_is_guarded(t: Template) -> None:
    deny = statement_of(t, "ManifestBucketPolicy", "DenyDeletingManifests")
    deny["Resource"] = {"Fn::Sub": "${ManifestBucket.Arn}/manifests/reserved*"}


def _one_may_delete(t: Template) -> None:
    deny = statement_of(t, "ManifestBucketPolicy", "DenyDeletingManifests")
    deny["Condition"] = {"ArnNotLike": {"aws:PrincipalArn": "arn:aws:iam::123456789012:role/admin"}}


def _objects_without_tls(t: Template) -> None:
    deny = statement_of(t, "ManifestBucketPolicy", "DenyInsecureTransport")
    deny["Resource"] = {"Fn::GetAtt": ["ManifestBucket", "Arn"]}


def _queue_without_tls(t: Template) -> None:
    of(t, "FailedRunsPolicy")["PolicyDocument"]["Statement"][0]["Condition"]["Bool"]["aws:SecureTransport"] = "true"


def _key_is_not_rotated(t: Template) -> None:
    of(t, "WrappingKey")["EnableKeyRotation"] = False


def _key_goes_with_the_stack(t: Template) -> None:
    t["Resources"]["WrappingKey"]["DeletionPolicy"] = "Delete"


def _key_admits_everybody(t: Template) -> None:
    of(t, "WrappingKey")["KeyPolicy"]["Statement"][0]["Principal"] = "*"


def _no_context_asked_for(t: Template) -> None:
    statement_of(t, "FunctionRole", "WrapAndUnwrapMaterial")["Condition"] = {
        "StringLike": {"kms:EncryptionContext:daena-kms:key": "*"}
    }


def _context_may_be_missing(t: Template) -> None:
    condition = statement_of(t, "FunctionRole", "WrapAndUnwrapMaterial")["Condition"]
    condition["StringLikeIfExists"] = condition.pop("StringLike")


def _context_under_another_name(t: Template) -> None:
    condition = statement_of(t, "ReaderPolicy", "UnwrapMaterial")["Condition"]["StringLike"]
    condition["kms:EncryptionContext:daena-kms-key"] = condition.pop(CONTEXT)


def _readers_unwrap_what_is_reserved(t: Template) -> None:
    statement_of(t, "ReaderPolicy", "UnwrapMaterial")["Condition"]["StringLike"][CONTEXT] = [
        {"Fn::Sub": "${KeyPrefix}*"},
        "reserved--*",
    ]


def _readers_read_what_is_reserved(t: Template) -> None:
    statement_of(t, "ReaderPolicy", "ReadKeysByStage")["Resource"] = {
        "Fn::Sub": "arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}:secret:*${KeyPrefix}*"
    }


def _readers_read_by_id(t: Template) -> None:
    del statement_of(t, "ReaderPolicy", "ReadKeysByStage")["Condition"]["Null"]


def _readers_must_name_a_stage(t: Template) -> None:
    condition = statement_of(t, "ReaderPolicy", "ReadKeysByStage")["Condition"]
    condition["StringLike"] = condition.pop("StringLikeIfExists")


def _readers_read_what_is_staged(t: Template) -> None:
    condition = statement_of(t, "ReaderPolicy", "ReadKeysByStage")["Condition"]["StringLikeIfExists"]
    condition["secretsmanager:VersionStage"].append("d*")


def _function_deletes_secrets(t: Template) -> None:
    statement_of(t, "FunctionRole", "KeepKeys")["Action"].append("secretsmanager:DeleteSecret")


def _function_uses_any_key(t: Template) -> None:
    statement_of(t, "FunctionRole", "WrapAndUnwrapMaterial")["Resource"] = "*"


def _function_cannot_make_its_first_secret(t: Template) -> None:
    resources = statement_of(t, "FunctionRole", "KeepKeys")["Resource"]
    resources[:] = [resource for resource in resources if not resource["Fn::Sub"].endswith("manifest-keys")]


def _function_keeps_foreign_secrets(t: Template) -> None:
    resources = statement_of(t, "FunctionRole", "KeepKeys")["Resource"]
    resources[0] = {"Fn::Sub": resources[0]["Fn::Sub"].replace("${KeyPrefix}*", "*")}


def _managed_policy_on_a_role(t: Template) -> None:
    of(t, "FunctionRole")["ManagedPolicyArns"] = ["arn:aws:iam::aws:policy/SecretsManagerReadWrite"]


def _any_schedule_may_use_the_role(t: Template) -> None:
    [trust] = of(t, "SchedulerRole")["AssumeRolePolicyDocument"]["Statement"]
    del trust["Condition"]["StringEquals"]["aws:SourceArn"]


def _any_account_may_use_the_role(t: Template) -> None:
    [trust] = of(t, "SchedulerRole")["AssumeRolePolicyDocument"]["Statement"]
    del trust["Condition"]


def _no_dead_letters_of_the_scheduler(t: Template) -> None:
    of(t, "Schedule")["Target"]["DeadLetterConfig"]["Arn"] = {"Fn::GetAtt": ["FailedRuns", "Arn"]}


def _dead_letters_are_kept_four_days(t: Template) -> None:
    of(t, "FailedRuns")["MessageRetentionPeriod"] = 345_600


def _nobody_hears_of_overdue_keys(t: Template) -> None:
    del t["Resources"]["KeyOverdueAlarm"]


def _an_alarm_tells_nobody(t: Template) -> None:
    of(t, "RunFailedAlarm")["AlarmActions"] = []


def _an_alarm_looks_elsewhere(t: Template) -> None:
    of(t, "KeyStuckAlarm")["Dimensions"][0]["Value"] = "daena"


def _silence_is_fine(t: Template) -> None:
    of(t, "NoRunAlarm")["TreatMissingData"] = "notBreaching"


def _silence_is_noticed_late(t: Template) -> None:
    t["Parameters"]["NoRunPeriods"]["Default"] = 24


def _anybodys_alarms(t: Template) -> None:
    del statement_of(t, "AlarmTopicPolicy", "LetAlarmsPublish")["Condition"]


def _tick_does_not_match(t: Template) -> None:
    t["Parameters"]["TickMinutes"]["Default"] = 1440


def _misspelt_setting(t: Template) -> None:
    variables = of(t, "Function")["Environment"]["Variables"]
    variables["DAENA_PREFIX"] = variables.pop("DAENA_KEY_PREFIX")


def _scheduled_before_guarded(t: Template) -> None:
    t["Resources"]["Schedule"]["DependsOn"].remove("ManifestBucketPolicy")


def _logs_as_text(t: Template) -> None:
    of(t, "Function")["LoggingConfig"]["LogFormat"] = "Text"


FAULTS: list[tuple[Plant, Callable[[Template], None]]] = [
    (_versioning_off, the_bucket_keeps_every_version_for_good),
    (_old_versions_expire, the_bucket_keeps_every_version_for_good),
    (_bucket_goes_with_the_stack, the_bucket_keeps_every_version_for_good),
    (_public_policies_allowed, the_bucket_is_nobody_elses),
    (_locked_by_default, objects_are_locked_when_asked_for_and_only_then),
    (_never_locked, objects_are_locked_when_asked_for_and_only_then),
    (_overwriting_allowed, manifests_are_created_only),
    (_overwriting_denied_the_wrong_way_round, manifests_are_created_only),
    (_only_a_part_is_guarded, manifests_are_created_only),
    (_one_may_delete, manifests_are_created_only),
    (_objects_without_tls, nothing_is_reached_without_tls),
    (_queue_without_tls, nothing_is_reached_without_tls),
    (_key_is_not_rotated, the_wrapping_key_outlives_the_stack),
    (_key_goes_with_the_stack, the_wrapping_key_outlives_the_stack),
    (_key_admits_everybody, the_wrapping_key_is_left_to_the_accounts_policies),
    (_no_context_asked_for, the_function_wraps_for_its_own_keys_only),
    (_context_may_be_missing, the_function_wraps_for_its_own_keys_only),
    (_context_under_another_name, readers_get_nothing_that_is_reserved),
    (_readers_unwrap_what_is_reserved, readers_get_nothing_that_is_reserved),
    (_readers_read_what_is_reserved, readers_get_nothing_that_is_reserved),
    (_readers_read_by_id, readers_read_by_stage),
    (_readers_must_name_a_stage, readers_read_by_stage),
    (_readers_read_what_is_staged, readers_read_by_stage),
    (_function_deletes_secrets, everybody_may_what_is_listed_here_and_no_more),
    (_function_uses_any_key, everybody_may_what_is_listed_here_and_no_more),
    (_function_cannot_make_its_first_secret, the_function_keeps_its_own_secrets_only),
    (_function_keeps_foreign_secrets, the_function_keeps_its_own_secrets_only),
    (_managed_policy_on_a_role, roles_have_no_policies_from_elsewhere),
    (_any_schedule_may_use_the_role, roles_trust_their_service_only),
    (_any_account_may_use_the_role, roles_trust_their_service_only),
    (_no_dead_letters_of_the_scheduler, both_dead_letter_paths_end_in_a_queue_of_their_own),
    (_dead_letters_are_kept_four_days, both_dead_letter_paths_end_in_a_queue_of_their_own),
    (_nobody_hears_of_overdue_keys, every_trouble_has_an_alarm),
    (_an_alarm_tells_nobody, every_trouble_has_an_alarm),
    (_an_alarm_looks_elsewhere, every_trouble_has_an_alarm),
    (_silence_is_fine, no_run_for_two_ticks_is_an_alarm),
    (_silence_is_noticed_late, no_run_for_two_ticks_is_an_alarm),
    (_anybodys_alarms, the_topic_takes_this_accounts_alarms_only),
    (_tick_does_not_match, the_environment_is_settings_that_exist),
    (_scheduled_before_guarded, no_run_comes_before_the_bucket_is_guarded),
    (_logs_as_text, the_function_is_what_was_agreed),
    (_misspelt_setting, the_environment_is_settings_that_exist),
]


@pytest.mark.parametrize(("plant", "demand"), FAULTS, ids=[plant.__name__.strip("_") for plant, _ in FAULTS])
def test_a_planted_fault_is_noticed(plant: Plant, demand: Callable[[Template], None]) -> None:
    template = shipped()
    plant(template)
    assert template != shipped(), "nothing was planted"
    with pytest.raises(FALLS_SHORT):
        demand(template)


MISTAKES = [
    ("secretsmanager:PutSecretValue", "secretsmanager:PutSecretValues", policy_findings, "UNKNOWN_ACTION"),
    ("kms:EncryptionContext:daena", "kms:EncryptionContexts:daena", policy_findings, "UNKNOWN_CONDITION"),
    ("Action: secretsmanager:ListSecrets", "Action: s3:ListBucket", policy_findings, "RESOURCE_STAR"),
    ("EnableKeyRotation: true", "EnableKeyRotations: true", lint_findings, "E3002"),
    ("GetAtt FailedRuns.QueueName", "GetAtt FailedRuns.Name", lint_findings, "E1010"),
    ('Mode: "OFF"', 'Mode: "NEVER"', lint_findings, "E3030"),
    ("MessageRetentionPeriod: 1209600", "MessageRetentionPeriod: 9999999", lint_findings, "E3034"),
]


@pytest.mark.parametrize("findings", [lint_findings, policy_findings])
def test_planted_mistakes_are_found_by_the_tool_for_them(findings: Callable[[Template], list[str]]) -> None:
    text, expected = SOURCE.read_text(), set()
    for right, wrong, by, code in MISTAKES:
        if by is findings:
            assert right in text
            text = text.replace(right, wrong)
            expected.add(code)
    found = " ".join(findings(transformed(text)))
    assert {code for code in expected if code in found} == expected
