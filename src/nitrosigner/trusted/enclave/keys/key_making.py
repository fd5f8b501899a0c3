"""
How a key comes to be: made inside, unwrapped, or opened by KMS.

Every way ends in the same place: the public key is derived from the secret, the address
from the public key, and only then is anything stored.
"""

import asyncio
import re
from typing import Final

from nitrosigner.trusted.enclave.attested.entropy import Entropy
from nitrosigner.trusted.enclave.attested.kms import Kms
from nitrosigner.trusted.enclave.attested.recipient import Recipient
from nitrosigner.trusted.enclave.keys.key_changes import KeyChanges
from nitrosigner.trusted.enclave.keys.key_imports import (
    from_base64,
    opened_from_kms,
    unwrapped,
)
from nitrosigner.trusted.enclave.keys.key_index import KeyIndex, looks_like_address
from nitrosigner.trusted.enclave.keys.key_lookup import (
    KeyLookup,
    deleted,
    require_version,
)
from nitrosigner.trusted.enclave.keys.key_material import matching_public_key
from nitrosigner.trusted.enclave.keys.key_writer import KeyWriter
from nitrosigner.trusted.enclave.ports import Clock
from nitrosigner.trusted.enclave.vault.sealed_records import (
    PURPOSES,
    WALLET,
    Header,
    Slot,
)
from nitrosigner.trusted.signing.algorithms import Algorithm, PublicKey
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided
from nitrosigner.wire import api

_ATTEMPTS: Final = 16
"""32 random bytes fail to be a secp256k1 key once in 2^128."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class KeyMaking:
    """Makes and imports keys. Every method runs to its end once it was begun."""

    def __init__(
        self,
        *,
        index: KeyIndex,
        lookup: KeyLookup,
        changes: KeyChanges,
        writer: KeyWriter,
        kms: Kms,
        recipient: Recipient,
        entropy: Entropy,
        clock: Clock,
    ) -> None:
        self._index = index
        self._lookup = lookup
        self._changes = changes
        self._writer = writer
        self._kms = kms
        self._recipient = recipient
        self._entropy = entropy
        self._clock = clock
        self._accepted = writer.accepted

    async def create(self, name: str, algorithm_name: str) -> Slot:
        """Make a key inside. See `Keyring.create`."""
        _require_name(name)
        algorithm = self._known(algorithm_name)
        async with self._changes.alone(name):
            self._replaceable(name, 0)
            for _ in range(_ATTEMPTS):
                # The NSM blocks for milliseconds: not on the loop that signs.
                with await asyncio.to_thread(
                    self._entropy.secret, algorithm.secret_size, algorithm.name
                ) as secret:
                    try:
                        public_key = algorithm.public_key(secret)
                    except Malformed:
                        continue
                    return await self._keep(name, algorithm, public_key, secret)
        raise Undecided(
            Code.NSM_UNAVAILABLE,
            "the random numbers never make a key",
            "start the enclave on another instance",
        )

    async def import_wrapped(self, request: api.ImportKey) -> Slot:
        """Take a wrapped key. See `Keyring.import_wrapped`."""
        _require_name(request.name)
        algorithm = self._known(request.algorithm)
        async with self._changes.alone(request.name):
            old = self._replaceable(request.name, request.version)
            with unwrapped(
                request.wrapped_key,
                recipient=self._recipient,
                deployment=self._accepted.manifest.deployment,
                name=request.name,
                algorithm=algorithm,
                identity=request.identity,
            ) as secret:
                public_key = matching_public_key(algorithm, secret, request.identity)
                return await self._keep(
                    request.name, algorithm, public_key, secret, old=old
                )

    async def import_kms(self, request: api.ImportKmsKey) -> Slot:
        """Take a KMS ciphertext. See `Keyring.import_kms`."""
        _require_name(request.name)
        algorithm = self._known(request.algorithm)
        ciphertext = from_base64(request.ciphertext)
        async with self._changes.alone(request.name):
            old = self._replaceable(request.name, request.version)
            with await opened_from_kms(
                ciphertext,
                kms=self._kms,
                accepted=self._accepted,
                name=request.name,
                algorithm=algorithm,
                identity=request.identity,
            ) as secret:
                public_key = matching_public_key(algorithm, secret, request.identity)
                if request.reseal:
                    return await self._keep(
                        request.name, algorithm, public_key, secret, old=old
                    )
            if algorithm.identity(public_key) != request.identity:
                # KMS will be asked again, under the address as we write it.
                raise Refused(
                    Code.KEY_MISMATCH,
                    "the address lacks its checksum, and KMS is bound to its spelling",
                    "encrypt under the checksummed address, or import with reseal",
                )
            return await self._keep(
                request.name,
                algorithm,
                public_key,
                SecretBytes(bytearray(ciphertext)),
                kind="kms",
                old=old,
            )

    async def _keep(
        self,
        name: str,
        algorithm: Algorithm,
        public_key: PublicKey,
        secret: SecretBytes,
        *,
        kind: api.KeyKind = "vault",
        old: Slot | None = None,
    ) -> Slot:
        identity = algorithm.identity(public_key)
        with self._changes.claim(identity, name):
            return await self._changes.write(
                Header(
                    purpose=WALLET,
                    deployment=self._accepted.manifest.deployment,
                    name=name,
                    algorithm=algorithm.name,
                    kind=kind,
                    public_key=public_key,
                    identity=identity,
                    # Whoever may import may not thereby enable what was disabled.
                    state=old.state if old else "enabled",
                    version=old.version if old else 0,
                    created=int(self._clock.now()),
                    purge_after=0,
                    manifest=self._accepted.manifest.version,
                ),
                secret,
            )

    def _replaceable(self, name: str, version: int) -> Slot | None:
        """Return the key to be replaced: none for version 0, if the name is free."""
        held = self._index.named(name)
        if version:
            slot = self._lookup.find(name)
            require_version(slot, version)
            if slot.state == "deleted":
                raise deleted()
            return slot
        if held is not None:
            raise Refused(
                Code.VERSION_CONFLICT,
                "there is a key of this name already",
                "choose another name; to replace it, import with its current version",
            )
        if len(self._index) >= self._accepted.manifest.limits.max_keys:
            raise Refused(
                Code.OVER_LIMIT,
                "there are as many keys as the manifest allows",
                "raise limits.max_keys in the manifest",
            )
        return None

    def _known(self, name: str) -> Algorithm:
        algorithm = self._writer.algorithms.get(name)
        if algorithm is None or PURPOSES[name] != WALLET:
            known = ", ".join(
                sorted(
                    each for each in self._writer.algorithms if PURPOSES[each] == WALLET
                )
            )
            raise Malformed(
                Code.MALFORMED_KEY,
                "this algorithm is not known for wallet keys",
                f"known are: {known}; validators' keys are under /api/v1/validators",
            )
        return algorithm


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name) or looks_like_address(name):
        raise Malformed(
            Code.MALFORMED_REQUEST,
            "this cannot be the name of a key",
            "1 to 64 of a-z 0-9 . _ -, the first a letter or digit, and no address",
        )
