"""
Throws altered bytes at what the enclave reads from outside: only verdicts may come out.

    python fuzz/enclave_parsers.py [--seconds N] [--seed N] [cms|http|records|nsm|tls …]

`cms` opens KMS envelopes, `http` reads responses of AWS endpoints, `records` opens
sealed keys out of the store, `nsm` reads the device's CBOR, `tls` takes certificates
and keys that are imported. It stops at the first input
that raises anything but its verdict, takes too long, or (a record) opens although it
was altered, and writes it to a file.
"""

import argparse
import os
import random
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cbor2
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from nitrosigner.emulator.kms import envelope
from nitrosigner.trusted.enclave.attested.cms import EnvelopeError, open_envelope
from nitrosigner.trusted.enclave.attested.http_response import (
    BadResponse,
    ResponseReader,
)
from nitrosigner.trusted.enclave.attested.nsm import NsmClient
from nitrosigner.trusted.enclave.https import imported_certificate, server_certificate
from nitrosigner.trusted.enclave.vault.sealed_records import Header, open_record, seal
from nitrosigner.trusted.enclave.vault.vault import Vault, VaultKey
from nitrosigner.trusted.signing.secp256k1 import Secp256k1
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Malformed, Refused, Undecided
from nitrosigner.wire.services import StoredRecord

LONGEST = 0.5
"""Seconds that one input may take."""
INTERESTING = (0x00, 0x01, 0x30, 0x31, 0x7F, 0x80, 0x81, 0x82, 0x84, 0xA0, 0xC1, 0xFF)
Target = Callable[[bytes], bool]
"""Feeds one input; returns whether it was taken. Raises what must never be raised."""


def altered(seed: bytes, generator: random.Random) -> bytes:
    """Return *seed* with a few edits of the kinds that parsers trip over."""
    data = bytearray(seed)
    for _ in range(generator.randint(1, 6)):
        at = generator.randrange(len(data) + 1)
        match generator.randrange(7):
            case 0:
                data[at : at + 1] = bytes([generator.choice(INTERESTING)])
            case 1:
                data[at:at] = generator.randbytes(generator.randint(1, 8))
            case 2:
                del data[at : at + generator.randint(1, 16)]
            case 3:
                end = at + generator.randint(1, 64)
                data[at:at] = data[at:end] * generator.randint(1, 40)
            case 4:
                del data[at:]
            case 5 if data:
                data[at % len(data)] ^= 1 << generator.randrange(8)
            case _:
                other = generator.randrange(len(data) + 1)
                data[at:at] = data[other : other + generator.randint(1, 32)]
    return bytes(data)


def cms() -> tuple[list[bytes], Target]:
    key = generate_private_key(65537, 2048)
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    seeds = [envelope.seal(os.urandom(size), spki) for size in (1, 32, 66)]

    def target(data: bytes) -> bool:
        try:
            open_envelope(data, key).wipe()
        except EnvelopeError:
            return False
        # It may be taken: CBC does not authenticate, and the identifier is free.
        return True

    return seeds, target


def http() -> tuple[list[bytes], Target]:
    body = b'{"KeyId":"k","CiphertextForRecipient":"AAAA"}'
    seeds = [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\n"
        b"content-length: %d\r\n\r\n" % len(body) + body,
        (
            b"HTTP/1.1 400 Bad Request\r\ntransfer-encoding: chunked\r\n\r\n"
            b"5\r\nhello\r\n0\r\n\r\n"
        ),
        b"HTTP/1.1 503 Slow Down\r\nconnection: close\r\n\r\n",
    ]

    def target(data: bytes) -> bool:
        reader = ResponseReader()
        try:
            for start in range(0, len(data), 97):
                reader.feed(data[start : start + 97])
        except BadResponse:
            return False
        return reader.response is not None

    return seeds, target


def records() -> tuple[list[bytes], Target]:
    algorithms = {"secp256k1": Secp256k1(os.urandom(32))}
    vault = Vault([VaultKey(SecretBytes(bytearray(os.urandom(32))))], 1)
    secret = SecretBytes(bytearray(os.urandom(32)))
    public_key = algorithms["secp256k1"].public_key(secret)
    header = Header(
        purpose="wallet",
        deployment="fuzz",
        name="k",
        algorithm="secp256k1",
        kind="vault",
        public_key=public_key,
        identity=algorithms["secp256k1"].identity(public_key),
        state="enabled",
        version=1,
        created=1,
        purge_after=0,
        manifest=1,
    )
    stored = seal(vault.current, header, secret, os.urandom).stored()
    parts = msgspec.msgpack.decode(stored)

    def target(data: bytes) -> bool:
        try:
            slot = open_record(
                StoredRecord("k", 1, data),
                vault=vault,
                deployment="fuzz",
                manifest_version=1,
                algorithms=algorithms,
            )
        except Refused:
            return False
        # The same four values in another encoding are the same record.
        if (slot.header, slot.nonce, slot.ciphertext) != tuple(parts[1:]):
            msg = "an altered record was opened"
            raise AssertionError(msg)
        return True

    return [stored], target


def nsm() -> tuple[list[bytes], Target]:
    seeds = [
        cbor2.dumps({"Attestation": {"document": os.urandom(300)}}),
        cbor2.dumps({"Error": "InvalidArgument"}),
        cbor2.dumps({"Attestation": {"document": [{1: 2}, None, 1.5, "x" * 40]}}),
    ]

    def target(data: bytes) -> bool:
        try:
            NsmClient(lambda _request: data).attest()
        except Undecided:
            return False
        return True

    return seeds, target


def tls() -> tuple[list[bytes], Target]:
    """Feed an imported certificate (after a 0) or its private key (after a 1)."""
    now = time.time()
    authority, secret = server_certificate.new_authority("fuzz", now)
    own = server_certificate.issue(authority, secret, ["localhost"], now)
    key = serialization.load_pem_private_key(bytes(own.key.buffer), None)
    pkcs8 = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )

    def target(data: bytes) -> bool:
        leaf, held = own.certificate, pkcs8
        if data[:1] == b"\1":
            held = data[1:]
        else:
            leaf = data[1:]
        pem = ssl.DER_cert_to_PEM_cert(leaf) + ssl.DER_cert_to_PEM_cert(authority)
        try:
            chain = imported_certificate.chain_of(pem)
            with SecretBytes(bytearray(held)) as buffer:
                identity = imported_certificate.identity_of(chain, buffer)
            imported_certificate.check(chain, identity, ["localhost"], now)
        except (Malformed, Refused):
            return False
        # A client was found that takes it: OpenSSL checked the signature.
        if data[:1] != b"\1" and leaf != own.certificate:
            msg = "an altered certificate was taken"
            raise AssertionError(msg)
        return True

    return [b"\0" + own.certificate, b"\1" + pkcs8], target


TARGETS = {"cms": cms, "http": http, "records": records, "nsm": nsm, "tls": tls}


def inputs(seeds: list[bytes], generator: random.Random) -> Iterator[bytes]:
    yield from seeds
    while True:
        yield altered(generator.choice(seeds), generator)


def run(name: str, seconds: float, seed: int) -> bool:
    """Fuzz one target; return whether nothing was found."""
    seeds, target = TARGETS[name]()
    generator = random.Random(seed)
    end, tried, taken = time.monotonic() + seconds, 0, 0
    for data in inputs(seeds, generator):
        started = time.monotonic()
        if started >= end:
            break
        try:
            taken += target(data)
            found = "" if time.monotonic() - started < LONGEST else "slow"
        except Exception as error:
            found = type(error).__name__
        if found:
            place = Path(f"fuzz-{name}-{found}.bin")
            place.write_bytes(data)
            print(f"{name}: {found} after {tried} inputs: {place}")
            return False
        tried += 1
    print(f"{name}: {tried} inputs, {taken} taken, nothing found")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    good = [
        run(name, chosen.seconds, chosen.seed) for name in chosen.targets or TARGETS
    ]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
