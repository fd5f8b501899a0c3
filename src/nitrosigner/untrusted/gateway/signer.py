"""
How a Lambda function reaches the signer: as whom, and after what proof.

Whatever a function is for, it verifies the enclave before it sends anything, and again
whenever the enclave's certificate has changed.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

import boto3
import botocore.config
from botocore.exceptions import BotoCoreError, ClientError

from nitrosigner.attestation import trust_anchors
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.client.transport import CertificateChanged
from nitrosigner.client.verification import AWS_ONLY, Proof, verify
from nitrosigner.untrusted.gateway.configuration import Configuration
from nitrosigner.verdicts import Code, Undecided

AWS: Final = botocore.config.Config(
    connect_timeout=5,
    read_timeout=10,
    retries={"mode": "standard", "total_max_attempts": 3},
)

Result = TypeVar("Result")


def now() -> datetime:
    """Return the time, with its zone."""
    return datetime.now(UTC)


class VerifiedSigner:
    """A signer whose attestation is verified, once for each certificate it shows."""

    def __init__(
        self,
        configuration: Configuration,
        client: SignerClient,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._configuration = configuration
        self._clock = clock
        self._proof: Proof | None = None
        self.client: Final = client

    def ask(
        self, question: Callable[[Proof], Result], *, fresh: bool = False
    ) -> Result:
        """
        Answer *question* over connections that end in the verified enclave.

        Args:
            question: Is asked a second time if the certificate changed: the enclave was
                started again, or another one behind the load balancer answers. The
                connection was given up then before anything was sent.
            fresh: Verify now, whatever is known from before.
        """
        if fresh:
            self._proof = None
        try:
            return question(self._verified())
        except CertificateChanged:
            self._proof = None
            return question(self._verified())

    def _verified(self) -> Proof:
        if self._proof is None:
            wanted = self._configuration
            anchors: tuple[trust_anchors.TrustAnchor, ...] = AWS_ONLY
            if wanted.trust_root is not None:
                anchors = (
                    trust_anchors.by_fingerprint(wanted.trust_root, "TRUST_ROOT"),
                )
            self._proof = verify(
                self.client,
                now=self._clock(),
                anchors=anchors,
                pcrs={0: wanted.pcr0},
                administrator=wanted.administrator,
                deployment=wanted.deployment,
                allow_debug=wanted.debug_expected,
            )
        return self._proof


def connect(configured: Configuration) -> SignerClient:
    """
    Return the client that *configured* describes, as it is in AWS.

    Raises:
        Verdict: A file is unusable, or the token can't be fetched.
    """
    quiet_aws_logs()
    token = None
    if configured.token_secret_arn is not None:
        token = _token(configured.token_secret_arn)
    return SignerClient(
        configured.signer_url,
        ca=configured.ca,
        certificate=configured.certificate,
        key=configured.certificate_key,
        token=token,
    )


def quiet_aws_logs() -> None:
    """At DEBUG, botocore logs the bodies that it sends: a private key, for KMS."""
    for name in ("botocore", "boto3", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _token(arn: str) -> str:
    try:
        secret = boto3.client("secretsmanager", config=AWS).get_secret_value(
            SecretId=arn
        )
        token: str = secret["SecretString"].strip()
    except (BotoCoreError, ClientError, KeyError):
        raise Undecided(
            Code.CREDENTIALS_UNAVAILABLE,
            "the gateway's token could not be read from Secrets Manager",
            "check SIGNER_TOKEN_SECRET_ARN and the function's role",
        ) from None
    return token
