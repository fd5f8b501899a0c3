"""
The folder of a local stack (`nitrosigner up --data DIR`), as its clients read it.

The folder is the user's own (mode 0700); what stands in it is taken at its word.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from nitrosigner.verdicts import Code, Malformed, Undecided

STACK_FILE: Final = "stack.json"


class _Client(msgspec.Struct, frozen=True):
    cert: str
    key: str
    token_file: str = ""


class _Stack(msgspec.Struct, frozen=True):
    """The parts of the ready line that clients need. Others may follow."""

    url: str
    ca: str
    clients: dict[str, _Client]
    pid: int = 0
    pids: dict[str, int] = {}
    control: str = ""
    kms_url: str = ""
    kms_ca: str = ""
    kms_key_arn: str = ""
    region: str = ""
    trust_root: str = ""
    pcr0: str = ""
    administrator: str = ""
    deployment: str = ""
    manifest: str = ""


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """Where a client's credentials are."""

    certificate: Path
    key: Path
    token: Path


@dataclass(frozen=True, slots=True)
class LocalStack:
    """A local stack that has been ready at least once."""

    folder: Path
    described: _Stack

    @property
    def url(self) -> str:
        """Where its signer listens."""
        return self.described.url

    @property
    def ca(self) -> Path:
        """The PEM file of its signer's authority."""
        return self.folder / self.described.ca

    def client(self, name: str) -> ClientFiles:
        """
        Return the credentials of the client called *name*.

        Raises:
            Malformed: It has no such client.
        """
        entry = self.described.clients.get(name)
        if entry is None:
            known = ", ".join(sorted(self.described.clients)) or "none"
            raise Malformed(
                Code.USAGE,
                f"the stack in {self.folder} has no client of that name",
                f"it has: {known}",
            )
        return ClientFiles(
            certificate=self.folder / entry.cert,
            key=self.folder / entry.key,
            token=self.folder / entry.token_file,
        )


def read(folder: Path) -> LocalStack:
    """
    Return what `nitrosigner up` wrote into *folder*.

    Raises:
        Malformed: *folder* is no local stack's.
        Undecided: The stack has not been ready yet.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise Malformed(
            Code.USAGE,
            f"there is no local stack in {folder}: no such folder",
            f"start one with: nitrosigner up --data {folder}",
        )
    try:
        text = (folder / STACK_FILE).read_bytes()
    except OSError:
        raise Undecided(
            Code.SIGNER_UNREACHABLE,
            f"the local stack in {folder} has not become ready yet",
            f"start it with: nitrosigner up --data {folder}; or see why not: "
            f"nitrosigner doctor --data {folder}",
        ) from None
    try:
        return LocalStack(folder, msgspec.json.decode(text, type=_Stack))
    except ValueError:
        raise Malformed(
            Code.USAGE,
            f"{folder / STACK_FILE} is damaged",
            f"stop the stack and start it again: nitrosigner up --data {folder}",
        ) from None
