"""
The demo's second half: three attacks, each by somebody who holds what they would hold.

The parent has the store and every file on it; whoever changes the program has the
parent and its role; a client has its own credentials. All three get a refusal, and
the refusal is shown by whoever made it.
"""

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, final

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.demo_steps import Script, need
from nitrosigner.emulator.running_stack import RunningStack, wait_until
from nitrosigner.emulator.stack_programs import IMAGE_SOURCE
from nitrosigner.emulator.supervisor import tethered
from nitrosigner.emulator.vsock import socket_path
from nitrosigner.image import contents
from nitrosigner.image.source_measurement import emulated_pcr0
from nitrosigner.verdicts import Refused, Undecided
from nitrosigner.wire.addresses import EGRESS_PORT, PARENT_CID, SERVICES_PORT

VICTIM: Final = "treasury"
OTHER: Final = "savings"
_MESSAGE: Final = "pay the bearer"
_ALTERED_FILE: Final = Path(contents.PACKAGE) / "trusted" / "__init__.py"


@final
class Attacks:
    """The attacks against one running stack."""

    def __init__(self, script: Script, stack: RunningStack) -> None:
        self._script = script
        self._stack = stack
        self._client = SignerClient.from_data(stack.folder.path)
        self._run = Path(stack.ready.run)

    def swapped_record(self) -> None:
        """Step: the parent puts another key's record in a key's place."""
        with self._script.step(
            "attack_swapped_record",
            "Attack: the parent swaps a sealed key for another one",
            "a record opens only under its own name: nothing is signed with the wrong "
            "key",
        ) as lines:
            self._client.create_key(OTHER)
            with self._store() as store:
                mine = _record(store, VICTIM)
                theirs = _record(store, OTHER)
                _put(store, VICTIM, theirs)
            try:
                self._restart()
                refusal = self._refusal(self._client, VICTIM)
                lines.append(f"the enclave: {refusal.message} [{refusal.code}]")
                signature = self._client.sign_message(OTHER, _MESSAGE)
                lines.append(f"{OTHER} itself still signs, as {signature.sender}")
            finally:
                with self._store() as store:
                    _put(store, VICTIM, mine)
                self._restart()
            self._client.sign_message(VICTIM, _MESSAGE)
            lines.append("control: with its own record back, the key signs again")

    def altered_enclave(self) -> None:
        """Step: a program with one other byte asks KMS for the vault key."""
        with self._script.step(
            "attack_altered_enclave",
            "Attack: an enclave with one changed byte asks KMS for the vault key",
            "KMS gives the keys to this very source and to nothing else",
        ) as lines:
            with tempfile.TemporaryDirectory(prefix="nitrosigner-") as temporary:
                tree = Path(temporary) / "tree"
                real = self._run / IMAGE_SOURCE
                contents.gather_source(real, tree)
                _change_one_byte(tree / _ALTERED_FILE)
                pcr0 = emulated_pcr0(tree).hex()
                lines.append(f"measured {self._stack.ready.pcr0} before (EMULATED)")
                lines.append(f"measured {pcr0} altered (EMULATED)")
                with self._launched(tree, Path(temporary) / "run"):
                    wait_until(
                        lambda: self._kms_said(pcr0) is not None,
                        "the altered enclave asks KMS",
                    )
            event = self._kms_said(pcr0) or {}
            caller = event["userIdentity"]["arn"]
            lines.append(f"KMS's own trail: {event['eventName']} by {caller}")
            lines.append(f"  {event.get('errorCode')}: {event.get('errorMessage')}")
            need(
                event.get("errorCode") in ("AccessDenied", "AccessDeniedException"),
                "KMS did not refuse the altered enclave",
            )
            self._restart()
            lines.append("control: the unaltered enclave boots with the same files")

    def forbidden_client(self) -> None:
        """Step: a client asks for what its entry in the manifest does not say."""
        with self._script.step(
            "attack_forbidden_client",
            "Attack: a client that may only list keys asks for a signature",
            "reaching the port is not permission; the enclave decides, from the "
            "administrator's manifest",
        ) as lines:
            with SignerClient.from_data(self._stack.folder.path, "reader") as reader:
                listed = [key.name for key in reader.list_keys()]
                lines.append(f"reader may list: {', '.join(listed)}")
                refusal = self._refusal(reader, VICTIM)
            need(refusal.status == 403, f"it was refused with {refusal.status}")
            lines.append(f"the enclave: 403 {refusal.message} [{refusal.code}]")

    def _refusal(self, client: SignerClient, key: str) -> Refused:
        try:
            client.sign_message(key, _MESSAGE)
        except Refused as refusal:
            return refusal
        need(False, "the enclave signed")
        raise AssertionError

    def _restart(self) -> None:
        """Kill the enclave and wait until its successor answers."""
        self._stack.kill("hypervisor")
        wait_until(self._up, "the enclave boots again")

    def _up(self) -> bool:
        try:
            return self._client.upcheck()
        except (Refused, Undecided):
            return False

    @contextlib.contextmanager
    def _store(self) -> Iterator[sqlite3.Connection]:
        # What a hostile parent has: the file, without asking anybody.
        store = sqlite3.connect(self._stack.folder.parent / "store.db", timeout=10)
        try:
            with store:
                yield store
        finally:
            store.close()

    @contextlib.contextmanager
    def _launched(self, tree: Path, run: Path) -> Iterator[None]:
        """Run the enclave of *tree* beside the real one, with the same parent."""
        for port in (SERVICES_PORT, EGRESS_PORT):
            link = socket_path(run, PARENT_CID, port)
            link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            link.symlink_to(socket_path(self._run, PARENT_CID, port))
        command = (
            *(sys.executable, "-I", "-m", "nitrosigner.emulator.hypervisor"),
            *("--data", str(self._stack.folder.path), "--run", str(run)),
            *("--tree", str(tree)),
        )
        with (self._stack.folder.logs / "altered-enclave.log").open("ab") as log:
            process = subprocess.Popen(
                tethered(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(run, ignore_errors=True)

    def _kms_said(self, pcr0: str) -> dict[str, Any] | None:
        """Return KMS's first event about an enclave that measures *pcr0*."""
        trail = self._stack.folder.kms / "cloudtrail.jsonl"
        for line in trail.read_bytes().splitlines():
            with contextlib.suppress(ValueError):  # it is being written
                event: dict[str, Any] = json.loads(line)
                recipient = event.get("additionalEventData", {}).get("recipient", {})
                if recipient.get("attestationDocumentEnclaveImageDigest") == pcr0:
                    return event
        return None


def _record(store: sqlite3.Connection, name: str) -> bytes:
    row = store.execute(
        "SELECT data FROM records WHERE collection = 'keys' AND name = ?", (name,)
    ).fetchone()
    data: bytes = row[0]
    return data


def _put(store: sqlite3.Connection, name: str, data: bytes) -> None:
    store.execute(
        "UPDATE records SET data = ? WHERE collection = 'keys' AND name = ?",
        (data, name),
    )


def _change_one_byte(path: Path) -> None:
    text = bytearray(path.read_bytes())
    # In a comment or docstring: even what the interpreter does not read counts.
    text[text.index(b"a")] ^= 0x20
    path.write_bytes(text)
