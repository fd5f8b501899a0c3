"""EIP-3076 files: what they forbid afterwards, all or nothing, and the way back."""

import json
import random
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from nitrosigner.trusted.signing import interchange
from nitrosigner.trusted.signing.beacon_domains import GenesisValidatorsRoot
from nitrosigner.trusted.signing.slashing import (
    Epoch,
    Proposal,
    SigningRoot,
    Slashable,
    Slot,
    Vote,
    after_proposing,
    after_voting,
)
from nitrosigner.verdicts import Malformed, Refused

CHAIN = GenesisValidatorsRoot(b"\x04" * 32)
KEY = "0x" + "ab" * 48
# The example of the EIP, with its chain and key.
EXAMPLE: dict[str, Any] = {
    "metadata": {
        "interchange_format_version": "5",
        "genesis_validators_root": "0x" + "04" * 32,
    },
    "data": [
        {
            "pubkey": KEY,
            "signed_blocks": [
                {"slot": "81952", "signing_root": "0x" + "4f" * 32},
                {"slot": "81951"},
            ],
            "signed_attestations": [
                {
                    "source_epoch": "2290",
                    "target_epoch": "3007",
                    "signing_root": "0x" + "58" * 32,
                },
                {"source_epoch": "2290", "target_epoch": "3008"},
            ],
        }
    ],
}


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_the_eips_example_forbids_what_it_must() -> None:
    reached = interchange.read(encoded(EXAMPLE), CHAIN)[bytes.fromhex("ab" * 48)]
    assert reached.proposed is not None
    assert reached.voted is not None
    assert reached.proposed.slot == 81952
    assert (reached.voted.source, reached.voted.target) == (2290, 3008)
    again = Proposal(slot=Slot(81952), signing_root=SigningRoot(b"\x4f" * 32))
    assert after_proposing(reached.proposed, again) == reached.proposed
    with pytest.raises(Slashable):
        vote = Vote(
            source=Epoch(2290), target=Epoch(3008), signing_root=SigningRoot(bytes(32))
        )
        after_voting(reached.voted, vote)


def test_a_validator_that_stands_twice_is_merged() -> None:
    second = {
        "pubkey": KEY.upper().replace("0X", "0x"),
        "signed_blocks": [{"slot": "90000"}],
        "signed_attestations": [{"source_epoch": "2500", "target_epoch": "2501"}],
    }
    file = {**EXAMPLE, "data": [*EXAMPLE["data"], second]}
    (reached,) = interchange.read(encoded(file), CHAIN).values()
    assert reached.proposed is not None
    assert reached.voted is not None
    assert reached.proposed.slot == 90000
    # Highest source and highest target, though no vote had both (minimal strategy).
    assert (reached.voted.source, reached.voted.target) == (2500, 3008)
    assert reached.voted.signing_root is None


def test_what_was_written_reads_the_same() -> None:
    source = random.Random(3076)
    entries = [
        {
            "pubkey": "0x" + source.randbytes(48).hex(),
            "signed_blocks": [
                {"slot": str(source.randrange(9999))}
                for _ in range(source.randrange(3))
            ],
            "signed_attestations": [
                {
                    "source_epoch": str(source.randrange(10)),
                    "target_epoch": str(source.randrange(10, 20)),
                    "signing_root": "0x" + source.randbytes(32).hex(),
                }
                for _ in range(source.randrange(3))
            ],
        }
        for _ in range(50)
    ]
    history = interchange.read(encoded({**EXAMPLE, "data": entries}), CHAIN)
    assert len(history) == 50
    assert interchange.read(interchange.write(history, CHAIN), CHAIN) == history


def test_another_chains_history_is_refused() -> None:
    with pytest.raises(Refused):
        interchange.read(encoded(EXAMPLE), GenesisValidatorsRoot(b"\x05" * 32))


def changed(**fields: Any) -> dict[str, Any]:
    return {**EXAMPLE, "data": [*EXAMPLE["data"], {**EXAMPLE["data"][0], **fields}]}


@pytest.mark.parametrize(
    "file",
    [
        [],
        {},
        {**EXAMPLE, "data": {}},
        {**EXAMPLE, "metadata": {"interchange_format_version": "5"}},
        {
            **EXAMPLE,
            "metadata": {**EXAMPLE["metadata"], "interchange_format_version": "4"},
        },
        changed(pubkey="0xab"),
        changed(pubkey=None),
        changed(signed_blocks=None),
        changed(signed_blocks=[{}]),
        changed(signed_blocks=[{"slot": "-1"}]),
        changed(signed_blocks=[{"slot": "1", "signing_root": "0x12"}]),
        changed(signed_attestations=[{"source_epoch": "1"}]),
        changed(signed_attestations=[{"source_epoch": "9", "target_epoch": "8"}]),
        changed(
            signed_attestations=[{"source_epoch": "1", "target_epoch": str(2**64)}]
        ),
    ],
)
def test_one_malformed_entry_refuses_the_whole_file(file: Any) -> None:
    with pytest.raises(Malformed):
        interchange.read(encoded(file), CHAIN)


def test_what_is_no_json_is_malformed() -> None:
    for data in (b"", b"{", b"\xff\xfe", b"[" * 10_000):
        with pytest.raises(Malformed):
            interchange.read(data, CHAIN)


@pytest.mark.parametrize(
    ("found", "twice"),
    [
        ('"data":', '"data": [], "data":'),
        ('"signed_attestations":', '"signed_attestations": [], "signed_attestations":'),
        ('"slot": "81952"', '"slot": "81952", "sl\\u006ft": "1"'),
    ],
)
def test_a_name_that_stands_twice_refuses_the_whole_file(
    found: str, twice: str
) -> None:
    """Whichever counted, a half of somebody's history would be lost silently."""
    file = encoded(EXAMPLE).decode()
    assert found in file
    with pytest.raises(Malformed):
        interchange.read(file.replace(found, twice, 1).encode(), CHAIN)


@pytest.fixture
def usual_depth() -> Iterator[None]:
    """Libraries that only tests import allow a hundred times as much."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("usual_depth")
def test_what_is_nested_too_deeply_is_malformed_wherever_it_stands() -> None:
    deep = b"[" * 50_000 + b"]" * 50_000
    file = encoded(EXAMPLE)
    for data in (
        file[:-1] + b', "notes": ' + deep + b"}",
        file.replace(b'"81951"', b'"81951", "notes": ' + deep),
    ):
        with pytest.raises(Malformed):
            interchange.read(data, CHAIN)
