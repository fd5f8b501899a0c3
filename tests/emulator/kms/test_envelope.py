"""`CiphertextForRecipient` against AWS's own two, byte by byte, and against openssl."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from nitrosigner.emulator.kms.envelope import ContentShape, seal

VECTORS = Path(__file__).parents[3] / "../shared/vectors/kms"


def _spki(key: Any) -> bytes:
    return bytes(
        key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


@pytest.mark.parametrize("shape", ["constructed", "primitive"])
def test_ours_differs_from_aws_in_what_is_random_only(shape: str, enclave: Any) -> None:
    path = VECTORS / f"envelope-{shape}-content.ber"
    if not path.exists():
        pytest.skip("the vectors of AWS are not beside this checkout")
    theirs = path.read_bytes()
    fields = json.loads(path.with_suffix(".json").read_text())
    random = [bytes.fromhex(fields[name]) for name in fields]
    # The subject key identifier is [0] of 32 bytes: the only `80 20` there is.
    marker = theirs.index(b"\x80\x20")
    spans = [(marker + 2, 32)]
    spans += [(theirs.index(value), len(value)) for value in random]
    plaintext = bytes(len(bytes.fromhex(fields["ciphertext"])) - 1)
    ours = seal(plaintext, _spki(enclave.key), ContentShape(shape))
    assert len(ours) == len(theirs)

    def fixed(envelope: bytes) -> bytes:
        result = bytearray(envelope)
        for start, size in spans:
            result[start : start + size] = bytes(size)
        return bytes(result)

    assert fixed(ours) == fixed(theirs)
    assert ours != theirs


@pytest.mark.parametrize("shape", list(ContentShape))
@pytest.mark.parametrize("size", [1, 15, 16, 32, 1000, 4096])
def test_openssl_opens_every_shape(
    shape: ContentShape,
    size: int,
    enclave: Any,
    open_envelope: Callable[[bytes, Any], bytes],
) -> None:
    plaintext = bytes(index % 251 for index in range(size))
    envelope = seal(plaintext, _spki(enclave.key), shape)
    assert open_envelope(envelope, enclave.key) == plaintext


def test_readers_meet_both_shapes_that_aws_uses(enclave: Any) -> None:
    spki = _spki(enclave.key)
    # The content is 16 bytes: `80 10` if primitive, `a0 80 04 10` if constructed.
    shapes = {b"\xa0\x80\x04\x10" in seal(b"x", spki)[400:] for _ in range(64)}
    assert shapes == {True, False}
