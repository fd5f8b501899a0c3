"""
What each error of KMS means for us, and what a person should do about it.

KMS's own message is never passed on: it quotes the request.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import msgspec

from nitrosigner.verdicts import Code, Refused, Undecided, Verdict


class Remedy(Enum):
    """What the client itself can try."""

    NONE = auto()
    WAIT = auto()
    """Again, later."""
    NEW_CREDENTIALS = auto()
    """Again, once, with credentials fetched anew."""
    NEW_DOCUMENT = auto()
    """Again, once, with a new attestation document."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """One row of the table."""

    remedy: Remedy
    sentence: str
    hint: str = ""

    def verdict(self) -> Verdict:
        """Return what to raise when the remedy did not help."""
        if self.remedy is Remedy.WAIT:
            return Undecided(Code.KMS_UNAVAILABLE, self.sentence, self.hint)
        return Refused(Code.KMS_REFUSED, self.sentence, self.hint)


class _ErrorBody(msgspec.Struct):
    type_: str = msgspec.field(name="__type", default="")


_BUSY: Final = Meaning(Remedy.WAIT, "KMS is busy or failing", "it is tried again")
_CLOCK: Final = Meaning(
    Remedy.WAIT,
    "KMS did not accept the request's signature or time",
    "compare the enclave's clock with real time; AWS takes five minutes of difference",
)
_CREDENTIALS: Final = Meaning(
    Remedy.NEW_CREDENTIALS,
    "AWS does not know the credentials that the parent gave",
    "does the instance have its role, and does the role still exist?",
)
_CIPHERTEXT: Final = Meaning(
    Remedy.NONE,
    "KMS cannot open this ciphertext with this key in this context",
    "it was made with another key, deployment, administrator, name or address",
)
_STATE: Final = Meaning(
    Remedy.NONE,
    "the KMS key is disabled or about to be deleted",
    "aws kms describe-key shows its state; enable it or cancel the deletion",
)

_TABLE: Final = {
    "AccessDeniedException": Meaning(
        Remedy.NONE,
        "the KMS key policy does not allow this enclave",
        "likely causes: the image's PCR0 is not in the key policy, the manifest is "
        "signed by another administrator than the policy names, or the instance has "
        "another role",
    ),
    "ThrottlingException": _BUSY,
    "Throttling": _BUSY,
    "LimitExceededException": _BUSY,
    "RequestLimitExceeded": _BUSY,
    "TooManyRequestsException": _BUSY,
    "KMSInternalException": _BUSY,
    "InternalFailure": _BUSY,
    "InternalServerError": _BUSY,
    "DependencyTimeoutException": _BUSY,
    "KeyUnavailableException": _BUSY,
    "ServiceUnavailable": _BUSY,
    "ServiceUnavailableException": _BUSY,
    "ExpiredTokenException": _CREDENTIALS,
    "ExpiredToken": _CREDENTIALS,
    "UnrecognizedClientException": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "MissingAuthenticationTokenException": _CREDENTIALS,
    "InvalidSignatureException": _CLOCK,
    "SignatureDoesNotMatch": _CLOCK,
    "RequestExpired": _CLOCK,
    "RequestTimeTooSkewed": _CLOCK,
    "ValidationException": Meaning(
        Remedy.NEW_DOCUMENT,
        "KMS did not accept the attestation document or the request",
        "a document of another root, too old, or without a key is refused so; is this "
        "KMS real and the enclave emulated, or the other way round?",
    ),
    "InvalidCiphertextException": _CIPHERTEXT,
    "IncorrectKeyException": _CIPHERTEXT,
    "NotFoundException": Meaning(
        Remedy.NONE,
        "the KMS key of the manifest does not exist",
        "compare aws.kms_key_arn in the manifest with aws kms list-keys",
    ),
    "DisabledException": _STATE,
    "KMSInvalidStateException": _STATE,
}

_UNKNOWN: Final = Meaning(
    Remedy.NONE,
    "KMS refused the request",
    "CloudTrail shows the request and the reason",
)


def meaning(status: int, body: bytes) -> Meaning:
    """Return what a KMS answer that is not 200 means."""
    try:
        code = msgspec.json.decode(body, type=_ErrorBody).type_
    except (msgspec.DecodeError, UnicodeDecodeError):
        code = ""
    # Older endpoints prefix a namespace: com.amazonaws.kms#AccessDeniedException.
    known = _TABLE.get(code.rpartition("#")[2])
    if known is not None:
        return known
    return _BUSY if status >= 500 or status == 429 else _UNKNOWN
