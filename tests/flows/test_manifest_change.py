"""An administrator edits, signs and rolls out a manifest; a stranger cannot."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from eth_account import Account
from hexbytes import HexBytes

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.running_stack import RunningStack
from nitrosigner.verdicts import Refused
from nitrosigner.wire.manifest import Manifest, Operation, accept

COMMAND = (sys.executable, "-I", "-m", "nitrosigner.cli.main")
UNPROTECTED = {
    "type": 0,
    "nonce": 0,
    "gas": 21_000,
    "gasPrice": 10**9,
    "value": 1,
    "to": "0x" + "11" * 20,
}


def edited(path: Path) -> Manifest:
    manifest = accept(path.read_bytes()).manifest
    clients = [
        msgspec.structs.replace(
            client,
            unprotected_legacy=True,
            operations=[*client.operations, Operation.SIGN_DIGEST],
        )
        if client.name == "default"
        else client
        for client in manifest.clients
    ]
    return msgspec.structs.replace(
        manifest, clients=clients, version=manifest.version + 1
    )


def test_what_a_new_manifest_allows_is_refused_before_and_signed_after(
    tmp_path: Path,
) -> None:
    stack = RunningStack.start(tmp_path / "data")
    folder = stack.folder
    with SignerClient.from_data(folder.path) as client:
        address = client.create_key("k").identity
        for attempt in (
            lambda: client.sign_digest("k", bytes(32)),
            lambda: client.sign_transaction("k", UNPROTECTED),
        ):
            with pytest.raises(Refused):
                attempt()
    folder.manifest_payload.write_bytes(
        msgspec.json.encode(edited(folder.manifest)) + b"\n"
    )
    signing = [*COMMAND, "manifest", "sign", str(folder.manifest_payload)]
    signing += ["--administrator-key", str(folder.administrator_key)]
    folder.manifest.unlink()
    subprocess.run([*signing, "-o", str(folder.manifest)], check=True, timeout=60)
    stack.stop()

    stack = RunningStack.start(folder.path)
    try:
        assert stack.ready.manifest_version == 2
        with SignerClient.from_data(folder.path) as client:
            assert client.sign_digest("k", bytes(32)).sender == address
            signed = client.sign_transaction("k", UNPROTECTED)
            assert Account.recover_transaction(HexBytes(signed.raw)) == address
    finally:
        stack.stop()
