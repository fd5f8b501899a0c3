"""
Connects the parts and runs them. The one place where they meet.

`world` decides whether this is production: nothing in here asks.

What the front must offer:

    server_certificate.open_identity(*, singles: SealedSingles,
        accepted: AcceptedManifest, clock: Clock) -> TlsIdentity      (async)
    front.start_front(*, world, accepted, payload: bytes, keyring, services,
        tls: TlsIdentity, health_source) -> asyncio.Server             (async)

`payload` is the manifest's signed payload (for the attestation route).
"""

from nitrosigner.trusted.enclave.ports import World


async def run(world: World) -> None:
    """Boot through the states, then serve until cancelled."""
    raise NotImplementedError
