"""
The format of a sealed key: what is bound to it, and how it is opened again.

The header is not secret and says everything about the key; it is the associated data
of the seal, byte for byte. So a record that was renamed, given another state, moved to
another deployment or stored under another version does not open. An older version of
the whole record, put back under its old number, does: within one life of the enclave
that is noticed, across a restart it is not (THREAT_MODEL, replay).

A key serves one purpose, which its algorithm decides: no wallet's route can have a
validator's key sign, and the reverse.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from nitrosigner.trusted.enclave.attested.entropy import RandomSource
from nitrosigner.trusted.enclave.vault.vault import Vault, VaultKey, untrusted
from nitrosigner.trusted.signing.algorithms import Algorithm, Algorithms, PublicKey
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Malformed, Refused
from nitrosigner.wire import api, services

WALLET: Final = "wallet"
VALIDATOR: Final = "validator"
PURPOSES: Final[Mapping[str, str]] = {"secp256k1": WALLET, "bls12-381": VALIDATOR}
"""By algorithm. Closed list."""


class Header(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    forbid_unknown_fields=True,
    gc=False,
    tag="nitrosigner/key/1",
):
    """Everything about a key that is not secret."""

    purpose: str
    deployment: str
    name: str
    algorithm: str
    kind: api.KeyKind
    public_key: bytes
    identity: str
    state: api.KeyState
    version: int
    """The store's, under which this very record lies."""
    created: int
    """Unix seconds."""
    purge_after: int
    """Unix seconds; 0 unless deleted."""
    manifest: int
    """Version of the manifest in force when this was written. An enclave under an
    older manifest refuses the record: a rolled-back manifest opens nothing newer."""


class _Envelope(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True
):
    vault_key: bytes
    header: bytes
    nonce: bytes
    ciphertext: bytes


class Slot(msgspec.Struct, frozen=True, gc=False):
    """
    A key as memory holds it: small, and without its secret.

    Ten thousand of them are loaded at once, so there is no dict and no object that the
    garbage collector would walk.
    """

    name: str
    algorithm: str
    kind: api.KeyKind
    public_key: bytes
    identity: str
    state: api.KeyState
    version: int
    created: int
    purge_after: int
    header: bytes
    """Encoded: the associated data."""
    nonce: bytes
    ciphertext: bytes
    vault_key: VaultKey

    @property
    def purpose(self) -> str:
        """What the key is for: `WALLET` or `VALIDATOR`."""
        return PURPOSES[self.algorithm]

    def unseal(self) -> SecretBytes:
        """
        Return the secret: a private key, or for kind `kms` the KMS ciphertext.

        Raises:
            Refused: It does not open (RECORD_UNTRUSTED).
        """
        return self.vault_key.open(self.nonce, self.ciphertext, self.header)

    def stored(self) -> bytes:
        """Return the record as it lies in the store."""
        return _envelope_encoder.encode(
            _Envelope(
                self.vault_key.identifier, self.header, self.nonce, self.ciphertext
            )
        )

    def describe(self) -> api.KeyDescription:
        """Return what the outside may see."""
        return api.KeyDescription(
            name=self.name,
            algorithm=self.algorithm,
            kind=self.kind,
            public_key="0x" + self.public_key.hex(),
            identity=self.identity,
            state=self.state,
            version=self.version,
            created=self.created,
            purge_after=self.purge_after or None,
        )


_encoder = msgspec.msgpack.Encoder()
_envelope_encoder = msgspec.msgpack.Encoder()
_header_decoder = msgspec.msgpack.Decoder(Header)
_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)


def seal(
    key: VaultKey, header: Header, secret: SecretBytes, randomness: RandomSource
) -> Slot:
    """Seal *secret* as *header* says."""
    encoded = _encoder.encode(header)
    sealed = key.seal(secret.buffer, encoded, randomness)
    return _slot(header, encoded, sealed.nonce, sealed.ciphertext, key)


def open_record(
    record: services.StoredRecord,
    *,
    vault: Vault,
    deployment: str,
    manifest_version: int,
    algorithms: Algorithms,
) -> Slot:
    """
    Open a stored record once, and check that the key in it is the one it names.

    Of a validator's key only the seal is checked here. Deriving a BLS public key costs
    as much as all the rest forty times over, and the seal already says that an enclave
    of this deployment derived it when it sealed the record. `require_own_public_key`
    is asked before the first signature instead (decision 0016).

    Raises:
        Refused: It is not what this deployment sealed under this name and version.
    """
    envelope, header = _decode(record.data)
    if (
        header.purpose != PURPOSES.get(header.algorithm)
        or header.deployment != deployment
        or header.name != record.name
        or header.version != record.version
    ):
        raise untrusted("it is another record than it is stored as")
    if header.manifest > manifest_version:
        raise untrusted("it was written under a newer manifest than this one")
    algorithm = algorithms.get(header.algorithm)
    if algorithm is None:
        raise untrusted("its algorithm is not known here")
    slot = _slot(
        header,
        envelope.header,
        envelope.nonce,
        envelope.ciphertext,
        vault.key(envelope.vault_key),
    )
    if header.purpose == VALIDATOR:
        _require_sealed_validator(slot, algorithm)
        return slot
    with slot.unseal() as secret:
        if slot.kind == "vault":
            require_own_public_key(slot, secret, algorithm)
    # For both kinds: the address must be the public key's.
    if _identity(algorithms, slot) != slot.identity:
        raise untrusted("its address is not its public key's")
    return slot


def _require_sealed_validator(slot: Slot, algorithm: Algorithm) -> None:
    name = "0x" + slot.public_key.hex()
    if slot.kind != "vault" or not slot.name == slot.identity == name:
        raise untrusted("it is no validator's")
    with slot.unseal() as secret:
        if len(secret) != algorithm.secret_size:
            raise untrusted("there is no private key in it")


def require_own_public_key(
    slot: Slot, secret: SecretBytes, algorithm: Algorithm
) -> None:
    """
    Raise unless *secret* is the private key of *slot*'s public key.

    Raises:
        Refused: It is not (RECORD_UNTRUSTED).
    """
    try:
        public_key = algorithm.public_key(secret)
    except Malformed as error:
        raise untrusted("there is no private key in it") from error
    if public_key != slot.public_key:
        raise untrusted("its public key is another one's")


def _identity(algorithms: Algorithms, slot: Slot) -> str:
    try:
        return algorithms[slot.algorithm].identity(PublicKey(slot.public_key))
    except Malformed as error:
        raise untrusted("its public key is none") from error


def authentic(record: services.StoredRecord, vault: Vault) -> bool:
    """Return whether *record* opens under a key of *vault*, whatever it says."""
    try:
        envelope, _ = _decode(record.data)
        with vault.key(envelope.vault_key).open(
            envelope.nonce, envelope.ciphertext, envelope.header
        ):
            return True
    except Refused:
        return False


def vault_key_of(record: services.StoredRecord) -> bytes:
    """Return under which vault key *record* says it is sealed; nothing if garbage."""
    try:
        return _decode(record.data)[0].vault_key
    except Refused:
        return b""


def _decode(data: bytes) -> tuple[_Envelope, Header]:
    try:
        envelope = _envelope_decoder.decode(data)
        return envelope, _header_decoder.decode(envelope.header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise untrusted("it is cut off, or no sealed key") from error


def _slot(
    header: Header, encoded: bytes, nonce: bytes, ciphertext: bytes, key: VaultKey
) -> Slot:
    return Slot(
        name=header.name,
        algorithm=header.algorithm,
        kind=header.kind,
        public_key=header.public_key,
        identity=header.identity,
        state=header.state,
        version=header.version,
        created=header.created,
        purge_after=header.purge_after,
        header=encoded,
        nonce=nonce,
        ciphertext=ciphertext,
        vault_key=key,
    )
