"""
Throws altered images, ramdisks and key policies at their readers.

    python fuzz/image_files.py [--seconds N] [--seed N] [eif|ramdisk|policy …]

Only verdicts may come out, soon, and little memory may be taken. An image that is
accepted must lie in the file in the one way that all readers agree on; a policy that is
called clean must open nothing without a document when every question of a grid is put
to it. Stops at the first finding and writes the input to a file.
"""

import argparse
import gzip
import io
import itertools
import json
import random
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nitrosigner.image import ramdisk
from nitrosigner.image.eif.layout import HEADER, SECTION
from nitrosigner.image.eif.metadata import Metadata
from nitrosigner.image.eif.reader import read_eif
from nitrosigner.image.eif.writer import ImageContents, write_eif
from nitrosigner.image.key_policy import KeyPolicy
from nitrosigner.image.key_policy_lint import is_clean, lint
from nitrosigner.image.policy_document import parse_policy
from nitrosigner.image.policy_evaluation import Caller, Question, evaluate
from nitrosigner.verdicts import Verdict

SLOWEST = 5.0
"""Seconds of our own for one input; a good one takes milliseconds."""
NUMBERS = (0, 1, 2, 3, 4, 5, 31, 32, 33, 548, 1 << 16, 1 << 31, 1 << 32, 1 << 63)
ROLES = [f"arn:aws:iam::123456789012:role/{name}" for name in ("one", "two", "three")]
ROOT = "arn:aws:iam::123456789012:root"


def archive(names: tuple[str, ...]) -> bytes:
    """Return a newc archive with a file of each name."""
    out = b""
    for name in (*names, "TRAILER!!!"):
        path, data = name.encode() + b"\0", name.encode() * 9
        values = (1, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        head = b"070701" + b"".join(b"%08x" % value for value in values) + path
        out += head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
    return out + bytes(-len(out) % 512)


def an_image() -> bytes:
    """Return a small image."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        contents = ImageContents(
            kernel=b"kernel" * 9,
            command_line="console=ttyS0",
            ramdisks=[archive(("init",)), archive(("app/main",))],
            metadata=Metadata(image_name="n", image_version="1"),
        )
        write_eif(path, contents)
        return path.read_bytes()


def altered(data: bytes, choose: random.Random) -> bytes:
    """Flip, overwrite, cut, repeat or insert a few bytes."""
    changed = bytearray(data)
    for _ in range(choose.choice((1, 1, 2, 5))):
        at = choose.randrange(len(changed) + 1)
        match choose.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << choose.randrange(8)
            case 1:
                number = choose.choice(NUMBERS)
                packed = struct.pack(">Q", number)[-choose.choice((2, 4, 8)) :]
                changed[at : at + len(packed)] = packed
            case 2:
                del changed[at : at + choose.choice((1, 4, 12, 100))]
            case 3:
                changed[at:at] = changed[at : at + choose.choice((1, 12, 110, 600))]
            case 4:
                changed[at:at] = choose.randbytes(choose.choice((1, 4, 12)))
            case _:
                changed[at : at + 8] = b"%08x" % choose.choice((0, 1, 0xFFFFFFFF))
    return bytes(changed)


def mended(data: bytes) -> bytes:
    """Return *data* with the right checksum, so that it gets past that."""
    if len(data) < HEADER.size:
        return data
    crc = zlib.crc32(data[HEADER.size :], zlib.crc32(data[: HEADER.size - 4]))
    return data[: HEADER.size - 4] + struct.pack(">I", crc) + data[HEADER.size :]


def try_eif(choose: random.Random, seed: bytes) -> Iterator[bytes]:
    data = mended(altered(seed, choose))
    yield data
    image = read_eif(io.BytesIO(data))
    image.checked_measurements()
    at = HEADER.size
    for section in image.sections:
        kind, _, size = SECTION.unpack_from(data, at)
        if (kind, at + SECTION.size, size) != (
            section.kind,
            section.offset,
            section.size,
        ):
            msg = "the sections are not one after the other"
            raise AssertionError(msg)
        at += SECTION.size + size
    if at != len(data):
        msg = "there are bytes that belong to no section"
        raise AssertionError(msg)


def try_ramdisk(choose: random.Random, seed: bytes) -> Iterator[bytes]:
    data = altered(seed, choose)
    if choose.random() < 0.3:
        data = altered(gzip.compress(data, 1, mtime=0), choose)
    yield data
    step = choose.choice((1, 7, 4096))
    pieces = (data[at : at + step] for at in range(0, len(data), step))
    for entry in ramdisk.entries(pieces):
        if len(entry.path) > ramdisk.MAX_NAME:
            msg = "a path is too long"
            raise AssertionError(msg)


def altered_policy(seed: bytes, choose: random.Random) -> bytes:
    """Drop, double and mix statements and conditions."""
    if choose.random() < 0.2:
        return altered(seed, choose)
    document: dict[str, Any] = json.loads(seed)
    statements = document["Statement"]
    for _ in range(choose.choice((1, 2, 4))):
        if not statements:
            break
        one = choose.choice(statements)
        match choose.randrange(7):
            case 0:
                statements.remove(one)
            case 1:
                one["Effect"] = "Allow"
            case 2:
                one["Principal"] = choose.choice(("*", {"AWS": ROOT}, {"AWS": ROLES}))
            case 3:
                one["Action"] = choose.choice(("kms:*", ["kms:Decrypt"], "kms:R*"))
            case 4 if one.get("Condition"):
                one["Condition"].pop(choose.choice(list(one["Condition"])))
            case 5 if one.get("Condition"):
                name = choose.choice(list(one["Condition"]))
                if name != "Null":
                    kept = one["Condition"].pop(name)
                    other = choose.choice(("StringLikeIfExists", f"{name}IfExists"))
                    one["Condition"][other] = kept
            case _:
                statements.append(json.loads(json.dumps(choose.choice(statements))))
    return json.dumps(document).encode()


def try_policy(choose: random.Random, seed: bytes) -> Iterator[bytes]:
    data = altered_policy(seed, choose)
    yield data
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    if is_clean(lint(text)) and opens_unattested(text):
        msg = "a policy that opens without a document was called clean"
        raise AssertionError(msg)


def opens_unattested(text: str) -> bool:
    """Ask every question of a grid."""
    document = parse_policy(text, of_key=True)
    names = ("administrator", "deployment", "purpose")
    contexts = [
        {
            f"kms:encryptioncontext:{name}": value
            for name, value in zip(names, chosen, strict=True)
            if value is not None
        }
        for chosen in itertools.product(
            ("11" * 32, None), ("prod", None), ("vault", "key", None)
        )
    ]
    for arn, context in itertools.product((*ROLES, ROOT), contexts):
        caller = Caller(arn, arn, "123456789012")
        full = {**context, "aws:principalarn": arn}
        question = Question(caller, "kms:Decrypt", "arn:aws:kms:::key/1", full)
        ruling = evaluate(document, question)
        if not ruling.denied and (ruling.allowed or ruling.delegated):
            return True
    return False


Target = Callable[[random.Random, bytes], Iterator[bytes]]


def targets() -> dict[str, tuple[Target, bytes]]:
    """Return what is fuzzed, and with what it begins."""
    policy = KeyPolicy(
        measurements=["ab" * 48],
        administrator="11" * 32,
        deployment="prod",
        enclave_role=ROLES[0],
        key_administrator=ROLES[1],
        gateway_role=ROLES[2],
    )
    disks = archive(("init", "etc/passwd", "lib"))
    return {
        "eif": (try_eif, an_image()),
        "ramdisk": (try_ramdisk, disks + gzip.compress(disks, mtime=0) + bytes(3)),
        "policy": (try_policy, policy.text.encode()),
    }


def run(seconds: float, seed: int, names: list[str]) -> int:
    """Fuzz; return how many inputs were tried. Raises SystemExit at a finding."""
    choose = random.Random(seed)
    chosen = [pair for name, pair in targets().items() if not names or name in names]
    end, tried = time.process_time() + seconds, 0
    while time.process_time() < end:
        target, start = choose.choice(chosen)
        steps = target(choose, start)
        data = next(steps)
        tried += 1
        began = time.process_time()
        try:
            list(steps)
        except Verdict:
            pass
        except BaseException as error:
            _finding(data, f"raised {type(error).__name__}: {error}")
        if time.process_time() - began > SLOWEST:
            _finding(data, "took too long")
    return tried


def _finding(data: bytes, what: str) -> None:
    path = Path(f"finding-{time.time_ns()}.bin")
    path.write_bytes(data)
    sys.exit(f"an input {what}; it is in {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    parser.add_argument("targets", nargs="*", choices=["eif", "ramdisk", "policy", []])
    options = parser.parse_args()
    print(f"seed {options.seed}")
    print(
        f"{run(options.seconds, options.seed, options.targets)} inputs, nothing found"
    )


if __name__ == "__main__":
    main()
