"""
The parent stands between the enclave and KMS: it relays, and would like to answer.

The envelope of an attested answer is not authenticated. Whoever knows the enclave's
public key can make one, and the parent sees the attestation document that holds it. So
everything rests on TLS that ends in the enclave; and where even that is assumed to be
broken, on what comes out not opening anything.
"""

import base64
import datetime as dt
import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nitrosigner.emulator.kms import Fault
from nitrosigner.emulator.stack_programs import KMS_HOST

Outcome = Callable[[str], str]


@pytest.fixture(scope="module")
def forged_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that says what KMS's says, signed by nobody whom anybody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, KMS_HOST)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(KMS_HOST)]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("forged") / "kms.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_a_forged_envelope_over_the_parents_own_tls_is_never_read(
    scene: Any, attacking: Any, forged_certificate: Path, outcome: Outcome
) -> None:
    body = json.dumps(
        {
            "KeyId": scene.deployment.kms_key_arn,
            "CiphertextForRecipient": base64.b64encode(b"forged").decode(),
        }
    ).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with attacking.impostor(forged_certificate, answer) as (address, said):
        scene.parent.kms_address = address
        scene.boot()
        scene.turned_away()
        assert scene.parent.destinations
        assert said == []
    assert outcome("created") == "signer_unreachable"


def test_the_enclave_asks_for_nobody_but_kms(scene: Any) -> None:
    scene.boot_until_ready()
    assert set(scene.parent.destinations) == {f"{KMS_HOST}:443"}


@pytest.mark.parametrize("direction", ["to_kms", "from_kms"])
def test_an_altered_byte_between_enclave_and_kms_ends_the_call(
    scene: Any, direction: str
) -> None:
    def flip(number: int, data: bytes) -> bytes:
        if number == 0:
            return data
        broken = bytearray(data)
        broken[len(broken) // 2] ^= 1
        return bytes(broken)

    setattr(scene.parent, direction, flip)
    scene.boot()
    scene.turned_away()


def test_a_truncated_kms_answer_opens_nothing_and_is_asked_for_again(
    scene: Any, outcome: Outcome
) -> None:
    cut: list[int] = []

    def truncate(number: int, data: bytes) -> bytes | None:
        if number >= 1 and len(cut) < 2:
            cut.append(number)
            return None
        return data

    scene.parent.from_kms = truncate
    scene.boot_until_ready()
    assert len(cut) == 2
    assert outcome("created") == "signed"


def test_replayed_bytes_of_an_earlier_kms_conversation_open_nothing(
    scene: Any,
) -> None:
    recorded: dict[int, bytes] = {}

    def record(number: int, data: bytes) -> bytes:
        recorded.setdefault(number, data)
        return data

    scene.parent.from_kms = record
    scene.boot_until_ready()
    scene.end()
    scene.parent.from_kms = recorded.get
    scene.boot()
    scene.turned_away()


def test_reordered_bytes_from_kms_open_nothing(scene: Any) -> None:
    held: list[bytes] = []

    def reorder(number: int, data: bytes) -> bytes:
        if number == 0 or len(data) < 64:
            return data
        middle = len(data) // 2
        held.append(data)
        return data[middle:] + data[:middle]

    scene.parent.from_kms = reorder
    scene.boot()
    scene.turned_away()


@pytest.fixture
def faults(deployment: Any) -> Iterator[Any]:
    """KMS itself lies: what would follow if the parent could break TLS."""
    yield deployment.faults
    deployment.faults.clear()


@pytest.mark.parametrize(
    "fault",
    [
        Fault.FORGED_ENVELOPE,
        Fault.BROKEN_ENVELOPE,
        Fault.NO_ENVELOPE,
        Fault.PLAINTEXT,
        Fault.ONLY_PLAINTEXT,
        Fault.WRONG_KEY_ID,
        Fault.GARBAGE,
        Fault.NOT_AN_OBJECT,
        Fault.TRUNCATE,
    ],
)
def test_a_kms_that_lies_opens_no_vault(
    scene: Any, outcome: Outcome, faults: Any, fault: Fault
) -> None:
    faults.always("Decrypt", fault)
    scene.boot()
    scene.turned_away()
    assert outcome("created") == "signer_unreachable"


@pytest.mark.parametrize(
    "fault", [Fault.FORGED_ENVELOPE, Fault.PLAINTEXT, Fault.WRONG_KEY_ID]
)
def test_a_lying_answer_for_a_key_of_kind_kms_signs_nothing(
    scene: Any, outcome: Outcome, faults: Any, fault: Fault
) -> None:
    scene.boot_until_ready()
    faults.always("Decrypt", fault)
    assert outcome("by-kms") in ("kms_untrusted", "key_mismatch", "record_untrusted")
    assert outcome("created") == "signed"


def test_what_passes_between_enclave_and_kms_is_not_readable(scene: Any) -> None:
    scene.boot_until_ready()
    assert b"TrentService" not in scene.parent.seen
    assert b"CiphertextForRecipient" not in scene.parent.seen
    assert secrets.token_bytes(16) not in scene.parent.seen
