"""
Bring validators' keys, or what they derive from, into the enclave unread by anybody.

As `import_key`: wrapped to the import key that a *verified* attestation document
vouches for. What a key has signed elsewhere travels along in the request: the enclave
makes that history durable before it stores the key, so there is no moment in which the
key is there and its past is not.
"""

import base64
from dataclasses import dataclass
from typing import Final

from nitrosigner.client.import_key import check_same_signer
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.client.verification import Proof
from nitrosigner.verdicts import Code, Malformed, Refused
from nitrosigner.wire import api, import_wrapping
from nitrosigner.wire import validator_api as wire

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
) -> api.KeyDescription:
    """
    Import one validator's key together with what it has signed.

    One that is here already stays as it is; its history moves forward.

    Args:
        client: The client that *proof* was obtained with.
        proof: What `verification.verify` returned, in this run of the enclave.
        secret: The private key, 32 bytes; the caller wipes it.
        public_key: 48 bytes; the enclave refuses the key if it has another.
        history: An interchange document of this validator alone. None: it has never
            signed anything elsewhere.

    Raises:
        Refused: The enclave that was verified is not the one that answers, or it
            refused; nothing was imported.
    """
    check_same_signer(client, proof)
    name = validator_name(public_key)
    info = import_wrapping.import_info(
        deployment=proof.statement.deployment,
        name=name,
        algorithm=wire.ALGORITHM,
        identity=name,
    )
    wrapped = base64.b64encode(
        import_wrapping.wrap(secret, proof.import_key, info)
    ).decode()
    description = client.import_wrapped_validator(
        wire.ImportValidator(identity=name, wrapped_key=wrapped, history=history)
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
) -> wire.DerivedValidators:
    """
    Have the enclave derive validators from *mnemonic*, or from one that it makes.

    Args:
        client: The client that *proof* was obtained with.
        proof: As for `import_validator`.
        mnemonic: As `wrapped_mnemonic` takes it. None: a new one is made inside, and
            leaves it only as the backup.
        which: The indices.
        backup_recipient: A raw X25519 public key of somebody offline.

    Raises:
        Malformed: The words are too few or too many; nothing was sent.
        Refused: As `import_validator`.
    """
    check_same_signer(client, proof)
    if mnemonic is None:
        seed = wire.Seed(form="new")
    else:
        seed = wrapped_mnemonic(proof, mnemonic)
    recipient = None
    if backup_recipient is not None:
        recipient = base64.b64encode(backup_recipient).decode()
    return client.derive_wrapped_validators(
        wire.DeriveValidators(
            seed=seed,
            start=which.start,
            count=which.count,
            backup_recipient=recipient,
        )
    )


def wrapped_mnemonic(proof: Proof, mnemonic: bytearray) -> wire.Seed:
    """
    Wrap BIP-39 words (UTF-8), and after a line feed their passphrase if there is one.

    The caller wipes *mnemonic*. The enclave checks the words themselves.

    Raises:
        Malformed: The words are too few or too many.
    """
    words = len(bytes(mnemonic).split(b"\n", 1)[0].split(b" "))
    if words not in MNEMONIC_WORDS or len(mnemonic) > MAX_MNEMONIC:
        raise Malformed(
            Code.MALFORMED_KEY,
            "this is no mnemonic: it has 12, 15, 18, 21 or 24 words",
            "write the words in order, with a space between them",
        )
    info = import_wrapping.seed_info(
        deployment=proof.statement.deployment, form="mnemonic"
    )
    wrapped = import_wrapping.wrap(mnemonic, proof.import_key, info)
    return wire.Seed(form="mnemonic", wrapped=base64.b64encode(wrapped).decode())
