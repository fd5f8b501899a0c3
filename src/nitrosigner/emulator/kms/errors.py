"""
The refusals of AWS KMS, by AWS's names and HTTP statuses.

Clients act on the name (`__type`), so a name is never invented here. An error that
AWS answers without a sentence, such as InvalidCiphertextException, has none here
either: a reader that needs one would fail against AWS.
"""

from typing import Final

_SERVER_FAULTS: Final = {
    "KMSInternalException": 500,
    "KeyUnavailableException": 500,
    "InternalFailure": 500,
    "DependencyTimeoutException": 503,
    "ServiceUnavailableException": 503,
}
"""Everything else is 400: AWS JSON 1.1 puts what happened into the body."""
_OF_FRAMEWORK: Final = {"SerializationException", "UnknownOperationException"}


class KmsError(Exception):
    """An answer that is not the one asked for."""

    def __init__(self, code: str, message: str = "") -> None:
        """Say no with AWS's *code*, and AWS's sentence where it has one."""
        super().__init__(code)
        self.code: Final = code
        self.message: Final = message
        self.status: Final = _SERVER_FAULTS.get(code, 400)

    @property
    def body(self) -> dict[str, str]:
        """The error as AWS JSON 1.1 writes it."""
        # What the framework says before KMS is asked carries its namespace; clients
        # cut it off.
        space = "com.amazon.coral.service#" if self.code in _OF_FRAMEWORK else ""
        answer = {"__type": space + self.code}
        if self.message:
            # Authorization comes from another layer at AWS, and writes a capital M.
            capital = self.code == "AccessDeniedException"
            answer["Message" if capital else "message"] = self.message
        return answer


def invalid(message: str) -> KmsError:
    """Return the error for a value outside its limits."""
    return KmsError("ValidationException", message)
