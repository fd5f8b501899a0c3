"""
The three ways to say no, spoken in every room.

They are separate types because the caller must act differently on each:
`Malformed` (mend it and ask again), `Refused` (well formed, and we will not: never
ask again), `Undecided` (we could not find out: ask later). Nothing was signed in any
of the three. They are raised, never returned.

Across a boundary a verdict is a `Code` of the closed list below, with a sentence for
a person and a hint of what to do next; never the text of some other exception.
"""

from enum import StrEnum, unique
from typing import ClassVar, Final


@unique
class Code(StrEnum):
    """Every error code that leaves this system. Codes are stable; sentences are not."""

    # malformed: the caller's bytes are at fault
    MALFORMED_JSON = "malformed_json"
    MALFORMED_REQUEST = "malformed_request"
    MALFORMED_HTTP = "malformed_http"
    MALFORMED_TRANSACTION = "malformed_transaction"
    MALFORMED_MESSAGE = "malformed_message"
    MALFORMED_TYPED_DATA = "malformed_typed_data"
    MALFORMED_KEY = "malformed_key"
    MALFORMED_KEYSTORE = "malformed_keystore"
    MALFORMED_MANIFEST = "malformed_manifest"
    MALFORMED_HISTORY = "malformed_history"
    USAGE = "usage"
    SIGNING_ROOT_MISMATCH = "signing_root_mismatch"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    # refused: well formed, and no
    UNAUTHENTICATED = "unauthenticated"
    NOT_ALLOWED = "not_allowed"
    WRONG_CHAIN = "wrong_chain"
    WRONG_SENDER = "wrong_sender"
    OVER_LIMIT = "over_limit"
    KEY_DISABLED = "key_disabled"
    KEY_DELETED = "key_deleted"
    KEY_MISMATCH = "key_mismatch"
    RECORD_UNTRUSTED = "record_untrusted"
    MANIFEST_UNTRUSTED = "manifest_untrusted"
    ATTESTATION_UNTRUSTED = "attestation_untrusted"
    CERTIFICATE_UNTRUSTED = "certificate_untrusted"
    KMS_REFUSED = "kms_refused"
    KMS_UNTRUSTED = "kms_untrusted"
    UNKNOWN_KEY = "unknown_key"
    SLASHABLE = "slashable"
    NOT_REGISTERED = "not_registered"
    WRONG_PASSWORD = "wrong_password"  # noqa: S105 - the name of a refusal
    UNKNOWN_ROUTE = "unknown_route"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    VERSION_CONFLICT = "version_conflict"
    # undecided: not now
    NOT_READY = "not_ready"
    OVERLOADED = "overloaded"
    KMS_UNAVAILABLE = "kms_unavailable"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    CREDENTIALS_UNAVAILABLE = "credentials_unavailable"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    SIGNER_UNREACHABLE = "signer_unreachable"
    NSM_UNAVAILABLE = "nsm_unavailable"
    CLOCK_UNSOUND = "clock_unsound"
    LOCAL_STACK = "local_stack"
    INTERNAL = "internal"


class Verdict(Exception):
    """Never raised directly; catch it to mean "nothing was signed"."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(
        self, code: Code, message: str, hint: str = "", *, status: int | None = None
    ) -> None:
        """
        Say no.

        Args:
            code: What went wrong, from the closed list.
            message: One sentence for a person. Never holds a secret, a request
                body or another exception's text.
            hint: What to do next, if there is something to do.
            status: The HTTP status that carries it, where that is not the one that
                follows from *code*: what somebody else answered, for one.
        """
        super().__init__(message)
        self.code: Final = code
        self.message: Final = message
        self.hint: Final = hint
        self._status = status

    @property
    def status(self) -> int:
        """The HTTP status that carries this verdict."""
        return self._status or _STATUS.get(self.code, self.http_status)


class Malformed(Verdict, ValueError):
    """The request is not well formed. Mend it and ask again."""

    exit_code = 2
    http_status = 400


class Refused(Verdict):
    """The request is well formed and we will not do it. Never ask again."""

    exit_code = 3
    http_status = 403


class Undecided(Verdict):
    """We could not find out, or could not do it now. Ask again later."""

    exit_code = 4
    http_status = 503


_STATUS: Final = {
    Code.TOO_LARGE: 413,
    Code.TOO_SLOW: 408,
    Code.UNKNOWN_KEY: 404,
    Code.UNKNOWN_ROUTE: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.VERSION_CONFLICT: 412,
}
