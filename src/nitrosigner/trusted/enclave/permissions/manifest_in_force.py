"""
Reads the manifest from the parent, and holds on to the newest one ever seen.

The highest version and its digest are sealed in the `state` record. A parent that puts
back an older manifest is refused. A parent that puts back *everything* (manifest, state
and every key written since) is not noticed across a restart: nothing in here remembers
without it. What it gains is a deployment as it once was, signed by the same
administrator; revoke credentials and roles, not only manifests.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from nitrosigner.trusted.enclave.parent_link.parent_services import (
    ParentServices,
    StoreConflict,
)
from nitrosigner.trusted.enclave.vault.sealed_singles import SealedSingles, Single
from nitrosigner.trusted.enclave.vault.vault import untrusted
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Refused, Undecided
from nitrosigner.wire import manifest

COLLECTION: Final = "manifest"
CURRENT: Final = "current"
_PURPOSE: Final = "state"
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class ManifestInForce:
    """An accepted manifest and the bytes that were signed."""

    accepted: manifest.AcceptedManifest
    payload: bytes


class _Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    digest: str


async def read_manifest(store: ParentServices) -> ManifestInForce:
    """
    Return the manifest that the parent holds, with a checked signature.

    Raises:
        Malformed: It is none.
        Refused: Its signature is wrong.
        Undecided: There is none yet, or the store did not answer.
    """
    stored = await store.get(COLLECTION, CURRENT)
    if stored is None:
        raise Undecided(
            Code.NOT_READY,
            "no manifest has been given yet",
            "nitrosigner manifest new makes one, nitrosigner manifest sign signs it",
        )
    accepted = manifest.accept(stored.data)
    signed = msgspec.json.decode(stored.data, type=manifest.SignedManifest)
    return ManifestInForce(accepted, signed.payload)


async def admit_manifest(
    singles: SealedSingles, accepted: manifest.AcceptedManifest
) -> None:
    """
    Refuse a manifest older than one that this deployment has seen; remember a newer.

    Raises:
        Refused: It is older, or another one of the same version (MANIFEST_UNTRUSTED).
        Undecided: The store did not answer.
    """
    now = _Seen(accepted.manifest.version, accepted.digest)
    for _ in range(_ATTEMPTS):
        single = await singles.read(_PURPOSE)
        if single is not None:
            seen = _decode(single)
            if seen == now:
                return
            if seen.version >= now.version:
                raise Refused(
                    Code.MANIFEST_UNTRUSTED,
                    f"manifest version {seen.version} was in force before; this one "
                    f"has version {now.version} and other contents",
                    "raise the version beyond it and sign again",
                )
        try:
            await singles.write(
                _PURPOSE,
                expected=single.version if single else 0,
                public=msgspec.json.encode(now),
                secret=SecretBytes.zeros(0),
            )
        except StoreConflict:
            # Another enclave of the deployment boots at the same time.
            continue
        return
    raise Undecided(
        Code.STORAGE_UNAVAILABLE,
        "the state record changes again and again",
        "look for several enclaves that start over and over",
    )


def _decode(single: Single) -> _Seen:
    try:
        return msgspec.json.decode(single.public, type=_Seen)
    except msgspec.DecodeError as error:
        raise untrusted("the state record is of another release") from error
