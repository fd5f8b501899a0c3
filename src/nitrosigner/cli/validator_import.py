"""`nitrosigner validators import`: keystores and their past, in one step for each."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from nitrosigner.cli import interchange_file, keystore_folder, progress
from nitrosigner.cli.bls import bls12_381
from nitrosigner.cli.confirmation import confirm
from nitrosigner.cli.connection import (
    Connection,
    Expected,
    expectation_options,
    signer_options,
)
from nitrosigner.cli.interchange_file import History
from nitrosigner.cli.keystore_folder import Found, KeystoreFile, Passwords
from nitrosigner.cli.secret_prompt import ask_secret
from nitrosigner.cli.slashing_history import chain_of, read_file, send
from nitrosigner.client.import_validator import import_validator, validator_name
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.client.verification import Proof
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.slashing import Watermark
from nitrosigner.trusted.signing.validator_keystores import open_keystore
from nitrosigner.verdicts import Code, Malformed, Refused, Verdict
from nitrosigner.wire import validator_api as wire

MAX_JOBS: Final = 64
WRONG_AT_FIRST: Final = 3
"""Keystores that one password for all must not open before we give up."""
SHOWN: Final = 20
"""Files that are named one by one to a person."""
_OF_ONE_KEYSTORE: Final = frozenset({Code.WRONG_PASSWORD, Code.KEY_MISMATCH})


@dataclass
class Outcome:
    """What became of a folder."""

    imported: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    failed: list[tuple[Path, Verdict]] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    histories: int = 0
    """Validators whose past went in, with the key or beside it."""

    @property
    def exit_code(self) -> int:
        """0, or that of the worst failure."""
        return max((verdict.exit_code for _, verdict in self.failed), default=0)

    def failures(self) -> Counter[Code]:
        """Return how many failed for which reason."""
        return Counter(verdict.code for _, verdict in self.failed)

    def described(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "imported": sorted(self.imported),
            "already_here": sorted(self.already),
            "failed": [
                {"file": str(path), "code": verdict.code, "message": verdict.message}
                for path, verdict in self.failed
            ],
            "left_out": [str(path) for path in self.others],
            "histories": self.histories,
        }


@click.command("import")
@click.option(
    "--keystores",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The folder with EIP-2335 keystores (*.json), at any depth.",
)
@click.option(
    "--password-file",
    "passwords",
    type=click.Path(path_type=Path),
    metavar="FILE|DIR",
    help="One password for all, or a folder with <keystore>.txt for each.",
)
@click.option(
    "--slashing-history",
    "history_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="What they have signed elsewhere: an interchange file (EIP-3076).",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, MAX_JOBS),
    metavar="N",
    help="Keystores opened at a time, a quarter of a gigabyte each. "
    "By default as many as there are cores.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@expectation_options
@signer_options()
@click.pass_context
def import_(
    context: click.Context,
    *,
    connection: Connection,
    expected: Expected,
    folder: Path,
    passwords: Path | None,
    history_file: Path | None,
    jobs: int | None,
    yes: bool,
) -> None:
    """
    Bring validators' keystores into the enclave, with what they have signed.

    Keystores are opened on this machine, on all cores; each key goes encrypted to the
    verified enclave together with its own history. Validators that are there already
    are left as they are, so the same command again goes on where it was stopped.
    """
    connection.require_known_program(expected)
    found = keystore_folder.find(folder)
    with connection.client(bootstrap=True) as client:
        # First, so that nobody types a password for an enclave that is not there.
        proof = connection.verify(client, expected)
        here = {key.name for key in client.list_validators() if key.state != "deleted"}
        chain, history = b"", None
        if history_file is not None:
            chain = chain_of(client)
            history = read_file(connection, history_file, chain)
        _warn(connection, found, here, history, yes=yes)
        outcome = Outcome(others=found.others, failed=found.failed)
        if history is not None:
            theirs = _past_of_those_here(here, found, history)
            if theirs.reached:
                outcome.histories = send(connection, client, theirs, chain)
        wanted = [
            file for file in found.keystores if not _is_here(file.public_key, here)
        ]
        outcome.already = [
            validator_name(file.public_key)
            for file in found.keystores
            if _is_here(file.public_key, here)
        ]
        if wanted:
            run = _Import(
                client,
                proof,
                _passwords(passwords),
                bls12_381(),
                {} if history is None else history.reached,
                chain,
                here,
            )
            _import_all(connection, run, wanted, outcome, jobs or _cores())
    _report(connection, outcome)
    context.exit(outcome.exit_code)


@dataclass(frozen=True)
class _Import:
    """What one keystore's import needs. Shared by threads."""

    client: SignerClient
    proof: Proof
    passwords: Passwords
    bls: Bls12381
    reached: Mapping[bytes, Watermark]
    chain: bytes
    here: set[str]

    def one(self, file: KeystoreFile) -> tuple[str, bool, bool]:
        """Import one; return its name, whether it is new, and whether it has a past."""
        with open_keystore(file.parse(), self.passwords.of(file)) as secret:
            public_key = self.bls.public_key(secret)
            if file.public_key and file.public_key != public_key:
                raise Refused(
                    Code.KEY_MISMATCH,
                    "the keystore names another public key than its key has",
                    "the file was altered; do not use it",
                )
            name = validator_name(public_key)
            if name in self.here:
                return name, False, False
            past: wire.SlashingHistory | None = None
            if public_key in self.reached:
                past = interchange_file.document(
                    {public_key: self.reached[public_key]}, self.chain
                )
            import_validator(
                self.client, self.proof, secret.buffer, public_key, history=past
            )
        return name, True, past is not None


def _import_all(
    connection: Connection,
    run: _Import,
    files: list[KeystoreFile],
    outcome: Outcome,
    jobs: int,
) -> None:
    stop = threading.Event()

    def one(file: KeystoreFile) -> tuple[str, bool, bool]:
        if stop.is_set():
            raise _Stopped
        return run.one(file)

    waiting = iter(files)
    running: dict[Future[tuple[str, bool, bool]], KeystoreFile] = {}
    with (
        ThreadPoolExecutor(jobs, thread_name_prefix="keystore") as pool,
        progress.shown(connection.output, "importing", len(files)) as advance,
    ):
        try:
            while True:
                for file in waiting:
                    running[pool.submit(one, file)] = file
                    if len(running) >= 2 * jobs:
                        break
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    _take(future.result, running.pop(future), run, outcome)
                    advance(1)
        except BaseException:
            # One that is on its way is finished; no other is begun.
            stop.set()
            connection.output.say(
                f"stopped: {len(outcome.imported)} of {len(files)} keys are in; "
                "the same command again goes on"
            )
            raise


class _Stopped(Exception):
    """Another import has failed for a reason that holds for all."""


def _take(
    result: Callable[[], tuple[str, bool, bool]],
    file: KeystoreFile,
    run: _Import,
    outcome: Outcome,
) -> None:
    try:
        name, new, with_past = result()
    except Verdict as verdict:
        if not (isinstance(verdict, Malformed) or verdict.code in _OF_ONE_KEYSTORE):
            raise
        outcome.failed.append((file.path, verdict))
        # Who knows that the key is another one has opened the keystore.
        opened = outcome.imported or Code.KEY_MISMATCH in outcome.failures()
        wrong = outcome.failures()[Code.WRONG_PASSWORD]
        if not opened and run.passwords.folder is None and wrong >= WRONG_AT_FIRST:
            # A second for each of thousands, to say the same of all.
            raise Refused(
                Code.WRONG_PASSWORD,
                "the password opens none of the first keystores",
                "check it; a folder of <keystore>.txt gives each keystore its own",
            ) from None
        return
    (outcome.imported if new else outcome.already).append(name)
    outcome.histories += with_past


def _past_of_those_here(here: set[str], found: Found, history: History) -> History:
    """Keys that are here may have signed elsewhere since they were imported."""
    named = {file.public_key for file in found.keystores}
    theirs = {
        key: reached
        for key, reached in history.reached.items()
        if key in named and validator_name(key) in here
    }
    return History(theirs, 0, 0)


def _warn(
    connection: Connection,
    found: Found,
    here: set[str],
    history: History | None,
    *,
    yes: bool,
) -> None:
    say = connection.output.say
    if found.others:
        say(
            f"left out, no keystore or the same key again: {len(found.others)} files, "
            f"{found.others[0].name} among them"
        )
    new = [file for file in found.keystores if not _is_here(file.public_key, here)]
    if len(new) < len(found.keystores):
        say(f"{len(found.keystores) - len(new)} are here already and stay as they are")
    past = {} if history is None else history.reached
    without = [file for file in new if file.public_key not in past]
    if without:
        confirm(
            connection.output,
            f"{len(without)} of {len(new)} validators come without a slashing history: "
            "they will sign as if they had never signed. If they have, anywhere, give "
            "--slashing-history with the file that their old signer exports",
            "Import them so?",
            yes=yes,
        )
    unused = len(past.keys() - {file.public_key for file in found.keystores})
    if unused:
        say(
            f"the history of {unused} other validators is not used; "
            "nitrosigner slashing-history import takes it too"
        )


def _report(connection: Connection, outcome: Outcome) -> None:
    for path, verdict in outcome.failed[:SHOWN]:
        connection.output.say(f"failed: {path.name}: {verdict.message}")
    if len(outcome.failed) > SHOWN:
        connection.output.say(f"… and {len(outcome.failed) - SHOWN} more failed")
    connection.output.fields(
        outcome.described(),
        [
            ("imported", str(len(outcome.imported))),
            ("already here", str(len(outcome.already))),
            ("with history", str(outcome.histories)),
            ("failed", str(len(outcome.failed))),
        ],
    )


def _passwords(where: Path | None) -> Passwords:
    if where is not None:
        return Passwords(where)
    return Passwords(ask_secret("Password of the keystores", "--password-file FILE"))


def _is_here(public_key: bytes, here: set[str]) -> bool:
    return bool(public_key) and validator_name(public_key) in here


def _cores() -> int:
    return min(len(os.sched_getaffinity(0)), MAX_JOBS)
