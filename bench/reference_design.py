"""
A model of the AWS reference wallet's path for one signature.

The reference starts a program for each signature that makes an RSA-2048 key for its
attestation document and lets KMS answer to it, then signs with eth-account. Modelled:
one process per signature that makes the RSA key (openssl), the OAEP decryption, and
eth-account's signature, one after the other, as its single-threaded server does. Not
modelled, in the reference's favour: the KMS call itself, vsock-proxy, TLS and HTTP.
"""

import shutil
import subprocess
import time
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from eth_account import Account

_OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


def measure(transaction: dict[str, Any], seconds: float = 5.0) -> dict[str, float]:
    """Return signatures a second of the model, and of the model without key making."""
    openssl = shutil.which("openssl")
    if openssl is None:
        msg = "the model of the reference design needs openssl: apt-get install openssl"
        raise SystemExit(msg)
    recipient = rsa.generate_private_key(65537, 2048)
    key = b"\x11" * 32
    wrapped = recipient.public_key().encrypt(key, _OAEP)

    def one(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)
        plaintext = recipient.decrypt(wrapped, _OAEP)
        Account.from_key(plaintext).sign_transaction(transaction)

    def rate(*command: str) -> float:
        count, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            one(*command)
            count += 1
        return count / (time.perf_counter() - begun)

    options = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
    return {
        "per_second": rate(openssl, "genpkey", *options),
        "per_second_without_rsa_key": rate(openssl, "version"),
    }
