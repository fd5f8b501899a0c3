"""
Ways in which the emulated KMS can fail on purpose, for tests.

A plan is a Python object that a test hands to `start`. It cannot be reached over the
network, and the stand-alone process makes none.
"""

import threading
from collections import deque
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any, Final

from nitrosigner.emulator.kms.envelope import seal
from nitrosigner.emulator.kms.errors import KmsError

FORGED_SECRET: Final = b"forged by the parent, 32 bytes!!"
"""What a forged envelope holds: well formed, and not what was asked for."""


@unique
class Fault(StrEnum):
    """What can go wrong."""

    THROTTLE = "throttle"
    INTERNAL = "internal"
    DEPENDENCY_TIMEOUT = "dependency_timeout"
    SLOW = "slow"
    """Answers rightly, after `seconds`."""
    DROP = "drop"
    """Closes the connection without an answer."""
    TRUNCATE = "truncate"
    """Announces the whole body and closes after half of it."""
    GARBAGE = "garbage"
    """200 with bytes that are no JSON."""
    NOT_AN_OBJECT = "not_an_object"
    """200 with JSON of another type."""
    HUGE = "huge"
    """200 with a body of 64 MiB."""
    HTML_ERROR = "html_error"
    """503 with a page, as load balancers write it."""
    PLAINTEXT = "plaintext"
    """An attested answer that holds Plaintext too."""
    ONLY_PLAINTEXT = "only_plaintext"
    """Plaintext in place of the envelope, as emulators without attestation answer."""
    WRONG_KEY_ID = "wrong_key_id"
    FORGED_ENVELOPE = "forged_envelope"
    """A well-formed envelope for the right enclave, holding `FORGED_SECRET`."""
    BROKEN_ENVELOPE = "broken_envelope"
    """One bit of the envelope's last block is flipped."""
    NO_ENVELOPE = "no_envelope"
    """200 without CiphertextForRecipient."""


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """One fault that will happen."""

    fault: Fault
    seconds: float = 0.0


class FaultPlan:
    """Which calls fail, and how. Safe to change while the server runs."""

    def __init__(self) -> None:
        """Nothing fails."""
        self._lock = threading.Lock()
        self._planned: dict[str, deque[PlannedFault]] = {}
        self._always: dict[str, PlannedFault] = {}
        self.happened: list[tuple[str, Fault]] = []

    def next(
        self, operation: str, fault: Fault, *, times: int = 1, seconds: float = 0.0
    ) -> None:
        """Let the next *times* calls of *operation* (`*`: any) fail."""
        with self._lock:
            planned = self._planned.setdefault(operation, deque())
            planned.extend([PlannedFault(fault, seconds)] * times)

    def always(self, operation: str, fault: Fault, *, seconds: float = 0.0) -> None:
        """Let every call of *operation* (`*`: any) fail until `clear`."""
        with self._lock:
            self._always[operation] = PlannedFault(fault, seconds)

    def clear(self) -> None:
        """Nothing fails any more."""
        with self._lock:
            self._planned.clear()
            self._always.clear()

    def take(self, operation: str) -> PlannedFault | None:
        """Return the fault that hits this call, if one does."""
        with self._lock:
            for name in (operation, "*"):
                planned = self._planned.get(name)
                hit = planned.popleft() if planned else self._always.get(name)
                if hit is not None:
                    self.happened.append((operation, hit.fault))
                    return hit
        return None


def raise_for(fault: Fault) -> None:
    """
    Raise what AWS answers, for faults that are AWS's own.

    Raises:
        KmsError: Of that fault.
    """
    match fault:
        case Fault.THROTTLE:
            raise KmsError("ThrottlingException", "Rate exceeded")
        case Fault.INTERNAL:
            raise KmsError("KMSInternalException")
        case Fault.DEPENDENCY_TIMEOUT:
            raise KmsError("DependencyTimeoutException")
        case _:
            return


def spoil(
    fault: Fault, answer: dict[str, Any], public_key: bytes | None
) -> dict[str, Any]:
    """Return *answer* as a KMS (or somebody posing as it) would spoil it."""
    result = dict(answer)
    envelope = result.get("CiphertextForRecipient")
    match fault:
        case Fault.PLAINTEXT:
            result["Plaintext"] = FORGED_SECRET
        case Fault.ONLY_PLAINTEXT:
            result.pop("CiphertextForRecipient", None)
            result["Plaintext"] = FORGED_SECRET
        case Fault.NO_ENVELOPE:
            result.pop("CiphertextForRecipient", None)
        case Fault.WRONG_KEY_ID:
            arn = str(result.get("KeyId", ""))
            other = "00000000-0000-4000-8000-000000000000"
            result["KeyId"] = arn.rsplit("/", 1)[0] + "/" + other
        case Fault.FORGED_ENVELOPE if public_key is not None:
            result["CiphertextForRecipient"] = seal(FORGED_SECRET, public_key)
        case Fault.BROKEN_ENVELOPE if isinstance(envelope, bytes):
            # The end-of-contents octets come last; 16 bytes before them is ciphertext.
            broken = bytearray(envelope)
            broken[-16] ^= 1
            result["CiphertextForRecipient"] = bytes(broken)
        case _:
            pass
    return result
