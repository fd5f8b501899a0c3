"""The parent hands the enclave another manifest than the administrator's."""

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
    payload = signed.payload.replace(b'"list_keys"', b'"sign_digest"', 1)
    assert payload != signed.payload
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
