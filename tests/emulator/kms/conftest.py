"""An emulated KMS over a real socket, a throw-away Nitro PKI, and boto3 against both."""

import datetime as dt
import hashlib
import json
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from nitrosigner.emulator.kms import FaultPlan, RunningKms, Settings, start

ZEROS = bytes(48)
NOW = lambda: dt.datetime.now(dt.UTC)  # noqa: E731


def spki(key: Any) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


class Pki:
    """root → region → zonal → instance, as AWS has it, with keys of our own."""

    def __init__(self) -> None:
        self.instance = f"i-{secrets.token_hex(8)}0"
        names = ["test.nitro-enclaves", "region", "zonal", self.instance]
        keys = [ec.generate_private_key(ec.SECP384R1()) for _ in names]
        start_at = NOW() - dt.timedelta(hours=2)
        self.chain = [
            self._certificate(
                name,
                keys[index],
                (names[max(index - 1, 0)], keys[max(index - 1, 0)]),
                path_length=(None, 2, 1, 0)[index],
                not_before=start_at,
                not_after=start_at + dt.timedelta(days=20),
            )
            for index, name in enumerate(names)
        ]
        self._key, self._name = keys[-1], names[-1]

    @staticmethod
    def _certificate(
        name: str,
        key: Any,
        issuer: tuple[str, Any],
        *,
        path_length: int | None,
        not_before: dt.datetime,
        not_after: dt.datetime,
        ca: bool = True,
    ) -> x509.Certificate:
        def called(common_name: str) -> x509.Name:
            return x509.Name(
                [x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)]
            )

        usage = dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        return (
            x509.CertificateBuilder()
            .subject_name(called(name))
            .issuer_name(called(issuer[0]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca, path_length), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True, key_cert_sign=ca, crl_sign=ca, **usage
                ),
                critical=ca,
            )
            .sign(issuer[1], hashes.SHA384())
        )

    def root_pem(self) -> bytes:
        return self.chain[0].public_bytes(serialization.Encoding.PEM)

    def document(
        self,
        pcrs: dict[int, bytes],
        public_key: bytes | None,
        at: dt.datetime,
    ) -> bytes:
        key = ec.generate_private_key(ec.SECP384R1())
        leaf = self._certificate(
            "leaf",
            key,
            (self._name, self._key),
            path_length=None,
            not_before=at - dt.timedelta(minutes=1),
            not_after=at + dt.timedelta(hours=3),
            ca=False,
        )
        payload = cbor2.dumps(
            {
                "module_id": f"{self.instance}-enc0123456789abcdef",
                "digest": "SHA384",
                "timestamp": int(at.timestamp() * 1000),
                "pcrs": pcrs,
                "certificate": der(leaf),
                "cabundle": [der(one) for one in self.chain],
                "public_key": public_key,
                "user_data": None,
                "nonce": None,
            }
        )
        protected = cbor2.dumps({1: -35})
        signed = cbor2.dumps(["Signature1", protected, b"", payload])
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA384())))
        signature = r.to_bytes(48, "big") + s.to_bytes(48, "big")
        return cbor2.dumps([protected, {}, payload, signature])


@dataclass
class Enclave:
    """Something that attests."""

    pki: Pki
    image: bytes = b"v1"
    debug: bool = False
    key: Any = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    @property
    def pcrs(self) -> dict[int, bytes]:
        registers = dict.fromkeys(range(16), ZEROS)
        registers[4] = hashlib.sha384(ZEROS + self.pki.instance.encode()).digest()
        if not self.debug:
            for index in (0, 1, 2):
                registers[index] = hashlib.sha384(
                    ZEROS + hashlib.sha384(self.image + bytes([index])).digest()
                ).digest()
        return registers

    @property
    def pcr0(self) -> str:
        return self.pcrs[0].hex()

    def attest(self, **changed: Any) -> bytes:
        return self.pki.document(
            changed.get("pcrs", self.pcrs),
            changed.get("public_key", spki(self.key)),
            changed.get("at", NOW()),
        )

    def recipient(self, **changed: Any) -> dict[str, Any]:
        return {
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            "AttestationDocument": self.attest(**changed),
        }


@pytest.fixture(scope="session")
def pki() -> Pki:
    return Pki()


@pytest.fixture(scope="session")
def enclave(pki: Pki) -> Enclave:
    return Enclave(pki)


@pytest.fixture(scope="session")
def make_enclave(pki: Pki, enclave: Enclave) -> Callable[..., Enclave]:
    """Other enclaves; they share the RSA key unless they are given one: it is slow."""

    def make(**options: Any) -> Enclave:
        return Enclave(**{"pki": pki, "key": enclave.key, **options})

    return make


@pytest.fixture(scope="session")
def make_pki() -> Callable[[], Pki]:
    return Pki


@pytest.fixture
def data(tmp_path: Path, pki: Pki) -> Path:
    folder = tmp_path / "data"
    (folder / "emulator").mkdir(parents=True)
    (folder / "emulator" / "root.pem").write_bytes(pki.root_pem())
    return folder


@pytest.fixture
def faults() -> FaultPlan:
    return FaultPlan()


class Clock:
    """The time, moved by hand."""

    def __init__(self) -> None:
        self.ahead = dt.timedelta()

    def __call__(self) -> dt.datetime:
        return NOW() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kms(data: Path, faults: FaultPlan, clock: Clock) -> Iterator[RunningKms]:
    with start(data, settings=Settings(now=clock), faults=faults) as running:
        yield running


@pytest.fixture(scope="session")
def aws() -> Any:
    """One session for all clients: reading the service model takes most of the time."""
    return boto3.session.Session()


@pytest.fixture
def client(kms: RunningKms, aws: Any) -> Iterator[Callable[..., Any]]:
    """boto3 clients of a role (or with changed credentials), closed afterwards."""
    made = []

    def make(role: str = "parent", **changed: Any) -> Any:
        principal = kms.principal(role)
        credentials = {
            "aws_access_key_id": principal.access_key_id,
            "aws_secret_access_key": principal.secret_access_key,
            "aws_session_token": principal.session_token,
            **changed,
        }
        one = aws.client(
            "kms",
            region_name=kms.region,
            endpoint_url=kms.url,
            verify=str(kms.ca),
            config=botocore.config.Config(
                retries={"total_max_attempts": 1, "mode": "standard"},
                connect_timeout=5,
                read_timeout=20,
            ),
            **credentials,
        )
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


@pytest.fixture
def error_of() -> Callable[..., str]:
    """The code that a call is refused with; fails if it is not refused."""

    def code(function: Callable[..., Any], **arguments: Any) -> str:
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            function(**arguments)
        return str(caught.value.response["Error"]["Code"])

    return code


def allow(principal: str, *actions: str, **condition: Any) -> dict[str, Any]:
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Principal": {"AWS": principal},
        "Action": list(actions),
        "Resource": "*",
    }
    if condition:
        statement["Condition"] = condition
    return statement


@pytest.fixture
def policy() -> Callable[..., str]:
    def make(*statements: dict[str, Any]) -> str:
        return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})

    return make


@pytest.fixture
def key(
    kms: RunningKms,
    client: Callable[..., Any],
    enclave: Enclave,
    policy: Callable[..., str],
) -> str:
    """A key that the enclave may use, the gateway encrypt with, the rest not."""
    text = policy(
        allow(
            kms.principal("parent").arn,
            "kms:Decrypt",
            "kms:GenerateDataKey*",
            StringEqualsIgnoreCase={
                "kms:RecipientAttestation:ImageSha384": enclave.pcr0.upper()
            },
        ),
        allow(kms.principal("gateway").arn, "kms:Encrypt", "kms:ReEncrypt*"),
        allow(
            kms.principal("administrator").arn,
            "kms:Put*",
            "kms:Get*",
            "kms:Describe*",
            "kms:Enable*",
            "kms:Disable*",
            "kms:ScheduleKeyDeletion",
            "kms:CancelKeyDeletion",
            "kms:*Alias*",
        ),
    )
    answer = client("administrator").create_key(Policy=text)
    return str(answer["KeyMetadata"]["Arn"])


@pytest.fixture(scope="session")
def open_envelope() -> Callable[[bytes, Any], bytes]:
    """An opener that shares no code with ours: `openssl cms`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl command to open envelopes with")

    def open_it(envelope: bytes, key: Any) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            pem, blob = Path(folder) / "key.pem", Path(folder) / "blob"
            pem.write_bytes(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
            blob.write_bytes(envelope)
            command = [openssl, "cms", "-decrypt", "-inform", "DER"]
            done = subprocess.run(
                [*command, "-in", str(blob), "-inkey", str(pem), "-binary"],
                capture_output=True,
                check=True,
                timeout=30,
            )
            return done.stdout

    return open_it
