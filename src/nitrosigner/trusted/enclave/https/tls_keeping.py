"""
Which TLS identity the deployment has: an imported one, or the enclave's own.

Both lie sealed in the store, side by side: undoing an import brings the very authority
back that clients knew before. Whatever changes is durable before it is presented, and
every enclave of the deployment comes to present it.
"""

import asyncio
import dataclasses
import datetime as dt
import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from nitrosigner.trusted.enclave.attested.recipient import Recipient
from nitrosigner.trusted.enclave.https import server_certificate
from nitrosigner.trusted.enclave.https.imported_certificate import (
    Unservable,
    chain_of,
    check,
    identity_of,
)
from nitrosigner.trusted.enclave.https.server_certificate import TlsIdentity
from nitrosigner.trusted.enclave.keys.key_imports import opened_wrap
from nitrosigner.trusted.enclave.ports import Clock
from nitrosigner.trusted.enclave.vault.sealed_singles import SealedSingles
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Malformed, Refused
from nitrosigner.wire import api, import_wrapping, statement
from nitrosigner.wire.manifest import AcceptedManifest

IMPORTED_WARNING: Final = 30 * 24 * 3600
"""Seconds before an imported certificate ends, so that a person can replace it."""
_IMPORTED: Final = "tls-imported"


def objection(tls: TlsIdentity, now: float) -> str:
    """Return what clients object to, or soon will, in a sentence; empty: nothing."""
    if not tls.trouble and tls.imported and tls.not_after - now < IMPORTED_WARNING:
        end = dt.datetime.fromtimestamp(tls.not_after, dt.UTC)
        return f"the imported certificate, or its authority's, ends at {end:%FT%TZ}"
    return tls.trouble


def statement_of(accepted: AcceptedManifest, tls: TlsIdentity) -> bytes:
    """Return what our attestation documents say of us while *tls* is shown."""
    return statement.encode(
        statement.Statement(
            deployment=accepted.manifest.deployment,
            manifest=accepted.digest,
            manifest_version=accepted.manifest.version,
            administrator=accepted.administrator,
            tls=hashlib.sha256(tls.certificate).hexdigest(),
            tls_imported=tls.imported,
        )
    )


class TlsKeeping:
    """Opens, imports, and goes back. One change at a time."""

    def __init__(
        self,
        singles: SealedSingles,
        recipient: Recipient,
        accepted: AcceptedManifest,
        clock: Clock,
    ) -> None:
        self._singles = singles
        self._recipient = recipient
        self._accepted = accepted
        self._clock = clock
        self._one = asyncio.Lock()
        self._chain = b""
        self.present: Callable[[TlsIdentity], None] = lambda _: None
        """Called with each identity that takes another one's place."""

    async def open(self) -> TlsIdentity:
        """
        Return the identity to present.

        Raises:
            Refused: A sealed record is not ours.
            Undecided: The store did not answer.
        """
        single = await self._singles.read(_IMPORTED)
        trouble, chain = "", b""
        if single is not None:
            chain = single.public
            with single.secret as key:
                try:
                    if chain:
                        identity = await self._imported(chain, key)
                        self._chain = chain
                        return identity
                except (Malformed, Refused) as verdict:
                    # A later image may serve less. With nothing to show nobody could
                    # mend it.
                    trouble = verdict.message
        own = await server_certificate.open_identity(
            singles=self._singles, accepted=self._accepted, clock=self._clock
        )
        self._chain = chain
        return dataclasses.replace(own, trouble=trouble)

    async def import_(self, request: api.ImportTls) -> TlsIdentity:
        """
        Keep and present a certificate and its key.

        Raises:
            Malformed: There is no chain, or no key that was wrapped for it.
            Refused: Clients would not take it; or somebody else was first.
            Undecided: It may have been stored. Then it is presented within minutes.
        """
        chain = chain_of(request.certificates)
        leaf = chain[0].public_bytes(serialization.Encoding.DER)
        info = import_wrapping.tls_info(
            deployment=self._accepted.manifest.deployment,
            certificate=hashlib.sha256(leaf).hexdigest(),
        )
        async with self._one:
            with opened_wrap(
                request.wrapped_key,
                self._recipient,
                info,
                import_wrapping.MAX_WRAPPED_TLS,
            ) as key:
                await asyncio.to_thread(self._check, chain, key)
                pem = b"".join(
                    each.public_bytes(serialization.Encoding.PEM) for each in chain
                )
                await self._write(pem, key)
            return await self._take_over()

    async def reset(self) -> TlsIdentity:
        """Present the enclave's own. Raises as `import_`, but not Malformed."""
        async with self._one:
            with SecretBytes.zeros(1) as nothing:
                await self._write(b"", nothing)
            return await self._take_over()

    async def refresh(self) -> None:
        """Present what another enclave of the deployment stored. Raises as `open`."""
        async with self._one:
            single = await self._singles.read(_IMPORTED)
            if single is not None:
                single.secret.wipe()
            if (single.public if single else b"") != self._chain:
                await self._take_over()

    async def _take_over(self) -> TlsIdentity:
        identity = await self.open()
        self.present(identity)
        return identity

    async def _write(self, public: bytes, secret: SecretBytes) -> None:
        held = await self._singles.read(_IMPORTED)
        if held is not None:
            held.secret.wipe()
        await self._singles.write(
            _IMPORTED,
            expected=held.version if held else 0,
            public=public,
            secret=secret,
        )

    async def _imported(self, pem: bytes, key: SecretBytes) -> TlsIdentity:
        chain = chain_of(pem.decode("ascii"))
        trouble = ""
        try:
            await asyncio.to_thread(self._check, chain, key)
        except Unservable:
            raise
        except Refused as refused:
            # It was good once. It has ended, or the manifest has new names: presenting
            # something else instead would surprise everybody, so it is said.
            trouble = refused.message
        return dataclasses.replace(identity_of(chain, key), trouble=trouble)

    def _check(self, chain: Sequence[x509.Certificate], key: SecretBytes) -> None:
        check(
            chain,
            identity_of(chain, key),
            self._accepted.manifest.tls_names,
            self._clock.now(),
        )
