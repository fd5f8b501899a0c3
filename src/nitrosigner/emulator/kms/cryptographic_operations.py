"""
Operations that use key material.

Each has the same order: find the key, check the document, ask the policies, look at
the key's state, and only then touch the key. Where a document came with the request,
the plaintext leaves in an envelope for the enclave and `Plaintext` stays empty.
"""

import secrets
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from nitrosigner.emulator.kms import requests
from nitrosigner.emulator.kms.call import Call, need_enabled
from nitrosigner.emulator.kms.envelope import seal
from nitrosigner.emulator.kms.errors import KmsError, invalid
from nitrosigner.emulator.kms.key_material import key_of
from nitrosigner.emulator.kms.store import KeyRow

Answer = dict[str, Any]
_SYMMETRIC: Final = "SYMMETRIC_DEFAULT"
_ALGORITHM: Final = {"kms:EncryptionAlgorithm": _SYMMETRIC}
_KEY_SIZES: Final = {"AES_128": 16, "AES_256": 32}
_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "ECC_NIST_P256": ec.SECP256R1,
    "ECC_NIST_P384": ec.SECP384R1,
    "ECC_NIST_P521": ec.SECP521R1,
    "ECC_SECG_P256K1": ec.SECP256K1,
}
_RSA_SIZES: Final = {"RSA_2048": 2048, "RSA_3072": 3072, "RSA_4096": 4096}


def encrypt(call: Call, request: requests.Encrypt) -> Answer:
    """Encrypt up to 4096 bytes."""
    key = _ready(call, request.key_id, request.encryption_context)
    _only_symmetric(request.encryption_algorithm)
    _allowed(call, key, dry_run=request.dry_run, more=_ALGORITHM)
    blob = call.kms.root_key.encrypt(key, request.plaintext, request.encryption_context)
    return {
        "CiphertextBlob": blob,
        "KeyId": call.key_arn,
        "EncryptionAlgorithm": _SYMMETRIC,
    }


def decrypt(call: Call, request: requests.Decrypt) -> Answer:
    """Open a CiphertextBlob."""
    _only_symmetric(request.encryption_algorithm)
    _bind(call, request.encryption_context)
    key = _source_key(call, request.key_id, request.ciphertext_blob)
    call.attested(request.recipient)
    call.authorize(key, more=_ALGORITHM)
    _same_key(key, request.ciphertext_blob)
    need_enabled(key, call.key_arn)
    _stop_if_dry(dry_run=request.dry_run)
    plain = call.kms.root_key.decrypt(
        key, request.ciphertext_blob, request.encryption_context
    )
    return {
        "KeyId": call.key_arn,
        "EncryptionAlgorithm": _SYMMETRIC,
        **_to_caller(call, "Plaintext", plain),
    }


def re_encrypt(call: Call, request: requests.ReEncrypt) -> Answer:
    """Open under one key and context, and encrypt under another."""
    _only_symmetric(request.source_encryption_algorithm)
    _only_symmetric(request.destination_encryption_algorithm)
    destination = call.key(request.destination_key_id)
    source = _source_key(call, request.source_key_id, request.ciphertext_blob)
    on_same_key = str(source.id == destination.id).lower()
    same = {"kms:ReEncryptOnSameKey": on_same_key, **_ALGORITHM}
    _bind(call, request.source_encryption_context)
    call.authorize(source, action="ReEncryptFrom", more=same)
    _bind(call, request.destination_encryption_context)
    call.authorize(destination, action="ReEncryptTo", more=same)
    _same_key(source, request.ciphertext_blob)
    need_enabled(source, call.kms.arn(source.id))
    need_enabled(destination, call.kms.arn(destination.id))
    _stop_if_dry(dry_run=request.dry_run)
    plain = call.kms.root_key.decrypt(
        source, request.ciphertext_blob, request.source_encryption_context
    )
    blob = call.kms.root_key.encrypt(
        destination, plain, request.destination_encryption_context
    )
    return {
        "CiphertextBlob": blob,
        "SourceKeyId": call.kms.arn(source.id),
        "KeyId": call.kms.arn(destination.id),
        "SourceEncryptionAlgorithm": _SYMMETRIC,
        "DestinationEncryptionAlgorithm": _SYMMETRIC,
    }


def generate_data_key(call: Call, request: requests.GenerateDataKey) -> Answer:
    """Make a symmetric key and encrypt it."""
    size = _data_key_size(request.number_of_bytes, request.key_spec)
    key = _ready(call, request.key_id, request.encryption_context)
    call.attested(request.recipient)
    _allowed(call, key, dry_run=request.dry_run)
    plain = secrets.token_bytes(size)
    blob = call.kms.root_key.encrypt(key, plain, request.encryption_context)
    return {
        "KeyId": call.key_arn,
        "CiphertextBlob": blob,
        **_to_caller(call, "Plaintext", plain),
    }


def generate_data_key_without_plaintext(
    call: Call, request: requests.GenerateDataKeyWithoutPlaintext
) -> Answer:
    """Make a symmetric key that only Decrypt will show."""
    size = _data_key_size(request.number_of_bytes, request.key_spec)
    key = _ready(call, request.key_id, request.encryption_context)
    _allowed(call, key, dry_run=request.dry_run)
    blob = call.kms.root_key.encrypt(
        key, secrets.token_bytes(size), request.encryption_context
    )
    return {"KeyId": call.key_arn, "CiphertextBlob": blob}


def generate_data_key_pair(call: Call, request: requests.GenerateDataKeyPair) -> Answer:
    """Make a key pair and encrypt its private key."""
    key = _ready(call, request.key_id, request.encryption_context)
    call.attested(request.recipient)
    return _key_pair(call, key, request, plaintext=True)


def generate_data_key_pair_without_plaintext(
    call: Call, request: requests.GenerateDataKeyPairWithoutPlaintext
) -> Answer:
    """Make a key pair whose private key only Decrypt will show."""
    key = _ready(call, request.key_id, request.encryption_context)
    return _key_pair(call, key, request, plaintext=False)


def generate_random(call: Call, request: requests.GenerateRandom) -> Answer:
    """Return random bytes."""
    call.attested(request.recipient)
    call.authorize(None)
    return _to_caller(call, "Plaintext", secrets.token_bytes(request.number_of_bytes))


def _ready(call: Call, reference: str, context: requests.Context) -> KeyRow:
    _bind(call, context)
    return call.key(reference)


def _bind(call: Call, context: requests.Context) -> None:
    requests.check_context(context)
    call.encryption_context = context


def _allowed(
    call: Call, key: KeyRow, *, dry_run: bool, more: dict[str, str] | None = None
) -> None:
    call.authorize(key, more=more)
    need_enabled(key, call.key_arn)
    _stop_if_dry(dry_run=dry_run)


def _stop_if_dry(*, dry_run: bool) -> None:
    if dry_run:
        raise KmsError(
            "DryRunOperationException",
            "The request would have succeeded, but the DryRun option is set.",
        )


def _source_key(call: Call, reference: str | None, blob: bytes) -> KeyRow:
    # A named key is looked up first, so that a caller without rights on the named one
    # learns nothing about the ciphertext.
    if reference is not None:
        return call.key(reference)
    return call.key_of_ciphertext(key_of(blob))


def _same_key(key: KeyRow, blob: bytes) -> None:
    if key_of(blob) != key.id:
        raise KmsError(
            "IncorrectKeyException",
            "The key ID in the request does not identify a CMK that can perform this "
            "operation.",
        )


def _data_key_size(count: int | None, spec: str | None) -> int:
    if (count is None) == (spec is None):
        raise invalid("Please specify either number of bytes or key spec.")
    if count is not None:
        return count
    if spec not in _KEY_SIZES:
        raise invalid("KeySpec is AES_128 or AES_256.")
    return _KEY_SIZES[spec]


def _only_symmetric(algorithm: str) -> None:
    if algorithm != _SYMMETRIC:
        raise KmsError(
            "InvalidKeyUsageException",
            "The algorithm does not fit a symmetric key.",
        )


def _to_caller(call: Call, name: str, plain: bytes) -> Answer:
    if call.document is None:
        return {name: plain}
    envelope = seal(plain, call.document.public_key)
    # AWS's reference: "null or empty". A reader must take either.
    empty: Answer = secrets.choice(({}, {name: b""}, {name: None}))
    return {**empty, "CiphertextForRecipient": envelope}


_PairRequest = (
    requests.GenerateDataKeyPair | requests.GenerateDataKeyPairWithoutPlaintext
)


def _key_pair(
    call: Call, key: KeyRow, request: _PairRequest, *, plaintext: bool
) -> Answer:
    spec = request.key_pair_spec
    if spec not in {*_CURVES, *_RSA_SIZES, "ECC_NIST_EDWARDS25519"}:
        raise invalid("KeyPairSpec is not one that the emulated KMS has.")
    _allowed(call, key, dry_run=request.dry_run, more={"kms:DataKeyPairSpec": spec})
    private = _new_private_key(spec)
    plain = private.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    answer: Answer = {
        "PrivateKeyCiphertextBlob": call.kms.root_key.encrypt(
            key, plain, request.encryption_context
        ),
        "PublicKey": private.public_key().public_bytes(
            serialization.Encoding.DER,
            serialization.PublicFormat.SubjectPublicKeyInfo,
        ),
        "KeyId": call.key_arn,
        "KeyPairSpec": spec,
    }
    if plaintext:
        answer |= _to_caller(call, "PrivateKeyPlaintext", plain)
    return answer


def _new_private_key(
    spec: str,
) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey:
    if spec in _RSA_SIZES:
        return rsa.generate_private_key(65537, _RSA_SIZES[spec])
    if spec in _CURVES:
        return ec.generate_private_key(_CURVES[spec]())
    return ed25519.Ed25519PrivateKey.generate()
