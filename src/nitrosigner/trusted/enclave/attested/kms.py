"""
The attested KMS client: KMS answers to a key that only this enclave holds.

Every call carries `Recipient` and an encryption context, and names the key by its full
ARN; the answer must name the same. A plaintext in an attested answer means that
somebody other than KMS, or KMS without attestation, is talking: it is refused and
never used.
"""

import asyncio
import base64
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from nitrosigner.trusted.enclave.attested.aws_endpoint import AwsEndpoint, EndpointError
from nitrosigner.trusted.enclave.attested.aws_errors import Meaning, Remedy, meaning
from nitrosigner.trusted.enclave.attested.cms import EnvelopeError, open_envelope
from nitrosigner.trusted.enclave.attested.recipient import Recipient
from nitrosigner.trusted.enclave.attested.sigv4 import AccessKey, signed_headers
from nitrosigner.trusted.enclave.ports import Clock
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Refused, Undecided
from nitrosigner.wire import services
from nitrosigner.wire.manifest import Aws

MAX_CIPHERTEXT: Final = 6144
"""Bytes of a KMS ciphertext."""
_RENEW_BEFORE: Final = 300
"""Seconds before their end from which credentials are fetched anew."""


class CredentialSource(Protocol):
    """Where the role's credentials come from. They allow calls, they open nothing."""

    async def credentials(self) -> services.Credentials:
        """Return current credentials. Raises Undecided."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one call is tried again, in seconds."""

    deadline: float = 15.0
    first_pause: float = 0.1
    longest_pause: float = 2.0


@dataclass(frozen=True, slots=True)
class DataKey:
    """A new data key: the secret, and the ciphertext that KMS opens again."""

    secret: SecretBytes
    ciphertext: bytes


class _Answer(msgspec.Struct):
    """Of Decrypt and GenerateDataKey. KMS may add fields; we read these."""

    KeyId: str
    Plaintext: str | None = None
    CiphertextForRecipient: bytes = b""
    CiphertextBlob: bytes = b""


class _Again(Exception):
    """KMS answered with an error that has a meaning."""

    def __init__(self, what: Meaning) -> None:
        super().__init__(what.sentence)
        self.meaning = what


class Kms:
    """Calls one key in one region."""

    def __init__(
        self,
        *,
        endpoint: AwsEndpoint,
        credentials: CredentialSource,
        recipient: Recipient,
        clock: Clock,
        aws: Aws,
        patience: Patience = Patience(),
        on_date: Callable[[str], None] = lambda _: None,
    ) -> None:
        """
        Make it; nothing is asked yet.

        Args:
            endpoint: Where KMS is.
            credentials: Of the role that may ask.
            recipient: Whom KMS answers to.
            clock: For the requests' signatures: AWS judges their age.
            aws: The key and its region.
            patience: With an absent KMS.
            on_date: Hears when an answer was made, as KMS says.
        """
        self._endpoint = endpoint
        self._source = credentials
        self._recipient = recipient
        self._clock = clock
        self._aws = aws
        self._patience = patience
        self._on_date = on_date
        self._credentials: services.Credentials | None = None
        self.calls = 0
        """Answered requests since boot, errors included."""
        self.healthy = False
        """Whether the last call succeeded."""

    async def reach(self) -> None:
        """
        Have credentials and a TLS connection, without asking KMS anything.

        Raises:
            Undecided: CREDENTIALS_UNAVAILABLE or KMS_UNAVAILABLE.
        """
        await self._access_key()
        try:
            await self._endpoint.reach()
        except EndpointError as error:
            raise _unreachable(error) from error

    async def decrypt(
        self, ciphertext: bytes, context: Mapping[str, str], key: str = ""
    ) -> SecretBytes:
        """
        Return the plaintext of *ciphertext*; the caller wipes it.

        Args:
            ciphertext: As KMS made it.
            context: Under which it was made.
            key: ARN of the key that opens it. Empty: the deployment's.

        Raises:
            Refused: KMS_REFUSED, or KMS_UNTRUSTED if the answer is not KMS's.
            Undecided: No answer in time.
        """
        if not 1 <= len(ciphertext) <= MAX_CIPHERTEXT:
            raise Refused(Code.KMS_REFUSED, "this is no KMS ciphertext")
        answer = await self._call(
            "Decrypt",
            {
                "CiphertextBlob": base64.b64encode(ciphertext).decode(),
                "EncryptionContext": dict(context),
            },
            key or self._aws.kms_key_arn,
        )
        return self._open(answer)

    async def generate_data_key(self, context: Mapping[str, str]) -> DataKey:
        """
        Return a new AES-256 key and its ciphertext. Raises as `decrypt`.
        """
        answer = await self._call(
            "GenerateDataKey",
            {"KeySpec": "AES_256", "EncryptionContext": dict(context)},
            self._aws.kms_key_arn,
        )
        if not 1 <= len(answer.CiphertextBlob) <= MAX_CIPHERTEXT:
            raise _untrusted("without a ciphertext")
        secret = self._open(answer)
        if len(secret) != 32:
            secret.wipe()
            raise _untrusted("with a key of the wrong size")
        return DataKey(secret, answer.CiphertextBlob)

    def _open(self, answer: _Answer) -> SecretBytes:
        try:
            return open_envelope(answer.CiphertextForRecipient, self._recipient.kms_key)
        except EnvelopeError as error:
            raise _untrusted("with an envelope that is not KMS's for us") from error

    async def _call(
        self, operation: str, parameters: dict[str, object], key: str
    ) -> _Answer:
        give_up = self._clock.monotonic() + self._patience.deadline
        pause = self._patience.first_pause
        tried: set[Remedy] = set()
        while True:
            try:
                answer = await self._once(operation, parameters, key)
            except _Again as error:
                self.healthy = False
                remedy = error.meaning.remedy
                verdict = error.meaning.verdict()
                if remedy is not Remedy.WAIT:
                    if remedy is Remedy.NONE or remedy in tried:
                        raise verdict from error
                    tried.add(remedy)
                    self._apply(remedy)
                    continue
            except EndpointError as error:
                self.healthy = False
                verdict = _unreachable(error)
            else:
                self.healthy = True
                return answer
            # Full jitter: many enclaves that failed together do not come back together.
            wait = random.random() * pause
            if self._clock.monotonic() + wait >= give_up:
                raise verdict
            await asyncio.sleep(wait)
            pause = min(2 * pause, self._patience.longest_pause)

    def _apply(self, remedy: Remedy) -> None:
        if remedy is Remedy.NEW_CREDENTIALS:
            self._credentials = None
        else:
            self._recipient.forget_document()

    async def _once(
        self, operation: str, parameters: dict[str, object], key: str
    ) -> _Answer:
        document = await self._recipient.kms_document()
        body = msgspec.json.encode(
            {
                "KeyId": key,
                **parameters,
                "Recipient": {
                    "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
                    "AttestationDocument": base64.b64encode(document).decode(),
                },
            }
        )
        headers = signed_headers(
            host=self._endpoint.host,
            headers={
                "content-type": "application/x-amz-json-1.1",
                "x-amz-target": f"TrentService.{operation}",
            },
            body=body,
            access_key=await self._access_key(),
            region=self._aws.region,
            service="kms",
            now=self._clock.now(),
        )
        response = await self._endpoint.post(headers, body)
        self.calls += 1
        self._on_date(response.date)
        if response.status != 200:
            raise _Again(meaning(response.status, response.body))
        return self._checked(response.body, key)

    def _checked(self, body: bytes, key: str) -> _Answer:
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _untrusted("with something that is no answer") from error
        if answer.Plaintext:
            raise _untrusted("with a plaintext, as if nothing had been attested")
        if answer.KeyId != key:
            raise _untrusted("for another key than the manifest's")
        if not answer.CiphertextForRecipient:
            raise _untrusted("without an envelope for this enclave")
        return answer

    async def _access_key(self) -> AccessKey:
        held = self._credentials
        if held is None or held.expires - self._clock.now() < _RENEW_BEFORE:
            try:
                held = await self._source.credentials()
            except Undecided:
                # What we hold may still be good for some minutes: AWS decides.
                if held is None or held.expires <= self._clock.now():
                    raise
            self._credentials = held
        return AccessKey(held.access_key_id, held.secret_access_key, held.session_token)

    def close(self) -> None:
        """Close the connections."""
        self._endpoint.close()


def _untrusted(how: str) -> Refused:
    return Refused(
        Code.KMS_UNTRUSTED,
        f"what should be KMS answered {how}; nothing of it was used",
        "treat this as an attack, or as an emulator that does not attest",
    )


def _unreachable(error: EndpointError) -> Undecided:
    # Only our own fixed sentences are in an EndpointError.
    return Undecided(
        Code.KMS_UNAVAILABLE,
        f"KMS did not answer: {error}",
        "check the parent's egress proxy, its allow-list and the way to KMS; if "
        "certificates are not trusted, the manifest names who is",
    )
