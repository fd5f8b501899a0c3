"""What a first run makes, and what a second run must not touch."""

import datetime as dt
import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nitrosigner.emulator.data_folder import (
    DataFolder,
    locked,
    make_private,
    new_folder,
    replace,
    write_new,
)
from nitrosigner.emulator.first_run import (
    Identities,
    ensure_identities,
    ensure_manifest,
)
from nitrosigner.verdicts import Malformed, Refused
from nitrosigner.wire.manifest import Aws, Operation, accept, sign
from nitrosigner.wire.manifest_validators import Validators

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
AWS = Aws(
    region="us-east-1",
    kms_key_arn="arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
)
OTHER = msgspec.structs.replace(
    AWS, kms_key_arn="arn:aws:kms:us-east-1:123456789012:key/other"
)


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / "data")


@pytest.fixture
def identities(folder: DataFolder) -> Identities:
    return ensure_identities(folder, NOW)


def everything(folder: DataFolder) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in sorted(folder.path.rglob("*"))
        if path.is_file()
    }


def test_a_second_run_changes_no_byte(folder: DataFolder) -> None:
    ensure_manifest(folder, ensure_identities(folder, NOW), AWS, at_least=0)
    before = everything(folder)
    later = NOW + dt.timedelta(days=100)
    ensure_manifest(folder, ensure_identities(folder, later), AWS, at_least=1)
    assert everything(folder) == before


def test_nobody_else_can_read_what_a_first_run_makes(
    folder: DataFolder, identities: Identities
) -> None:
    ensure_manifest(folder, identities, AWS, at_least=0)
    make_private(folder.path)
    for path in [folder.path, *folder.path.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_the_manifest_admits_its_clients_and_nobody_else(
    folder: DataFolder, identities: Identities
) -> None:
    accepted, data = ensure_manifest(folder, identities, AWS, at_least=0)
    assert accept(data) == accepted
    assert accepted.administrator == identities.fingerprint
    operations = {c.name: set(c.operations) for c in accepted.manifest.clients}
    assert operations["reader"] == {Operation.LIST_KEYS}
    assert all(Operation.SIGN_DIGEST not in allowed for allowed in operations.values())
    assert accepted.manifest.networks[0].chain_id == 31337


def test_a_manifest_that_the_administrator_edited_stays(
    folder: DataFolder, identities: Identities
) -> None:
    accepted, _ = ensure_manifest(folder, identities, AWS, at_least=0)
    edited = msgspec.structs.replace(
        accepted.manifest, version=7, deleted_keys_kept_days=90
    )
    data = sign(edited, identities.administrator)
    replace(folder.manifest, data)
    again, kept = ensure_manifest(folder, identities, AWS, at_least=7)
    assert kept == data
    assert again.manifest.deleted_keys_kept_days == 90


def test_lost_credentials_are_made_anew_and_keep_their_permissions(
    folder: DataFolder, identities: Identities
) -> None:
    first, _ = ensure_manifest(folder, identities, AWS, at_least=0)
    lost = folder.clients / "reader"
    for file in lost.iterdir():
        file.unlink()
    lost.rmdir()
    second, _ = ensure_manifest(
        folder, ensure_identities(folder, NOW), AWS, at_least=first.manifest.version
    )
    assert second.manifest.version == first.manifest.version + 1
    old = {client.name: client for client in first.manifest.clients}
    new = {client.name: client for client in second.manifest.clients}
    assert new["default"] == old["default"]
    assert new["reader"].certificates != old["reader"].certificates
    assert new["reader"].operations == old["reader"].operations


def test_another_kms_key_means_a_new_version(
    folder: DataFolder, identities: Identities
) -> None:
    ensure_manifest(folder, identities, AWS, at_least=0)
    accepted, _ = ensure_manifest(folder, identities, OTHER, at_least=5)
    assert accepted.manifest.version == 6
    assert accepted.manifest.aws == OTHER


def test_unsigned_edits_of_the_payload_are_not_lost(
    folder: DataFolder, identities: Identities
) -> None:
    ensure_manifest(folder, identities, AWS, at_least=0)
    folder.manifest_payload.write_bytes(b"work in progress")
    ensure_manifest(folder, identities, OTHER, at_least=1)
    assert folder.manifest_payload.read_bytes() == b"work in progress"


def test_a_strangers_manifest_is_refused_and_kept(
    folder: DataFolder, identities: Identities
) -> None:
    accepted, _ = ensure_manifest(folder, identities, AWS, at_least=0)
    strange = sign(accepted.manifest, Ed25519PrivateKey.generate())
    replace(folder.manifest, strange)
    with pytest.raises(Refused):
        ensure_manifest(folder, identities, AWS, at_least=1)
    assert folder.manifest.read_bytes() == strange


def test_a_damaged_administrator_key_is_never_replaced(
    folder: DataFolder, identities: Identities
) -> None:
    folder.administrator_key.write_bytes(b"half a k")
    with pytest.raises(Malformed):
        ensure_identities(folder, NOW)
    assert folder.administrator_key.read_bytes() == b"half a k"


def test_a_new_file_never_replaces_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert write_new(path, b"first")
    assert not write_new(path, b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["key"]


def test_a_folder_appears_with_all_its_files_or_not_at_all(tmp_path: Path) -> None:
    assert new_folder(tmp_path / "c", {"a": b"1", "b": b"2"})
    assert not new_folder(tmp_path / "c", {"a": b"3"})
    assert (tmp_path / "c" / "a").read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["c"]


def test_two_stacks_cannot_share_a_folder(folder: DataFolder) -> None:
    make_private(folder.path)
    source = (
        "import sys; from pathlib import Path\n"
        "from nitrosigner.emulator.data_folder import DataFolder, locked\n"
        "with locked(DataFolder(Path(sys.argv[1]))):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source, str(folder.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(Refused) as caught, locked(folder):
            pass
        assert str(other.pid) in caught.value.message
        other.kill()
        other.wait()
        with locked(folder):
            pass


MAINNET = Validators(network="mainnet")


def test_a_stack_with_a_beacon_chain_has_a_client_for_duties_alone(
    folder: DataFolder,
) -> None:
    identities = ensure_identities(folder, NOW, validators=True)
    accepted, _ = ensure_manifest(folder, identities, AWS, 0, MAINNET)
    allowed = {c.name: set(c.operations) for c in accepted.manifest.clients}
    assert accepted.manifest.validators == MAINNET
    assert allowed["validator"] == {Operation.LIST_KEYS, Operation.SIGN_DUTY}
    assert Operation.SIGN_VOLUNTARY_EXIT not in allowed["default"]
    assert Operation.SIGN_VOLUNTARY_EXIT in allowed["operator"]
    assert allowed["reader"] == {Operation.LIST_KEYS}


def test_a_folder_is_given_a_beacon_chain_later_and_keeps_it(
    folder: DataFolder, identities: Identities
) -> None:
    first, _ = ensure_manifest(folder, identities, AWS, at_least=0)
    assert first.manifest.validators is None
    more = ensure_identities(folder, NOW, validators=True)
    second, data = ensure_manifest(folder, more, AWS, 1, MAINNET)
    assert second.manifest.version == 2
    assert {c.name for c in second.manifest.clients} >= {"default", "validator"}
    again = ensure_identities(folder, NOW)
    assert "validator" in again.clients
    assert ensure_manifest(folder, again, AWS, 2) == (second, data)
    assert ensure_manifest(folder, again, AWS, 2, MAINNET) == (second, data)


def test_a_folders_beacon_chain_is_never_exchanged(folder: DataFolder) -> None:
    identities = ensure_identities(folder, NOW, validators=True)
    _, data = ensure_manifest(folder, identities, AWS, 0, MAINNET)
    with pytest.raises(Refused) as caught:
        ensure_manifest(folder, identities, AWS, 1, Validators(network="hoodi"))
    assert "mainnet" in caught.value.message
    assert folder.manifest.read_bytes() == data


def test_what_the_administrator_set_for_validators_stays(folder: DataFolder) -> None:
    identities = ensure_identities(folder, NOW, validators=True)
    accepted, _ = ensure_manifest(folder, identities, AWS, 0, MAINNET)
    edited = msgspec.structs.replace(
        accepted.manifest,
        version=2,
        validators=Validators(network="mainnet", expected_keys=5),
    )
    data = sign(edited, identities.administrator)
    replace(folder.manifest, data)
    _, kept = ensure_manifest(folder, identities, AWS, 2, MAINNET)
    assert kept == data
