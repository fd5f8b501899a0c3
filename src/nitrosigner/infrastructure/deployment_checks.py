"""
The steps from a deployed stack to a signer that signs, each looked at in its order.

A step that fails says what to do next; those that build on it are not looked at, so the
first failure in the list is the thing to do.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from nitrosigner.image.key_policy_lint import is_clean, lint
from nitrosigner.infrastructure.account import Account
from nitrosigner.infrastructure.measured_image import DEBUG_REGISTER
from nitrosigner.infrastructure.outputs import Outputs
from nitrosigner.verdicts import Code, Refused, Undecided, Verdict
from nitrosigner.wire import manifest as manifests

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
    stack: str, outputs: Outputs, account: Account, file: str
) -> Iterator[Finding]:
    """Look at each step of *stack*; *file* is the outputs file, for the hints."""
    steps: tuple[tuple[str, Callable[[], str], bool], ...] = (
        ("account", lambda: f"as {account.identity()}", True),
        ("key policy", lambda: _key_policy(outputs, account), False),
        ("manifest", lambda: _manifest(stack, outputs, account, file), True),
        ("started", lambda: _started(outputs, account), True),
        ("instances", lambda: _instances(outputs, account), True),
        ("alarms", lambda: _alarms(stack, account), False),
    )
    for name, look, needed in steps:
        try:
            yield Finding(name, ok=True, sentence=look())
        except Verdict as verdict:
            yield Finding(name, ok=False, sentence=verdict.message, hint=verdict.hint)
            if needed:
                return


def _key_policy(outputs: Outputs, account: Account) -> str:
    text = account.key_policy(outputs.key_arn)
    hint = "see docs/operations/key-policy.md; deploy the stack again to restore it"
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


def _manifest(stack: str, outputs: Outputs, account: Account, file: str) -> str:
    found = account.manifest(outputs)
    if found is None:
        raise Undecided(
            Code.NOT_READY,
            "no manifest is published: enclaves wait for one",
            f"nitrosigner deploy publish-manifest --outputs {file} --stack {stack} "
            "MANIFEST; see docs/operations/key-ceremony.md",
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


def _instances(outputs: Outputs, account: Account) -> str:
    found = account.instances(outputs.group)
    serving = [
        one
        for one in found
        if one.lifecycle == IN_SERVICE and one.health.lower() == "healthy"
    ]
    if len(serving) < WANTED_INSTANCES:
        states = ", ".join(f"{one.name} {one.lifecycle}" for one in found)
        raise Undecided(
            Code.NOT_READY,
            f"{len(serving)} instance(s) serve: {states or 'there is none'}",
            "Pending:Wait waits for its enclave: look at it with the Status document, "
            "and into the log group lifecycle and parent",
        )
    return f"{len(serving)} serve"


def _alarms(stack: str, account: Account) -> str:
    names = account.alarms(stack)
    if names:
        raise Undecided(
            Code.NOT_READY,
            f"in alarm: {', '.join(names)}",
            "each alarm's description says what it means",
        )
    return "none"
