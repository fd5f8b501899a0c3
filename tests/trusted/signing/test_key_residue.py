"""
How many copies of a private key a process holds, by looking through all of its memory.

Finds contiguous copies, forwards, backwards, in hex and as the digits of a Python int,
and halves of them; not what is split up, in registers or in another representation.
"""

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("key_residue_child.py")
MASK = 0xAA


def patterns(key: bytes) -> dict[str, bytes]:
    number, digits = int.from_bytes(key, "big"), []
    while number:
        digits.append(number & (2**30 - 1))
        number >>= 30
    return {
        "the key": key,
        "its first half": key[:16],
        "its second half": key[16:],
        "backwards": key[::-1],
        "in hex": key.hex().encode(),
        "as an int": b"".join(struct.pack("<I", digit) for digit in digits),
    }


def copies(pid: int, key: bytes) -> dict[str, int]:
    counts = dict.fromkeys(patterns(key), 0)
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if not match or "[v" in line:
                continue
            start, end = int(match[1], 16), int(match[2], 16)
            try:
                memory.seek(start)
                content = memory.read(end - start)
            except OSError:
                continue
            for name, pattern in patterns(key).items():
                counts[name] += content.count(pattern)
    return counts


def observe(route: str) -> dict[str, dict[str, int]]:
    """Return what is found of a fresh key while it lives, and after the wipe."""
    key = b"\x11" + os.urandom(31)
    with subprocess.Popen(
        [sys.executable, str(CHILD), route],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(bytes(byte ^ MASK for byte in key))
        found = {}
        for expected in ("live", "wiped"):
            assert child.stdout.readline().decode().strip() == expected
            try:
                found[expected] = copies(child.pid, key)
            except PermissionError:
                child.kill()
                pytest.skip("this system does not let a parent read a child's memory")
            child.stdin.write(b"\n")
        assert child.wait(timeout=30) == 0
    return found


def test_one_copy_while_it_is_used_and_none_after_the_wipe() -> None:
    found = observe("wiped")
    assert found["live"] == {
        "the key": 1,
        "its first half": 1,
        "its second half": 1,
        "backwards": 0,
        "in hex": 0,
        "as an int": 0,
    }
    assert set(found["wiped"].values()) == {0}


def test_the_search_finds_a_key_that_is_not_wiped() -> None:
    assert observe("unwiped")["wiped"]["the key"] == 1


def test_the_search_finds_a_careless_copy_beside_the_wiped_one() -> None:
    found = observe("careless")
    assert found["live"]["the key"] == 2
    assert found["wiped"]["the key"] == 1
