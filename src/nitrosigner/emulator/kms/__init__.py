"""
An emulated AWS KMS for the laptop: as strict as AWS, and worth nothing as protection.

It speaks AWS JSON 1.1 over HTTPS, checks signatures, key policies, encryption
contexts and attestation documents, and keeps its keys in DATA/kms. Anybody who may
read that folder has every key in it.
"""

from nitrosigner.emulator.kms.faults import FORGED_SECRET, Fault, FaultPlan
from nitrosigner.emulator.kms.running import RunningKms, Settings, start

__all__ = ["FORGED_SECRET", "Fault", "FaultPlan", "RunningKms", "Settings", "start"]
