"""The typed client. It checks the attestation before it trusts a certificate."""

from nitrosigner.client.signer_client import SignerClient

__all__ = ["SignerClient"]
