"""The parent hands the enclave another manifest than the administrator's."""

import copy
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.verdicts import Refused, Undecided
from nitrosigner.wire.manifest import Operation, SignedManifest, accept, sign
from nitrosigner.wire.services import StoredRecord

Outcome = Callable[[str], str]
CURRENT = ("manifest", "current")


def generous(signed: bytes) -> Any:
    """Return the manifest with everything allowed to everybody."""
    manifest = accept(signed).manifest
    return msgspec.structs.replace(
        manifest,
        version=manifest.version + 1,
        clients=[
            msgspec.structs.replace(client, operations=list(Operation))
            for client in manifest.clients
        ],
    )


def put(scene: Any, data: bytes) -> None:
    version = scene.parent.records[CURRENT].version
    scene.parent.records[CURRENT] = StoredRecord("current", version + 1, data)


def test_a_manifest_with_an_altered_payload_is_refused(scene: Any) -> None:
    signed = msgspec.json.decode(
        scene.parent.records[CURRENT].data, type=SignedManifest
    )
    # A higher version, so that nothing but the signature speaks against it.
    payload = signed.payload.replace(b'"version": 1', b'"version": 9', 1)
    payload = payload.replace(b'"list_keys"', b'"sign_digest"', 1)
    assert b"sign_digest" in payload
    assert b'"version": 9' in payload
    put(scene, msgspec.json.encode(msgspec.structs.replace(signed, payload=payload)))
    scene.boot()
    scene.stuck_with("manifest_untrusted")


def test_a_manifest_of_another_administrator_opens_no_vault(
    scene: Any, outcome: Outcome
) -> None:
    """Its signature is right; KMS knows that the administrator is not."""
    data = scene.parent.records[CURRENT].data
    put(scene, sign(generous(data), Ed25519PrivateKey.generate()))
    scene.boot()
    scene.stuck_with("kms_refused")
    assert outcome("created") == "signer_unreachable"


def test_a_strangers_manifest_in_the_administrators_name_is_refused(scene: Any) -> None:
    ours = msgspec.json.decode(scene.parent.records[CURRENT].data, type=SignedManifest)
    theirs = msgspec.json.decode(
        sign(
            generous(scene.parent.records[CURRENT].data), Ed25519PrivateKey.generate()
        ),
        type=SignedManifest,
    )
    mixed = msgspec.structs.replace(theirs, administrator=ours.administrator)
    put(scene, msgspec.json.encode(mixed))
    scene.boot()
    scene.stuck_with("manifest_untrusted")


@pytest.mark.parametrize("keep", [0.01, 0.5, 0.99])
def test_a_truncated_manifest_is_refused(scene: Any, keep: float) -> None:
    data = scene.parent.records[CURRENT].data
    put(scene, data[: int(len(data) * keep)])
    scene.boot()
    scene.stuck_with("malformed_manifest", "manifest_untrusted")


def test_a_withheld_manifest_lets_nothing_begin(scene: Any) -> None:
    del scene.parent.records[CURRENT]
    scene.boot()
    scene.until(lambda: bool(scene.codes), "the boot says that there is no manifest")
    assert "ready" not in scene.states


def test_a_record_that_is_no_manifest_is_refused(scene: Any) -> None:
    put(scene, scene.parent.records["keys", "created"].data)
    scene.boot()
    scene.stuck_with("malformed_manifest", "manifest_untrusted")


def test_an_older_manifest_is_refused_once_a_newer_one_was_in_force(
    scene: Any, deployment: Any, client: SignerClient, administrator: Ed25519PrivateKey
) -> None:
    """A client that was removed does not come back by replay."""
    older = scene.parent.records[CURRENT].data
    manifest = accept(older).manifest
    without_reader = msgspec.structs.replace(
        manifest,
        version=manifest.version + 1,
        clients=[one for one in manifest.clients if one.name != "reader"],
    )
    put(scene, sign(without_reader, administrator))
    scene.boot_until_ready()
    files = deployment.clients["reader"]
    with (
        SignerClient(
            scene.url, ca=deployment.ca, certificate=files.cert, key=files.key
        ) as reader,
        # TLS turns an unknown certificate away before HTTP could say why.
        pytest.raises((Refused, Undecided)),
    ):
        reader.page_of_keys()
    assert client.upcheck()
    put(scene, older)
    scene.boot()
    scene.stuck_with("manifest_untrusted")


def rolled_on(scene: Any, administrator: Ed25519PrivateKey) -> None:
    """Put the next version of the manifest in force, and boot under it."""
    manifest = accept(scene.parent.records[CURRENT].data).manifest
    newer = msgspec.structs.replace(manifest, version=manifest.version + 1)
    put(scene, sign(newer, administrator))
    scene.boot_until_ready()


def test_an_older_manifest_with_the_older_note_of_it_opens_no_newer_record(
    scene: Any, outcome: Outcome, client: SignerClient, administrator: Ed25519PrivateKey
) -> None:
    """Both records are put back together; what was written since says so itself."""
    older = copy.copy(scene.parent.records)
    rolled_on(scene, administrator)
    client.disable_key("created")
    client.enable_key("created")
    for collection in ("manifest", "state"):
        record = (collection, "current")
        if record in older:
            scene.parent.records[record] = older[record]
        else:
            del scene.parent.records[record]
    scene.boot_until_ready()
    assert outcome("created") == "record_untrusted"


def test_residual_a_whole_older_store_replayed_across_a_restart_is_believed(
    scene: Any, outcome: Outcome, client: SignerClient, administrator: Ed25519PrivateKey
) -> None:
    """
    What is *not* protected, kept here so that the threat model says the truth.

    Nothing outside the parent remembers that there was a newer state of everything.
    """
    older = copy.copy(scene.parent.records)
    rolled_on(scene, administrator)
    client.disable_key("created")
    scene.parent.records = older
    scene.boot_until_ready()
    assert outcome("created") == "signed"
