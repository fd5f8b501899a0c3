"""
Bring validators' keys, or what they derive from, into the enclave unread by anybody.

As `import_key`: wrapped to the import key that a *verified* attestation document
vouches for. What a key has signed elsewhere travels along in the request: the enclave
makes that history durable before it stores the key, so there is no moment in which the
key is there and its past is not.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from nitrosigner.client.import_key import check_same_signer
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.client.verification import Proof
from nitrosigner.verdicts import Code, Malformed, Refused
from nitrosigner.wire import api, import_wrapping
from nitrosigner.wire import validator_api as wire

BACKUP_NAME: Final = "validators/backup"
MNEMONIC_WORDS: Final = frozenset({12, 15, 18, 21, 24})
MAX_MNEMONIC: Final = 400
"""Bytes: with the wrapping's 48 it must stay under `import_wrapping.MAX_WRAPPED`."""


def validator_name(public_key: bytes) -> str:
    """Return what the signer calls the validator of *public_key*, 48 bytes."""
    return "0x" + public_key.hex()


def import_validator(
    client: SignerClient,
    proof: Proof,
    secret: bytearray,
    public_key: bytes,
    *,
    history: wire.SlashingHistory | None = None,
    version: int = 0,
) -> api.KeyDescription:
    """
    Import one validator's key together with what it has signed.

    Args:
        client: The client that *proof* was obtained with.
        proof: What `verification.verify` returned, in this run of the enclave.
        secret: The private key, 32 bytes; the caller wipes it.
        public_key: 48 bytes; the enclave refuses the key if it has another.
        history: An interchange document of this validator alone. None: it has never
            signed anything.
        version: 0 for a new one, else the current version of the record to replace.

    Raises:
        Refused: The enclave that was verified is not the one that answers, or it
            refused; nothing was imported.
    """
    check_same_signer(client, proof)
    name = validator_name(public_key)
    wrapped = _wrap(proof, secret, name=name, identity=name)
    description = client.import_wrapped_validator(
        wire.ImportValidator(
            identity=name, wrapped_key=wrapped, history=history, version=version
        )
    )
    if description.name != name:
        raise Refused(
            Code.KEY_MISMATCH,
            "the enclave says that the imported key is another validator's",
            "do not use the key; nitrosigner validators list says what is stored",
        )
    return description


@dataclass(frozen=True, slots=True)
class Range:
    """Which of a seed's validators: m/12381/3600/i/0/0 for i from start."""

    start: int = 0
    count: int = 1


def derive_validators(
    client: SignerClient,
    proof: Proof,
    mnemonic: bytearray | None,
    which: Range,
    *,
    backup_recipient: bytes | None = None,
    history: wire.SlashingHistory | None = None,
) -> wire.DerivedValidators:
    """
    Have the enclave derive validators from *mnemonic*, or from one that it makes.

    Args:
        client: The client that *proof* was obtained with.
        proof: As for `import_validator`.
        mnemonic: BIP-39 words, UTF-8; the caller wipes it. None: a new one is made
            inside, and leaves it only as the backup.
        which: The indices.
        backup_recipient: A raw X25519 public key of somebody offline.
        history: What these validators have signed elsewhere.

    Raises:
        Malformed: The words are too few or too many; nothing was sent.
        Refused: As `import_validator`.
    """
    check_same_signer(client, proof)
    kind: Literal["mnemonic", "new"] = "new" if mnemonic is None else "mnemonic"
    wrapped = None
    if mnemonic is not None:
        _check_words(mnemonic)
        wrapped = _wrap(proof, mnemonic, name=wire.DERIVE_NAME, identity=kind)
    return client.derive_wrapped_validators(
        wire.DeriveValidators(
            kind=kind,
            wrapped=wrapped,
            start=which.start,
            count=which.count,
            backup_recipient=None
            if backup_recipient is None
            else base64.b64encode(backup_recipient).decode(),
            history=history,
        )
    )


def backup_info(deployment: str) -> bytes:
    """Return the HPKE `info` under which *deployment*'s backups are encrypted."""
    return import_wrapping.import_info(
        deployment=deployment,
        name=BACKUP_NAME,
        algorithm=wire.ALGORITHM,
        identity="mnemonic",
    )


def _wrap(proof: Proof, secret: bytearray, *, name: str, identity: str) -> str:
    info = import_wrapping.import_info(
        deployment=proof.statement.deployment,
        name=name,
        algorithm=wire.ALGORITHM,
        identity=identity,
    )
    wrapped = import_wrapping.wrap(secret, proof.import_key, info)
    return base64.b64encode(wrapped).decode()


def _check_words(mnemonic: Sequence[int]) -> None:
    words = len(bytes(mnemonic).split(b"\n")[0].split(b" "))
    if words not in MNEMONIC_WORDS or len(mnemonic) > MAX_MNEMONIC:
        raise Malformed(
            Code.MALFORMED_KEY,
            "this is no mnemonic: it has 12, 15, 18, 21 or 24 words",
            "write the words in order, with a space between them",
        )
