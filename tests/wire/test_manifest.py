"""A manifest says exactly one thing, is signed by whom it names, and permits nothing by default."""

import base64
import datetime as dt
import json
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.verdicts import Code, Malformed, Refused
from nitrosigner.wire import manifest, services

ADMINISTRATOR = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
ARN = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def certificate(name: str = "client") -> str:
    key = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def client(**changes: Any) -> dict[str, Any]:
    return {
        "name": "alice",
        "token_sha256": ["a" * 64],
        "operations": ["sign_transaction"],
        "keys": ["*"],
    } | changes


def fields(**changes: Any) -> dict[str, Any]:
    return {
        "format": "nitrosigner/manifest/1",
        "deployment": "wallet",
        "version": 1,
        "aws": {"region": "eu-west-1", "kms_key_arn": ARN},
        "networks": [{"name": "mainnet", "chain_id": 1}],
        "clients": [client()],
    } | changes


def parse(**changes: Any) -> manifest.Manifest:
    return manifest.parse(json.dumps(fields(**changes)).encode())


def test_a_signed_manifest_is_accepted_with_its_digest_and_fingerprint() -> None:
    data = manifest.sign(parse(), ADMINISTRATOR)
    accepted = manifest.accept(data)
    assert accepted.manifest == parse()
    assert accepted.administrator == manifest.fingerprint(ADMINISTRATOR.public_key())
    assert len(accepted.digest) == len(accepted.administrator) == 64
    assert manifest.sign(parse(), ADMINISTRATOR) == data


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_altered_byte_is_accepted(position: int, flip: int) -> None:
    data = bytearray(manifest.sign(parse(), ADMINISTRATOR))
    data[position % len(data)] ^= flip
    whole = bytes(data)
    try:
        accepted = manifest.accept(whole)
    except (Malformed, Refused):
        return
    # Only what means the same: white space of JSON, or unused bits of base64.
    assert accepted == manifest.accept(manifest.sign(parse(), ADMINISTRATOR))


def test_a_signature_by_someone_else_than_named_is_refused() -> None:
    mine = json.loads(manifest.sign(parse(), ADMINISTRATOR))
    theirs = json.loads(manifest.sign(parse(version=2), STRANGER))
    for mixed in (
        mine | {"administrator": theirs["administrator"]},
        mine | {"signature": theirs["signature"]},
        mine | {"payload": theirs["payload"]},
        mine | {"signature": ""},
        mine | {"signature": mine["signature"][:40]},
    ):
        with pytest.raises(Refused) as caught:
            manifest.accept(json.dumps(mixed).encode())
        assert caught.value.code is Code.MANIFEST_UNTRUSTED


def test_a_signature_is_not_good_for_anything_but_manifests() -> None:
    payload = msgspec.json.encode(parse())
    signed = manifest.SignedManifest(
        payload=payload,
        administrator=ADMINISTRATOR.public_key().public_bytes_raw(),
        signature=ADMINISTRATOR.sign(payload),  # without the label
    )
    with pytest.raises(Refused):
        manifest.accept(msgspec.json.encode(signed))


def test_a_strangers_manifest_is_accepted_under_the_strangers_fingerprint() -> None:
    """KMS decides whose it is; here it must only not pass as someone else's."""
    accepted = manifest.accept(manifest.sign(parse(), STRANGER))
    assert accepted.administrator == manifest.fingerprint(STRANGER.public_key())
    assert accepted.administrator != manifest.fingerprint(ADMINISTRATOR.public_key())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"payload":"!","administrator":"","signature":""}',
        b'{"payload":"","administrator":"QUJD","signature":""}',
        b" " * (manifest.MAX_MANIFEST + 1),
    ],
)
def test_what_is_no_signed_manifest_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        manifest.accept(data)
    assert caught.value.code is Code.MALFORMED_MANIFEST


def test_unknown_fields_are_refused_everywhere() -> None:
    for changes in (
        {"x": 1},
        {"aws": fields()["aws"] | {"x": 1}},
        {"networks": [{"name": "a", "chain_id": 1, "x": 1}]},
        {"clients": [client(x=1)]},
        {"clients": [client(limits={"x": 1})]},
        {"limits": {"x": 1}},
    ):
        with pytest.raises(Malformed, match="`x`"):
            parse(**changes)
    signed = json.loads(manifest.sign(parse(), ADMINISTRATOR)) | {"x": 1}
    with pytest.raises(Malformed):
        manifest.accept(json.dumps(signed).encode())


@pytest.mark.parametrize(
    ("once", "twice"),
    [
        ('"version": 1', '"version": 2, "version": 1'),
        ('"clients": [', '"clients": [], "clients": ['),
        ('"keys": ["*"]', '"keys": ["none"], "keys": ["*"]'),
        ('"keys": ["*"]', '"keys": ["none"], "k\\u0065ys": ["*"]'),
    ],
)
def test_a_field_that_stands_twice_is_malformed(once: str, twice: str) -> None:
    text = json.dumps(fields())
    assert once in text
    payload = text.replace(once, twice).encode()
    with pytest.raises(Malformed, match="twice"):
        manifest.parse(payload)
    signature = ADMINISTRATOR.sign(manifest._SIGNED_LABEL + payload)
    signed = manifest.SignedManifest(
        payload=payload,
        administrator=ADMINISTRATOR.public_key().public_bytes_raw(),
        signature=signature,
    )
    with pytest.raises(Malformed, match="twice"):
        manifest.accept(msgspec.json.encode(signed))


PEM = certificate()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"deployment": "Wallet"}, "deployment"),
        ({"deployment": "a\n"}, "deployment"),
        ({"deployment": "../x"}, "deployment"),
        ({"deployment": ""}, "deployment"),
        ({"version": 0}, "version"),
        ({"version": 1 << 53}, "version"),
        ({"version": "1"}, "version"),
        ({"version": True}, "version"),
        ({"format": "nitrosigner/manifest/2"}, "format"),
        ({"networks": []}, "networks"),
        ({"networks": [{"name": "a", "chain_id": 0}]}, "chain_id"),
        ({"networks": [{"name": "a", "chain_id": 1 << 63}]}, "chain_id"),
        ({"networks": [{"name": "a", "chain_id": 1}] * 2}, "one name"),
        ({"networks": [{"name": "a", "chain_id": 1}, {"name": "b", "chain_id": 1}]}, "one chain id"),
        ({"aws": {"region": "us-east-1", "kms_key_arn": ARN}}, "another region"),
        ({"aws": {"region": "eu-west-1.evil", "kms_key_arn": ARN}}, "region"),
        ({"aws": {"region": "eu-west-1", "kms_key_arn": ARN.replace("key/", "alias/")}}, "kms_key_arn"),
        ({"aws": fields()["aws"] | {"kms_certificate_authorities": ["nonsense"]}}, "authority"),
        ({"clients": [client(), client(token_sha256=["b" * 64])]}, "one name"),
        ({"clients": [client(), client(name="bob")]}, "share a credential"),
        ({"clients": [client(certificates=[PEM]), client(name="bob", token_sha256=[], certificates=[PEM])]}, "share a credential"),
        ({"clients": [client(token_sha256=[])]}, "no credential"),
        ({"clients": [client(token_sha256=["A" * 64])]}, "token_sha256"),
        ({"clients": [client(certificates=["-----BEGIN CERTIFICATE-----"])]}, "PEM"),
        ({"clients": [client(certificates=[""])]}, "PEM"),
        ({"clients": [client(certificates=[PEM + certificate("second")])]}, "one PEM"),
        ({"clients": [client(operations=["everything"])]}, "operations"),
        ({"clients": [client(operations=["*"])]}, "operations"),
        ({"clients": [client(keys=["[a-z]*"])]}, "keys"),
        ({"clients": [client(keys=["Hot"])]}, "keys"),
        ({"clients": [client(keys=[""])]}, "keys"),
        ({"clients": [client(networks=["nowhere"])]}, "unknown network"),
        ({"clients": [client(limits={"max_value_wei": 5})]}, "max_value_wei"),
        ({"clients": [client(limits={"max_value_wei": "-5"})]}, "max_value_wei"),
        ({"clients": [client(limits={"max_value_wei": "1.5"})]}, "max_value_wei"),
        ({"clients": [client(limits={"max_value_wei": "05"})]}, "max_value_wei"),
        ({"clients": [client(limits={"destinations": ["0x" + "g" * 40]})]}, "destinations"),
        ({"clients": [client(limits={"destinations": ["0x12"]})]}, "destinations"),
        ({"tls_names": []}, "tls_names"),
        ({"tls_names": ["not a name"]}, "TLS name"),
        ({"tls_names": ["https://signer"]}, "TLS name"),
        ({"tls_names": ["300.1.1.1"]}, "TLS name"),
        ({"tls_names": ["a..b"]}, "TLS name"),
        ({"tls_names": ["a" * 64 + ".internal"]}, "TLS name"),
        ({"tls_names": ["signer\n"]}, "TLS name"),
        ({"tls_names": ["a"] * 33}, "tls_names"),
        ({"deleted_keys_kept_days": 1}, "deleted_keys_kept_days"),
        ({"limits": {"max_connections": 0}}, "max_connections"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_malformed_and_named(
    changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(Malformed, match=named) as caught:
        parse(**changes)
    assert caught.value.code is Code.MALFORMED_MANIFEST


@pytest.mark.parametrize(
    "name",
    ["localhost", "signer.internal", "*.elb.amazonaws.com", "10.0.0.1", "::1", "a-b.c"],
)
def test_names_and_addresses_that_a_server_may_have(name: str) -> None:
    assert parse(tls_names=[name]).tls_names == [name]


def test_nothing_is_allowed_by_default() -> None:
    with pytest.raises(Malformed, match="operations"):
        parse(clients=[{"name": "a", "token_sha256": ["a" * 64], "keys": []}])
    with pytest.raises(Malformed, match="keys"):
        parse(clients=[{"name": "a", "token_sha256": ["a" * 64], "operations": []}])
    (nobody,) = parse(clients=[client(keys=[], operations=[])]).clients
    assert nobody.unprotected_legacy is False
    assert not manifest.key_allowed(nobody, "hot")


@pytest.mark.parametrize(
    ("pattern", "name", "allowed"),
    [
        ("*", "hot", True),
        ("hot", "hot", True),
        ("hot", "hot2", False),
        ("hot-*", "hot-1", True),
        ("hot-*", "cold-hot-1", False),
        ("hot-?", "hot-12", False),
        ("h*t", "heat", True),
        ("hot.", "hotx", False),
    ],
)
def test_keys_are_matched_whole(pattern: str, name: str, allowed: bool) -> None:
    (one,) = parse(clients=[client(keys=[pattern])]).clients
    assert manifest.key_allowed(one, name) is allowed


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    (one,) = parse(clients=[client(keys=["*a" * 48 + "*"])]).clients
    assert not manifest.key_allowed(one, "a" * 47 + "b" * 51)


def test_the_largest_signed_manifest_fits_in_one_record() -> None:
    assert manifest.MAX_MANIFEST <= services.MAX_RECORD
    many = [
        client(name=f"c{number}", token_sha256=[f"{number:064x}"])
        for number in range(2000)
    ]
    with pytest.raises(Malformed, match="at most"):
        manifest.sign(parse(clients=many), ADMINISTRATOR)


def test_encryption_contexts_are_the_ones_that_policies_name() -> None:
    accepted = manifest.accept(manifest.sign(parse(), ADMINISTRATOR))
    assert manifest.encryption_context(accepted, "vault") == {
        "administrator": accepted.administrator,
        "deployment": "wallet",
        "purpose": "vault",
    }
    context = manifest.kms_key_context(
        accepted, name="hot", algorithm="secp256k1", identity="0xab"
    )
    assert context["purpose"] == "key"
    assert context["administrator"] == accepted.administrator
    assert {"deployment", "name", "algorithm", "identity"} < context.keys()


def test_a_token_and_its_digest() -> None:
    token, digest = manifest.new_token(bytes(32))
    assert base64.urlsafe_b64decode(token + "=") == bytes(32)
    assert parse(clients=[client(token_sha256=[digest])])
    assert manifest.new_token(bytes(31) + b"\1")[1] != digest


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_a_verdict(data: bytes) -> None:
    for read in (manifest.accept, manifest.parse):
        with pytest.raises((Malformed, Refused)):
            read(data)
