"""
The validator's Lambda function: the reference's operations, and those it lacked.

It holds no key, and no TLS key either: the enclave makes that one, so `set_tls_key`
proves the certificate instead of making it (docs/decisions/0015). Before anything is
sent the enclave is verified, as the wallet's function does.

What comes back is the operation's result in the reference's type (`"OK"`, a list of
keys, …), or `{"error": {code, message, hint}}`.
"""

import base64
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.client.verification import Proof, attested_authority
from nitrosigner.untrusted.gateway import configuration, validator_events
from nitrosigner.untrusted.gateway.configuration import Configuration
from nitrosigner.untrusted.gateway.instance_control import (
    InstanceControl,
    RunCommand,
    names_from,
)
from nitrosigner.untrusted.gateway.signer import VerifiedSigner, connect, now
from nitrosigner.verdicts import Code, Undecided, Verdict
from nitrosigner.wire import api

OK: Final = "OK"


@dataclass
class Validator:
    """The operations, over one signer. Make one for each process."""

    configuration: Configuration
    client: SignerClient
    control: Callable[[], InstanceControl]
    """Makes the control when the first `start` or `stop` needs it."""
    now: Callable[[], datetime] = now
    _signer: VerifiedSigner = field(init=False)

    def __post_init__(self) -> None:
        """Verify before the first event, not yet."""
        self._signer = VerifiedSigner(self.configuration, self.client, self.now)

    def answer(self, event: object) -> Any:  # noqa: ANN401  # each operation has its own
        """
        Do what *event* asks and return the result as JSON values.

        Raises:
            Verdict: It was not done.
        """
        match validator_events.read(event):
            case validator_events.Start():
                # There may be nobody to verify yet.
                return self.control().order("start")
            case validator_events.Stop():
                return self.control().order("stop")
            case validator_events.SetTlsKey():
                return self._signer.ask(self._tls, fresh=True)
            case validator_events.GetTlsKey():
                return self._signer.ask(self._authority)
            case validator_events.Web3signerStatus():
                return self._signer.ask(lambda _: self._status())
            case validator_events.Web3signerPublicKeys():
                return self._signer.ask(lambda _: self.client.validator_public_keys())
            case validator_events.Reload():
                return self._signer.ask(lambda _: _json(self.client.reload()))
            case validator_events.Healthcheck():
                return self._signer.ask(lambda _: _json(self.client.health()))
            case _:  # pragma: no cover  # `read` returns nothing else
                raise AssertionError

    def _tls(self, proof: Proof) -> dict[str, Any]:
        authority = attested_authority(self.client, proof)
        leaf = x509.load_der_x509_certificate(proof.certificate_der)
        return {
            "made_by": (
                "an operator, who imported it: others may have its key"
                if proof.statement.tls_imported
                else "the enclave: no TLS key was made or stored by this function"
            ),
            "attested": True,
            "emulated": proof.emulated,
            "pcr0": proof.attestation.pcrs[0].hex(),
            "deployment": proof.statement.deployment,
            "certificate_pem": leaf.public_bytes(serialization.Encoding.PEM).decode(),
            "certificate_sha256": proof.certificate,
            "not_valid_after": leaf.not_valid_after_utc.isoformat(),
            "authority_pem": authority.decode(),
            "authority_sha256": x509.load_pem_x509_certificate(authority)
            .fingerprint(hashes.SHA256())
            .hex(),
        }

    def _authority(self, proof: Proof) -> str:
        return base64.b64encode(attested_authority(self.client, proof)).decode()

    def _status(self) -> str:
        if not self.client.upcheck():
            raise Undecided(
                Code.NOT_READY,
                "the signer answers, and not with OK",
                "ask healthcheck what it waits for",
            )
        return OK


def handler(event: object, context: object) -> Any:  # noqa: ANN401, ARG001  # Lambda's
    """Answer one event. This is the function's entry point."""
    return answer(event, _validator)


def answer(event: object, validator: Callable[[], Validator]) -> Any:  # noqa: ANN401  # as above
    """Return the result, or the error as JSON values. Raises only for our own bugs."""
    try:
        return validator().answer(event)
    except Verdict as verdict:
        return msgspec.to_builtins(api.error_body(verdict))


@functools.cache
def _validator() -> Validator:
    # What raises is not cached: the next event tries again.
    configured = configuration.from_environment(os.environ)
    return Validator(
        configured,
        connect(configured),
        control=lambda: RunCommand(names_from(os.environ)),
    )


def _json(value: msgspec.Struct) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(value)
    return built
