"""
What a verifier says when it does not believe a document.

Two verdicts, because the caller acts differently on them: bytes that are no
attestation document at all (`MalformedDocument`), and a document that is one and is
not believed (`UntrustedDocument`). Catch `AttestationError` to mean either.
"""

from nitrosigner.verdicts import Code, Malformed, Refused, Verdict


class AttestationError(Verdict):
    """Nothing in the document may be relied upon. Always one of the two below."""


class MalformedDocument(AttestationError, Malformed):
    """Bytes that are no attestation document."""

    def __init__(self, message: str, hint: str = "") -> None:
        """Say in one sentence which part is at fault."""
        super().__init__(Code.ATTESTATION_UNTRUSTED, message, hint)


class UntrustedDocument(AttestationError, Refused):
    """An attestation document that does not prove what was asked of it."""

    def __init__(self, message: str, hint: str = "") -> None:
        """Say in one sentence which check failed."""
        super().__init__(Code.ATTESTATION_UNTRUSTED, message, hint)
