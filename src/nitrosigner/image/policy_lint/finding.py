"""What the linter says of a policy."""

from dataclasses import dataclass
from enum import StrEnum, unique


@unique
class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """Something else than the attested enclave can open the vault, or nothing can."""
    WARNING = "warning"
    """One more mistake, or one more party, and it can."""
    NOTE = "note"
    """Worth knowing; nothing to mend."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a policy."""

    rule: str
    """A stable name."""
    severity: Severity
    sid: str
    """The statement: its Sid, or its number; empty if it is the policy as a whole."""
    sentence: str
    remedy: str
    example: str = ""
    """A request that shows it."""
