"""The typed client. It checks the attestation before it trusts a certificate."""
