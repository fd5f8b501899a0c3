"""
What came back: a typed body, or the verdict that the enclave gave, raised here again.

The verdict's class follows the HTTP status, because that is what a caller must act on;
status, code, sentence and hint are the enclave's.
"""

from http import HTTPStatus
from typing import Final, NoReturn, TypeVar

import msgspec

from nitrosigner.client.transport import Answer
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided, Verdict
from nitrosigner.wire.api import ErrorBody, ErrorDetail
from nitrosigner.wire.validator_api import KeymanagerError

MAX_SENTENCE: Final = 500
_MALFORMED: Final = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    HTTPStatus.REQUEST_URI_TOO_LONG,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)

_Body = TypeVar("_Body")


def read(answer: Answer, kind: type[_Body]) -> _Body:
    """
    Return the body of a success as *kind*.

    Raises:
        Verdict: The enclave's, or `Undecided` if this is no answer of our API.
    """
    if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
        raise_verdict(answer)
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except ValueError:
        _not_our_api(answer)


def raise_verdict(answer: Answer) -> NoReturn:
    """Raise what an answer with an error status says."""
    error = _error(answer)
    kind: type[Verdict]
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        kind = Undecided
    elif answer.status in _MALFORMED:
        kind = Malformed
    else:
        kind = Refused
    raise kind(
        _code(error.code, kind),
        printable(error.message),
        printable(error.hint),
        status=answer.status,
    )


def _error(answer: Answer) -> ErrorDetail:
    try:
        return msgspec.json.decode(answer.body, type=ErrorBody).error
    except ValueError:
        pass
    try:
        # Under /eth/v1 the specification's shape is answered.
        plain = msgspec.json.decode(answer.body, type=KeymanagerError)
    except ValueError:
        _not_our_api(answer)
    return ErrorDetail(code=plain.code, message=plain.message)


def _code(code: str, kind: type[Verdict]) -> Code:
    try:
        return Code(code)
    except ValueError:
        # A newer signer than this client: the class says what to do.
        if kind is Malformed:
            return Code.MALFORMED_REQUEST
        return Code.NOT_ALLOWED if kind is Refused else Code.INTERNAL


def printable(sentence: str) -> str:
    """Return *sentence* fit for a terminal: one line, no control characters."""
    shown = "".join(c if c.isprintable() else " " for c in sentence[:MAX_SENTENCE])
    return " ".join(shown.split())


def _not_our_api(answer: Answer) -> NoReturn:
    raise Undecided(
        Code.INTERNAL,
        f"the other end answered with HTTP {answer.status} and a body that is not "
        "nitrosigner's API",
        "check that the URL is a nitrosigner's, and that its version fits this client",
    ) from None
