"""
What the emulated KMS keeps: keys, aliases and the audit trail, in one SQLite file.

Every write is durable before the call returns (WAL, synchronous=FULL), so a kill -9
loses nothing that was answered. Key material is in here only sealed under the root
key, which is a file of its own.
"""

import datetime as dt
import sqlite3
import threading
from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path
from typing import Final

from nitrosigner.emulator.kms.errors import KmsError

_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
create table key (
    id text primary key,
    material blob not null,
    policy text not null,
    state text not null,
    description text not null,
    created real not null,
    deletion real
) strict;
create table alias (
    name text primary key,
    key text not null references key (id) on delete cascade,
    created real not null
) strict;
create table audit (
    sequence integer primary key,
    at real not null,
    caller text not null,
    operation text not null,
    key text not null,
    context text not null,
    image text not null,
    outcome text not null,
    request text not null
) strict;
"""


@unique
class KeyState(StrEnum):
    """The states of a key that this emulator knows."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key."""

    id: str
    material: bytes
    policy: str
    state: KeyState
    description: str
    created: float
    deletion: float | None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One call, as the trail keeps it. Never holds plaintext."""

    at: float
    """Unix seconds."""
    caller: str
    """Session ARN; empty if the call was not authenticated."""
    operation: str
    key: str
    """ARN; empty where no key is concerned."""
    context: str
    """The encryption context as JSON."""
    image: str
    """PCR0 of the attestation document; empty without one."""
    outcome: str
    """`ok`, or AWS's error code."""
    request: str
    """Request id, as in the answer's x-amzn-RequestId."""


class Store:
    """The SQLite file. Calls may come from any thread."""

    def __init__(self, path: Path) -> None:
        """Open or make the file at *path*."""
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        path.chmod(0o600)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")
        self._db.execute("pragma foreign_keys = on")
        version = self._db.execute("pragma user_version").fetchone()[0]
        if version == 0:
            self._db.executescript(
                f"begin; {_SCHEMA} pragma user_version = {_SCHEMA_VERSION}; commit;"
            )
        elif version != _SCHEMA_VERSION:
            self._db.close()
            message = f"{path.name} was written by another version of the emulator"
            raise RuntimeError(message)

    def close(self) -> None:
        """Close the file. Further calls fail."""
        with self._lock:
            self._db.close()

    def add_key(self, row: KeyRow) -> None:
        """Store a new key."""
        with self._lock:
            self._db.execute(
                "insert into key values (?, ?, ?, ?, ?, ?, ?)",
                (
                    row.id,
                    row.material,
                    row.policy,
                    row.state,
                    row.description,
                    row.created,
                    row.deletion,
                ),
            )

    def key(self, key_id: str, now: dt.datetime) -> KeyRow | None:
        """Return the key *key_id*, or None. One whose time has come is destroyed."""
        with self._lock:
            self._db.execute("delete from key where deletion <= ?", (now.timestamp(),))
            row = self._db.execute(
                "select id, material, policy, state, description, created, deletion "
                "from key where id = ?",
                (key_id,),
            ).fetchone()
        if row is None:
            return None
        return KeyRow(row[0], row[1], row[2], KeyState(row[3]), row[4], row[5], row[6])

    def key_ids(self, after: str, limit: int) -> list[str]:
        """Return up to *limit* key ids that sort behind *after*."""
        with self._lock:
            rows = self._db.execute(
                "select id from key where id > ? order by id limit ?", (after, limit)
            ).fetchall()
        return [row[0] for row in rows]

    def set_policy(self, key_id: str, policy: str) -> None:
        """Replace the policy of a key."""
        with self._lock:
            self._db.execute("update key set policy = ? where id = ?", (policy, key_id))

    def set_state(
        self, key_id: str, state: KeyState, deletion: float | None = None
    ) -> None:
        """Move a key into *state*; with *deletion*, to be destroyed at that time."""
        with self._lock:
            self._db.execute(
                "update key set state = ?, deletion = ? where id = ?",
                (state, deletion, key_id),
            )

    def add_alias(self, name: str, key_id: str, created: float) -> None:
        """
        Give a key an alias.

        Raises:
            KmsError: The alias exists.
        """
        with self._lock:
            try:
                self._db.execute(
                    "insert into alias values (?, ?, ?)", (name, key_id, created)
                )
            except sqlite3.IntegrityError:
                raise KmsError(
                    "AlreadyExistsException", f"An alias with the name {name} exists"
                ) from None

    def remove_alias(self, name: str) -> None:
        """Remove an alias."""
        with self._lock:
            self._db.execute("delete from alias where name = ?", (name,))

    def alias(self, name: str) -> str | None:
        """Return the key id behind an alias."""
        with self._lock:
            row = self._db.execute(
                "select key from alias where name = ?", (name,)
            ).fetchone()
        return None if row is None else str(row[0])

    def aliases(
        self, after: str, limit: int, key_id: str | None
    ) -> list[tuple[str, str, float]]:
        """Return up to *limit* aliases (name, key id, created) behind *after*."""
        with self._lock:
            return self._db.execute(
                "select name, key, created from alias where name > ? "
                "and (? is null or key = ?) order by name limit ?",
                (after, key_id, key_id, limit),
            ).fetchall()

    def add_audit(self, row: AuditRow) -> None:
        """Append to the trail."""
        with self._lock:
            self._db.execute(
                "insert into audit (at, caller, operation, key, context, image, "
                "outcome, request) values (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    row.at,
                    row.caller,
                    row.operation,
                    row.key,
                    row.context,
                    row.image,
                    row.outcome,
                    row.request,
                ),
            )

    def audit(self, *, operation: str | None = None) -> list[AuditRow]:
        """Return the trail, oldest first; of one *operation* if given."""
        with self._lock:
            rows = self._db.execute(
                "select at, caller, operation, key, context, image, outcome, request "
                "from audit where (? is null or operation = ?) order by sequence",
                (operation, operation),
            ).fetchall()
        return [AuditRow(*row) for row in rows]
