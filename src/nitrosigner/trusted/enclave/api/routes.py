"""Everything that is served. What is not in this table does not exist."""

from typing import Final

from nitrosigner.trusted.enclave.api import (
    attestation,
    health,
    json_rpc,
    keymanager,
    keys,
    metrics,
    signing,
    slashing_history,
    tls,
    validator_messages,
    validators,
    web3signer_eth1,
    web3signer_eth2,
)
from nitrosigner.trusted.enclave.api.routing import Routes

ROUTES: Final = Routes(
    (
        *keys.ROUTES,
        *signing.ROUTES,
        *attestation.ROUTES,
        *tls.ROUTES,
        *health.ROUTES,
        *json_rpc.ROUTES,
        *web3signer_eth1.ROUTES,
        *web3signer_eth2.ROUTES,
        *validators.ROUTES,
        *validator_messages.ROUTES,
        *slashing_history.ROUTES,
        *keymanager.ROUTES,
        *metrics.ROUTES,
    )
)
