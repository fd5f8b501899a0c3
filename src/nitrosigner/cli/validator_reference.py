"""
`nitrosigner validators import-reference`: keys out of the AWS reference's table.

Each item goes as it lies there, encrypted by KMS, to the enclave, which alone may open
it. What is left out is said with its reason: no key is silently missing afterwards.
"""

import base64
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from nitrosigner.cli import interchange_file, progress
from nitrosigner.cli.confirmation import confirm
from nitrosigner.cli.connection import Connection, signer_options
from nitrosigner.cli.interchange_file import History
from nitrosigner.cli.slashing_history import chain_of, read_file, send
from nitrosigner.client.import_validator import validator_name
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.trusted.signing.beacon_networks import PUBLIC_NETWORKS
from nitrosigner.trusted.signing.slashing import Watermark
from nitrosigner.verdicts import Code, Malformed, Refused, Verdict
from nitrosigner.wire import validator_api as wire

if TYPE_CHECKING:
    from nitrosigner.untrusted.gateway.reference_tables import (
        DynamoDb,
        LeftOut,
        ReferenceValidator,
    )

PARALLEL: Final = 8
"""Items on their way to the enclave, which asks KMS and runs a KDF for each."""
REFUSED_AT_FIRST: Final = 3
"""Items that KMS must not open for the enclave before we give up."""
SHOWN: Final = 20
"""Items that are named one by one to a person."""
_OF_ONE_ITEM: Final = frozenset(
    {Code.WRONG_PASSWORD, Code.KEY_MISMATCH, Code.KMS_REFUSED}
)


@dataclass
class Outcome:
    """What became of a table's items."""

    left_out: list["LeftOut"]
    already: list[str]
    imported: list[str] = field(default_factory=list)
    failed: list[tuple[str, Verdict]] = field(default_factory=list)
    histories: int = 0

    @property
    def exit_code(self) -> int:
        """0, or that of the worst failure."""
        return max((verdict.exit_code for _, verdict in self.failed), default=0)

    def described(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "imported": sorted(self.imported),
            "already_here": sorted(self.already),
            "failed": [
                {"public_key": name, "code": verdict.code, "message": verdict.message}
                for name, verdict in self.failed
            ],
            "left_out": [
                {"public_key": one.public_key, "reason": one.reason}
                for one in self.left_out
            ],
            "histories": self.histories,
        }


@click.command("import-reference")
@click.option("--table", required=True, metavar="NAME", help="The DynamoDB table.")
@click.option(
    "--stack",
    required=True,
    metavar="UUID",
    help="Whose keys: the items' web3signer_uuid, a CloudFormation stack's id.",
)
@click.option(
    "--chain", required=True, metavar="NAME", help="Which of them: the items' chain."
)
@click.option("--region", metavar="NAME", help="Of the table; else AWS's own setting.")
@click.option(
    "--endpoint", metavar="URL", help="Of another DynamoDB than the region's."
)
@click.option(
    "--slashing-history",
    "history_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="What they have signed: an interchange file (EIP-3076).",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@signer_options()
@click.pass_context
def import_reference(
    context: click.Context,
    *,
    connection: Connection,
    table: str,
    stack: str,
    chain: str,
    region: str | None,
    endpoint: str | None,
    history_file: Path | None,
    yes: bool,
) -> None:
    """
    Bring in the validators that the AWS reference keeps in its DynamoDB table.

    They stay encrypted until they are inside the enclave, which drops their mnemonics.
    Keys that are switched off there, or for another chain, are left out and named.

    The reference signs without slashing protection and has no history to give: stop it
    first, and give --slashing-history with what the validator clients export.

    This command reads the table with your AWS credentials. The enclave opens the items:
    the policy of the key that they are encrypted with must admit it, and the manifest
    name that key (validators.reference_kms_key_arn) if it is not the deployment's own.
    """
    with connection.client() as client:
        here = {key.name for key in client.list_validators() if key.state != "deleted"}
        root = _chain(client, chain, needed=history_file is not None)
        past: Mapping[bytes, Watermark] = {}
        if history_file is not None:
            past = read_file(connection, history_file, root).reached
        items, left_out = _read(_dynamodb(region, endpoint), table, stack, chain)
        wanted = [one for one in items if validator_name(one.public_key) not in here]
        outcome = Outcome(
            left_out,
            already=[
                name
                for name in (validator_name(one.public_key) for one in items)
                if name in here
            ],
        )
        _say_first(connection, outcome, wanted, past, yes=yes)
        # They may have signed elsewhere since they came, or came without a history.
        theirs = {
            one.public_key: past[one.public_key]
            for one in items
            if one.public_key in past and validator_name(one.public_key) in here
        }
        if theirs:
            outcome.histories = send(connection, client, History(theirs, 0, 0), root)
        unused = len(past.keys() - {one.public_key for one in items})
        if unused:
            connection.output.say(
                f"the history of {unused} other validators is not used; "
                "nitrosigner slashing-history import takes it too"
            )
        _import_all(connection, _Import(client, past, root), wanted, outcome)
    _report(connection, outcome)
    context.exit(outcome.exit_code)


@dataclass(frozen=True)
class _Import:
    client: SignerClient
    past: Mapping[bytes, Watermark]
    chain: bytes

    def one(self, item: "ReferenceValidator") -> bool:
        """Import one; return whether it had a past."""
        history = None
        if item.public_key in self.past:
            history = interchange_file.document(
                {item.public_key: self.past[item.public_key]}, self.chain
            )
        self.client.import_reference_validator(
            wire.ImportReference(
                public_key=validator_name(item.public_key),
                ciphertext=base64.b64encode(item.ciphertext).decode(),
                history=history,
            )
        )
        return history is not None


def _chain(client: SignerClient, name: str, *, needed: bool) -> bytes:
    """Return the signer's chain; refuse if *name* is known to be another."""
    try:
        root = chain_of(client)
    except Refused as refusal:
        if needed or refusal.code is not Code.NOT_ALLOWED:
            raise
        return b""  # who may import keys need not be shown histories
    network = PUBLIC_NETWORKS.get(name.lower())
    if network is not None and network.genesis_validators_root != root:
        raise Refused(
            Code.WRONG_CHAIN,
            f"the signer signs for another chain than {name}",
            "import into the deployment whose manifest names that chain",
        )
    return root


def _dynamodb(region: str | None, endpoint: str | None) -> "DynamoDb":
    # boto3 takes half a second to import; only this command needs it.
    import boto3
    from botocore.exceptions import BotoCoreError

    from nitrosigner.untrusted.gateway.reference_tables import reference_client

    try:
        where = region or boto3.session.Session().region_name
        if where is not None:
            return reference_client(where, endpoint)
    except (BotoCoreError, ValueError):
        raise Malformed(
            Code.USAGE,
            "AWS's settings, the region or the endpoint cannot be used",
            "check --region, --endpoint and AWS_PROFILE",
        ) from None
    raise Malformed(Code.USAGE, "no AWS region is named", "give --region NAME")


def _read(
    dynamodb: "DynamoDb", table: str, stack: str, chain: str
) -> tuple[list["ReferenceValidator"], list["LeftOut"]]:
    from nitrosigner.untrusted.gateway.reference_tables import (
        ReferenceValidator,
        read_validators,
        stacks,
    )

    items: list[ReferenceValidator] = []
    left_out: list[LeftOut] = []
    for one in read_validators(dynamodb, table, stack=stack, chain=chain):
        if isinstance(one, ReferenceValidator):
            items.append(one)
        else:
            left_out.append(one)
    if not items and not left_out:
        found = [f"{name} ({count})" for name, count in stacks(dynamodb, table).items()]
        raise Malformed(
            Code.USAGE,
            f"the table {table} has no keys of this stack",
            f"it has keys of: {', '.join(sorted(found)[:10])}"
            if found
            else "it is empty; check --table and --region",
        )
    # In one order, whatever order the pages came in.
    items.sort(key=lambda one: one.public_key)
    left_out.sort(key=lambda one: one.public_key)
    return items, left_out


def _say_first(
    connection: Connection,
    outcome: Outcome,
    wanted: list["ReferenceValidator"],
    past: Mapping[bytes, Watermark],
    *,
    yes: bool,
) -> None:
    say = connection.output.say
    for one in outcome.left_out[:SHOWN]:
        say(f"left out: {one.public_key or 'an item without pubkey'}: {one.reason}")
    if len(outcome.left_out) > SHOWN:
        say(f"… and {len(outcome.left_out) - SHOWN} more are left out; --json has all")
    if outcome.already:
        say(f"{len(outcome.already)} are here already and stay as they are")
    without = sum(one.public_key not in past for one in wanted)
    if without:
        confirm(
            connection.output,
            f"{without} of {len(wanted)} validators come without a slashing history: "
            "they will sign as if they had never signed. The reference keeps none; "
            "stop it, and give --slashing-history with what the validator clients "
            "export",
            "Import them so?",
            yes=yes,
        )


def _import_all(
    connection: Connection,
    run: _Import,
    items: list["ReferenceValidator"],
    outcome: Outcome,
) -> None:
    if not items:
        return
    with (
        _pool() as pool,
        progress.shown(connection.output, "importing", len(items)) as advance,
    ):
        running = {pool.submit(run.one, item): item for item in items}
        try:
            for future in as_completed(running):
                _take(future, validator_name(running[future].public_key), outcome)
                advance(1)
        except BaseException:
            connection.output.say(
                f"stopped: {len(outcome.imported)} of {len(items)} keys are in for "
                "certain; the same command again goes on"
            )
            raise


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="reference")
    try:
        yield pool
    finally:
        # One that is on its way is finished; no other is begun.
        pool.shutdown(cancel_futures=True)


def _take(future: Future[bool], name: str, outcome: Outcome) -> None:
    try:
        outcome.histories += future.result()
    except Verdict as verdict:
        if not (isinstance(verdict, Malformed) or verdict.code in _OF_ONE_ITEM):
            raise
        outcome.failed.append((name, verdict))
        if (
            verdict.code is Code.KMS_REFUSED
            and not outcome.imported
            and len(outcome.failed) >= REFUSED_AT_FIRST
        ):
            raise Refused(
                Code.KMS_REFUSED,
                "KMS opens none of the first items for the enclave",
                "the policy of the key that the reference encrypted with must admit "
                "the enclave's measurement, and the manifest name that key: "
                "validators.reference_kms_key_arn",
            ) from None
        return
    outcome.imported.append(name)


def _report(connection: Connection, outcome: Outcome) -> None:
    for name, verdict in outcome.failed[:SHOWN]:
        connection.output.say(f"failed: {name}: {verdict.message}")
    if len(outcome.failed) > SHOWN:
        connection.output.say(f"… and {len(outcome.failed) - SHOWN} more failed")
    connection.output.fields(
        outcome.described(),
        [
            ("imported", str(len(outcome.imported))),
            ("already here", str(len(outcome.already))),
            ("with history", str(outcome.histories)),
            ("left out", str(len(outcome.left_out))),
            ("failed", str(len(outcome.failed))),
        ],
    )
