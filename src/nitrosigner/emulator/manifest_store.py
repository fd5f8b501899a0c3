"""
Puts the signed manifest where the parent hands it to the enclave from.

It is one record of the parent's store. The store is not trusted, and needs not be:
the manifest carries the administrator's signature, and KMS knows the administrator.
"""

import contextlib
from collections.abc import Iterator
from typing import Final

from nitrosigner.emulator.data_folder import DataFolder
from nitrosigner.untrusted.parent.sqlite_store import SqliteStore
from nitrosigner.verdicts import Code, Undecided, Verdict
from nitrosigner.wire.manifest import accept
from nitrosigner.wire.services import Stored

COLLECTION: Final = "manifest"
NAME: Final = "current"


@contextlib.contextmanager
def _store(folder: DataFolder) -> Iterator[SqliteStore]:
    store = SqliteStore(folder.parent / "store.db")
    try:
        yield store
    finally:
        store.close()


def published_version(folder: DataFolder) -> int:
    """
    Return the version of the manifest in the store; 0 if there is none of ours.

    Raises:
        Verdict: The store is damaged or cannot be read.
    """
    with _store(folder) as store:
        record = store.get(COLLECTION, NAME)
    if record is None:
        return 0
    try:
        return accept(record.data).manifest.version
    except Verdict:
        return 0


def publish_manifest(folder: DataFolder, signed: bytes) -> bool:
    """
    Put *signed* in force for the next boot; return whether that changed anything.

    Raises:
        Verdict: The store is damaged, or cannot be written.
    """
    with _store(folder) as store:
        record = store.get(COLLECTION, NAME)
        if record is not None and record.data == signed:
            return False
        expected = 0 if record is None else record.version
        answer = store.put(COLLECTION, NAME, expected, signed)
    if not isinstance(answer, Stored):
        raise Undecided(
            Code.STORAGE_UNAVAILABLE,
            "somebody else put another manifest in the store meanwhile",
            "start the stack again",
        )
    return True
