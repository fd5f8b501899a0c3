"""
What both jobs' keys are made of: one store, one vault, one index, one order of changes.
"""

from dataclasses import dataclass

from nitrosigner.trusted.enclave.attested.entropy import Entropy
from nitrosigner.trusted.enclave.attested.kms import Kms
from nitrosigner.trusted.enclave.attested.recipient import Recipient
from nitrosigner.trusted.enclave.keys.key_changes import KeyChanges
from nitrosigner.trusted.enclave.keys.key_index import KeyIndex
from nitrosigner.trusted.enclave.keys.key_news import KeyNews
from nitrosigner.trusted.enclave.keys.key_refresh import KeyRefresh
from nitrosigner.trusted.enclave.keys.key_writer import KeyWriter
from nitrosigner.trusted.enclave.ports import Clock
from nitrosigner.trusted.enclave.vault.sealed_singles import StoredSingles


@dataclass(frozen=True, slots=True)
class KeyParts:
    """Shared by `Keyring` and `Validators`."""

    index: KeyIndex
    changes: KeyChanges
    refresh: KeyRefresh
    news: KeyNews
    writer: KeyWriter
    singles: StoredSingles
    kms: Kms
    recipient: Recipient
    entropy: Entropy
    clock: Clock
