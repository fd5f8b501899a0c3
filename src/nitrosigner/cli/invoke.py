"""
`nitrosigner invoke`: run a Lambda handler here, against a local stack.

The handler is the one that is deployed. Only what AWS would give it comes from the
stack's folder: its configuration, its role's credentials, the address of KMS.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from nitrosigner.cli.connection import Connection, emulated_root, signer_options
from nitrosigner.cli.output import json_text, report
from nitrosigner.client.bounded_json import RepeatedName, read_json
from nitrosigner.client.local_stack import LocalStack
from nitrosigner.verdicts import Code, Malformed, Undecided, Verdict
from nitrosigner.wire import api

if TYPE_CHECKING:
    from nitrosigner.untrusted.gateway.configuration import Configuration
    from nitrosigner.untrusted.gateway.validator import Validator
    from nitrosigner.untrusted.gateway.wallet import Kms, Wallet

MAX_EVENT: Final = 6 << 20
"""Bytes: Lambda's own limit for a synchronous call."""
PRINCIPALS: Final = Path("kms/principals.json")
ROLE: Final = "gateway"


class _Principal(msgspec.Struct, frozen=True):
    access_key_id: str
    secret_access_key: str
    session_token: str | None = None


class _Principals(msgspec.Struct, frozen=True):
    region: str
    principals: dict[str, _Principal]


@click.group()
def invoke() -> None:
    """Run a Lambda handler here, against a local stack."""


@invoke.command()
@click.option("--key-name", default="default", show_default=True, metavar="NAME")
@signer_options()
@click.pass_context
def wallet(context: click.Context, connection: Connection, key_name: str) -> None:
    """
    Answer the wallet event that the standard input holds.

    For example {"operation": "create_key"}. What the function would return is printed
    as JSON; if it is an error, the exit code says which kind.
    """
    _answer(
        context, connection, lambda event: _wallet(connection, key_name).answer(event)
    )


@invoke.command()
@signer_options()
@click.pass_context
def validator(context: click.Context, connection: Connection) -> None:
    """
    Answer the validator event that the standard input holds.

    For example {"operation": "web3signer_public_keys"}. What the function would return
    is printed as JSON; if it is an error, the exit code says which kind.
    """
    _answer(context, connection, lambda event: _validator(connection).answer(event))


_EXAMPLES: Final = {
    "wallet": '{"operation":"status"}',
    "validator": '{"operation":"web3signer_status"}',
}


def _answer(
    context: click.Context, connection: Connection, handle: Callable[[Any], Any]
) -> None:
    event = _event(sys.stdin.buffer.read(MAX_EVENT + 1), str(context.info_name))
    try:
        result = handle(event)
    except Verdict as verdict:
        # On stdout as the function would return it, like any other answer.
        click.echo(json_text(api.error_body(verdict)))
        if not connection.output.as_json:
            report(verdict, as_json=False)
        context.exit(verdict.exit_code)
    click.echo(json_text(result))


def _event(data: bytes, job: str) -> Any:  # noqa: ANN401  # any JSON, as Lambda hands it over
    if len(data) > MAX_EVENT:
        raise Malformed(Code.TOO_LARGE, "the event is longer than Lambda takes")
    try:
        # 0.01 becomes the same float as in Lambda's runtime.
        return read_json(data)
    except RepeatedName:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            "a field stands twice in one object of the event",
            "give each field once; which of the two was meant, nobody can know",
        ) from None
    except ValueError:
        raise Malformed(
            Code.MALFORMED_JSON,
            "the standard input is not JSON",
            f"for example: echo '{_EXAMPLES[job]}' | nitrosigner invoke {job}",
        ) from None


def _wallet(connection: Connection, key_name: str) -> "Wallet":
    # boto3 takes half a second to import; only these commands need it.
    from nitrosigner.untrusted.gateway.wallet import Wallet

    stack = _stack(connection)
    configuration = _configuration(stack, key_name)
    return Wallet(configuration, connection.client(), kms=lambda: _kms(stack))


def _validator(connection: Connection) -> "Validator":
    from nitrosigner.cli.local_control import LocalWatchdog
    from nitrosigner.untrusted.gateway.validator import Validator

    stack = _stack(connection)
    control = LocalWatchdog(
        stack.folder / stack.described.control,
        f"is the stack running? start it with: nitrosigner up --data {stack.folder}",
    )
    return Validator(
        _configuration(stack), connection.client(), control=lambda: control
    )


def _stack(connection: Connection) -> LocalStack:
    stack = connection.stack()
    if stack is None:
        raise Malformed(
            Code.USAGE,
            "no local stack is named",
            "give --data DIR; start one with: nitrosigner up --data DIR",
        )
    return stack


def _configuration(stack: LocalStack, key_name: str = "default") -> "Configuration":
    from nitrosigner.untrusted.gateway.configuration import Configuration

    described = stack.described
    return Configuration(
        signer_url=stack.url,
        pcr0=frozenset({bytes.fromhex(described.pcr0)}),
        administrator=described.administrator,
        deployment=described.deployment,
        trust_root=emulated_root(stack).fingerprint,
        kms_key_arn=described.kms_key_arn,
        default_key=key_name,
    )


def _kms(stack: LocalStack) -> "Kms":
    import boto3

    from nitrosigner.untrusted.gateway.signer import quiet_aws_logs

    quiet_aws_logs()
    try:
        known = msgspec.json.decode(
            (stack.folder / PRINCIPALS).read_bytes(), type=_Principals
        )
        role = known.principals[ROLE]
    except (OSError, ValueError, KeyError):
        raise Undecided(
            Code.CREDENTIALS_UNAVAILABLE,
            f"{stack.folder / PRINCIPALS} has no credentials of the gateway",
            f"start the stack again: nitrosigner up --data {stack.folder}",
        ) from None
    client: Kms = boto3.client(
        "kms",
        region_name=known.region,
        endpoint_url=stack.described.kms_url,
        verify=stack.described.kms_ca,
        aws_access_key_id=role.access_key_id,
        aws_secret_access_key=role.secret_access_key,
        aws_session_token=role.session_token,
    )
    return client
