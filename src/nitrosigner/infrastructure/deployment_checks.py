"""
The steps from a deployed stack to a signer that signs, each looked at in its order.

A step that fails says what to do next; those that build on it are not looked at, so the
first failure in the list is the thing to do.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from nitrosigner.image.key_policy_lint import is_clean, lint
from nitrosigner.infrastructure.account import Account, Deployed
from nitrosigner.infrastructure.measured_image import DEBUG_REGISTER
from nitrosigner.infrastructure.outputs import Outputs
from nitrosigner.verdicts import Code, Refused, Undecided, Verdict
from nitrosigner.wire import manifest as manifests

CDK: Final = "npx aws-cdk@2.1148.1"
INSTANCE_TAG: Final = "nitrosigner:stack"
"""`infrastructure.fleet.TAG`, which needs the CDK."""
IN_SERVICE: Final = "InService"
WANTED_INSTANCES: Final = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """What one step's look came to."""

    step: str
    ok: bool
    sentence: str
    hint: str = ""


def check(
    stack: str, outputs: Outputs, account: Account, where: str
) -> Iterator[Finding]:
    """Look at each step of *stack*; *where* are the options that name it, for hints."""
    steps: tuple[tuple[str, Callable[[], str], bool], ...] = (
        ("account", lambda: f"as {account.identity()}", True),
        ("stack", lambda: _stack(stack, outputs, account), True),
        ("last change", lambda: _last_change(stack, outputs, account), False),
        ("key", lambda: _key(outputs, account), True),
        ("key policy", lambda: _key_policy(outputs, account), False),
        ("manifest", lambda: _manifest(outputs, account, where), True),
        ("started", lambda: _started(outputs, account), True),
        ("instances", lambda: _instances(stack, outputs, account), True),
        ("listeners", lambda: _listeners(outputs, account), False),
        ("alarms", lambda: _alarms(stack, account), False),
    )
    for name, look, needed in steps:
        try:
            yield Finding(name, ok=True, sentence=look())
        except Verdict as verdict:
            yield Finding(name, ok=False, sentence=verdict.message, hint=verdict.hint)
            if needed:
                return


def deployed(stack: str, region: str, account: Account) -> Deployed:
    """
    Return the stack, if it ever was complete.

    Raises:
        Undecided: It was not, or it is not there; the hint says what to do.
    """
    found = account.stack(stack)
    if found is None:
        raise Undecided(
            Code.NOT_READY,
            f"there is no stack {stack} in {region} for these credentials",
            f"deploy it: {CDK} deploy {stack} --outputs-file outputs.json; or use the "
            "credentials and the region that have it",
        )
    if found.status == "CREATE_IN_PROGRESS":
        raise Undecided(
            Code.NOT_READY,
            f"CloudFormation is making the stack ({found.status})",
            "ask again when it is done",
        )
    if found.status.startswith(("CREATE_", "ROLLBACK_", "DELETE_", "REVIEW_")) and (
        found.status != "CREATE_COMPLETE"
    ):
        raise Undecided(
            Code.NOT_READY,
            f"the stack is not there as a whole ({found.status})",
            f"see why: {_events(stack)}; then follow docs/operations/"
            'first-deployment.md, "When a deploy fails"',
        )
    return found


def _events(stack: str) -> str:
    return (
        f"aws cloudformation describe-stack-events --stack-name {stack} --output text "
        "--query \"StackEvents[?contains(ResourceStatus,'FAILED')]."
        '[LogicalResourceId,ResourceStatusReason]"'
    )


def _stack(stack: str, outputs: Outputs, account: Account) -> str:
    found = deployed(stack, outputs.region, account)
    written = msgspec.to_builtins(outputs)
    changed = sorted(
        name
        for name, value in written.items()
        if value and found.outputs.get(name, value) != value
    )
    if changed:
        raise Refused(
            Code.USAGE,
            "the stack was deployed since the outputs file was written: "
            f"{', '.join(changed)} differ",
            f"ask the stack itself: --stack {stack} --region {outputs.region}, without "
            "--outputs",
        )
    return found.status


def _last_change(stack: str, outputs: Outputs, account: Account) -> str:
    status = deployed(stack, outputs.region, account).status
    if status == "UPDATE_ROLLBACK_FAILED":
        raise Undecided(
            Code.NOT_READY,
            f"it failed, and so did taking it back ({status})",
            f"mend what this names: {_events(stack)}; then aws cloudformation "
            f"continue-update-rollback --stack-name {stack}",
        )
    if status.endswith("_IN_PROGRESS"):
        raise Undecided(
            Code.NOT_READY,
            f"CloudFormation is at work on it ({status})",
            "ask again later; an update waits for each new instance until it can sign",
        )
    if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        raise Undecided(
            Code.NOT_READY,
            f"it failed and was taken back ({status}); what was there before is there",
            f"see why: {_events(stack)}; then deploy again",
        )
    return "complete"


def _key(outputs: Outputs, account: Account) -> str:
    state = account.key_state(outputs.key_arn)
    if state != "Enabled":
        raise Refused(
            Code.KMS_REFUSED,
            f"the KMS key is {state}: no enclave boots; those that run go on signing",
            "as the key administrator: aws kms cancel-key-deletion (if it is pending), "
            f"then aws kms enable-key --key-id {outputs.key_arn}; and find out who did "
            "it: docs/operations/suspected-host-compromise.md",
        )
    return "enabled"


def _key_policy(outputs: Outputs, account: Account) -> str:
    text = account.key_policy(outputs.key_arn)
    hint = (
        "see docs/operations/key-policy.md; to restore it raise key_policy_revision in "
        "the settings and deploy the stack"
    )
    for value in (*outputs.admitted, outputs.administrator, outputs.deployment):
        if value not in text:
            raise Refused(
                Code.KMS_UNTRUSTED,
                "the key's policy is not the one that was deployed: it lacks "
                f"{value[:16]}…",
                hint,
            )
    if outputs.debug:
        return "DEBUG: opens for any debug enclave of this deployment"
    findings = lint(text)
    if DEBUG_REGISTER in text or not is_clean(findings):
        raise Refused(
            Code.KMS_UNTRUSTED,
            "the key's policy has holes",
            f"aws kms get-key-policy --key-id {outputs.key_arn} --query Policy "
            "--output text > policy.json; nitrosigner kms lint policy.json",
        )
    return f"locked to {len(outputs.admitted)} measured image(s)"


def check_manifest(outputs: Outputs, signed: bytes) -> manifests.AcceptedManifest:
    """
    Return the manifest if enclaves of this stack can boot with it.

    Raises:
        Malformed: It is none.
        Refused: It is somebody else's, or for something else.
    """
    accepted = manifests.accept(signed)
    found = accepted.manifest
    for what, value, wanted in (
        ("administrator", accepted.administrator, outputs.administrator),
        ("deployment", found.deployment, outputs.deployment),
        ("KMS key", found.aws.kms_key_arn, outputs.key_arn),
    ):
        if value != wanted:
            raise Refused(
                Code.MANIFEST_UNTRUSTED,
                f"the manifest's {what} is {value}, the stack's is {wanted}: KMS would "
                "refuse its enclaves",
                "sign one for this stack",
            )
    if outputs.host not in found.tls_names:
        raise Refused(
            Code.MANIFEST_UNTRUSTED,
            f"the manifest's tls_names lack {outputs.host}: callers would refuse the "
            "certificate",
            "add it and sign again",
        )
    if found.aws.kms_certificate_authorities:
        raise Refused(
            Code.MANIFEST_UNTRUSTED,
            "the manifest names certificate authorities for KMS, as only local stacks "
            "need",
            "leave kms_certificate_authorities out",
        )
    return accepted


def _manifest(outputs: Outputs, account: Account, where: str) -> str:
    found = account.manifest(outputs)
    if found is None:
        raise Undecided(
            Code.NOT_READY,
            "no manifest is published: enclaves wait for one",
            f"nitrosigner deploy publish-manifest {where} MANIFEST; see "
            "docs/operations/key-ceremony.md",
        )
    accepted = check_manifest(outputs, found[0])
    return f"version {accepted.manifest.version}, digest {accepted.digest[:16]}…"


def _started(outputs: Outputs, account: Account) -> str:
    if not account.initialised(outputs.init_flag):
        raise Undecided(
            Code.NOT_READY,
            "the stack was not started: instances wait for the flag",
            f"aws ssm put-parameter --overwrite --name {outputs.init_flag} "
            "--value true",
        )
    return "the flag says true"


def _instances(stack: str, outputs: Outputs, account: Account) -> str:
    found = account.instances(outputs.group)
    serving = [
        one
        for one in found
        if one.lifecycle == IN_SERVICE and one.health.lower() == "healthy"
    ]
    if len(serving) < WANTED_INSTANCES:
        states = ", ".join(f"{one.name} {one.lifecycle}" for one in found)
        log = f"aws logs tail /nitrosigner/{stack}"
        hint = (
            f"one that waits says why: {log}/lifecycle --since 1h; its enclave: "
            f"{log}/parent --since 1h; what runs on it: aws ssm send-command "
            f"--document-name {outputs.status_document} --targets "
            f"Key=tag:{INSTANCE_TAG},Values={stack}"
        )
        if not found:
            hint = (
                "aws autoscaling describe-scaling-activities --auto-scaling-group-name "
                f"{outputs.group} --max-items 5; what installing came to: "
                f"{log}/installation --since 3h"
            )
        raise Undecided(
            Code.NOT_READY,
            f"{len(serving)} of {WANTED_INSTANCES} instances serve: "
            f"{states or 'there is none'}",
            hint,
        )
    return f"{len(serving)} serve"


def _listeners(outputs: Outputs, account: Account) -> str:
    if outputs.alarm_topic is None:
        return "these outputs name no topic"
    confirmed = account.listeners(outputs.alarm_topic)
    if confirmed < 1:
        raise Undecided(
            Code.NOT_READY,
            "nobody hears the alarms: the topic has no confirmed subscription",
            f"aws sns subscribe --topic-arn {outputs.alarm_topic} --protocol email "
            "--notification-endpoint ADDRESS; and confirm it",
        )
    return f"{confirmed} hear the alarms"


def _alarms(stack: str, account: Account) -> str:
    names = account.alarms(stack)
    if names:
        raise Undecided(
            Code.NOT_READY,
            f"in alarm: {', '.join(names)}",
            "each alarm's description says what it means",
        )
    return "none"
