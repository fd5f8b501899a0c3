"""
A folder of EIP-2335 keystores and the passwords that go with them.

Any tool's folder will do: files anywhere below it whose names end in `.json`. What is
no keystore (deposit data, say) is left out and named; what is one and cannot be read
is an error, because a validator that is silently missing costs money.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from nitrosigner.cli.files import read_file, reason, warn_of_readers
from nitrosigner.cli.public_keys import SIZE
from nitrosigner.client.hexadecimal import bytes_of_hex
from nitrosigner.trusted.signing import validator_keystores
from nitrosigner.trusted.signing.validator_keystores import MAX_KEYSTORE, Keystore
from nitrosigner.verdicts import Code, Malformed, Verdict

MAX_PASSWORD: Final = 4096


@dataclass(frozen=True, slots=True)
class KeystoreFile:
    """A keystore that can be parsed. Not opened yet."""

    path: Path
    public_key: bytes
    """As the file claims, 48 bytes; empty if it claims none."""

    def parse(self) -> Keystore:
        """Read it again: ten thousand parsed ones would be a lot to keep."""
        return parse(self.path)


@dataclass(frozen=True, slots=True)
class Found:
    """What is in a folder."""

    keystores: list[KeystoreFile] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, Verdict]] = field(default_factory=list)


class _Shape(msgspec.Struct):
    crypto: Any = None


def find(folder: Path) -> Found:
    """
    Look through *folder*, in the order of the names.

    Raises:
        Malformed: It can't be read, or holds no keystore at all.
    """
    if not folder.is_dir():
        raise Malformed(
            Code.USAGE, f"the folder {folder} does not exist", "check the path"
        )
    found = Found()
    seen: set[bytes] = set()
    for path in _json_files(folder):
        try:
            data = read_file(path, "the keystore", MAX_KEYSTORE)
            if not _looks_like_a_keystore(data):
                found.others.append(path)
                continue
            file = KeystoreFile(path, _claimed(validator_keystores.parse(data)))
        except Verdict as verdict:
            if verdict.code is Code.TOO_LARGE:
                found.others.append(path)
            else:
                found.failed.append((path, verdict))
            continue
        if file.public_key in seen:
            # The same key twice, as backups of a folder within it have it.
            found.others.append(path)
            continue
        if file.public_key:
            seen.add(file.public_key)
        found.keystores.append(file)
    if not found.keystores and not found.failed:
        raise Malformed(
            Code.USAGE,
            f"there is no EIP-2335 keystore in {folder}",
            "they are what the deposit tool writes as keystore-….json",
        )
    return found


def parse(path: Path) -> Keystore:
    """
    Read one keystore.

    Raises:
        Malformed: It is none.
    """
    return validator_keystores.parse(read_file(path, "the keystore", MAX_KEYSTORE))


class Passwords:
    """One password for all keystores, or a folder with one for each."""

    def __init__(self, where: Path | str) -> None:
        """Take the password itself (text), its file, or the folder of them (paths)."""
        self.folder: Path | None = None
        self._one: str | None = None
        if isinstance(where, str):
            self._one = where
        elif where.is_dir():
            self.folder = where
        else:
            warn_of_readers(where, "the password file")
            self._one = _read(where)

    def __repr__(self) -> str:
        return "<Passwords>"

    def of(self, keystore: KeystoreFile) -> str:
        """
        Return the password of *keystore*.

        In a folder its file is called as the keystore is, with `.txt` for `.json`; or
        as the public key is, as Lighthouse's `secrets` has it.

        Raises:
            Malformed: There is no such file.
        """
        if self._one is not None:
            return self._one
        folder = self.folder or Path()
        name = keystore.path.name
        names = [f"{keystore.path.stem}.txt", f"{name}.txt"]
        if keystore.public_key:
            digits = keystore.public_key.hex()
            names += [f"0x{digits}", digits, f"0x{digits}.txt", f"{digits}.txt"]
        for candidate in names:
            if (folder / candidate).is_file():
                return _read(folder / candidate)
        raise Malformed(
            Code.USAGE,
            f"there is no password for {name} in {folder}",
            f"it would be called {names[0]}",
        )


def _read(path: Path) -> str:
    data = read_file(path, "the password file", MAX_PASSWORD)
    try:
        text = data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        text = ""
    if not text or "\n" in text:
        raise Malformed(Code.USAGE, f"the password file {path} is not one line of text")
    return text


def _json_files(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in folder.rglob("*.json") if path.is_file())
    except OSError as error:
        raise Malformed(
            Code.USAGE, f"the folder {folder} {reason(error)}", "check the path"
        ) from None


def _looks_like_a_keystore(data: bytes) -> bool:
    try:
        return msgspec.json.decode(data, type=_Shape).crypto is not None
    except msgspec.ValidationError:
        return False
    except ValueError:
        # Damaged: better an error than a validator that is missing.
        return b'"crypto"' in data


def _claimed(keystore: Keystore) -> bytes:
    if not keystore.pubkey:
        return b""
    public_key = bytes_of_hex(keystore.pubkey)
    if public_key is None or len(public_key) != SIZE:
        raise Malformed(
            Code.MALFORMED_KEYSTORE, "the keystore's `pubkey` is no BLS public key"
        )
    return public_key
