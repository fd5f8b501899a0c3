"""A history read from a stream: the same as from memory, and with bounded memory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nitrosigner.cli import interchange_file, json_stream
from nitrosigner.trusted.signing import interchange
from nitrosigner.trusted.signing.beacon_domains import GenesisValidatorsRoot
from nitrosigner.verdicts import Code, Malformed, Refused, Verdict

CHAIN = GenesisValidatorsRoot(b"\x4b" * 32)
KEYS = [bytes([number]) * 48 for number in range(1, 4)]

_small = st.integers(0, 6)
_roots = st.none() | st.sampled_from(["0x" + "aa" * 32, "0x" + "BB" * 32])
_number = _small.map(str) | _small


def _with_root(fields: dict[str, Any]) -> Any:
    return st.fixed_dictionaries(fields, optional={"signing_root": _roots})


_blocks = st.lists(_with_root({"slot": _number}), max_size=5)
_votes = st.lists(
    st.tuples(_small, _small, _roots).map(
        lambda v: {
            "source_epoch": str(min(v[:2])),
            "target_epoch": str(max(v[:2])),
            "signing_root": v[2],
        }
    ),
    max_size=6,
)
_entries = st.lists(
    st.fixed_dictionaries(
        {
            "pubkey": st.sampled_from(KEYS).map(lambda key: "0x" + key.hex()),
            "signed_blocks": _blocks,
            "signed_attestations": _votes,
        },
        optional={"note": st.just({"a": [1, {"b": '}]\\"'}]})},
    ),
    max_size=5,
)


def document(data: Any, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "interchange_format_version": "5",
            "genesis_validators_root": "0x" + CHAIN.hex(),
        }
        | metadata,
        "data": data,
    }


def in_pieces(data: bytes, size: int) -> Callable[[int], bytes]:
    at = 0

    def read(wanted: int) -> bytes:
        nonlocal at
        piece = data[at : at + min(wanted, size)]
        at += len(piece)
        return piece

    return read


def read(data: bytes, size: int = 1 << 20) -> interchange_file.History:
    return interchange_file.read(in_pieces(data, size), CHAIN)


@given(_entries, st.sampled_from([None, 2]), st.integers(1, 70))
@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_a_stream_reads_as_the_whole_does(
    data: Any, indent: int | None, size: int
) -> None:
    text = json.dumps(document(data), indent=indent).encode()
    assert dict(read(text, size).reached) == interchange.read(text, CHAIN)


@given(_entries)
@settings(max_examples=50, deadline=None)
def test_what_is_sent_reads_back_the_same(data: Any) -> None:
    reached = read(json.dumps(document(data)).encode()).reached
    parts = interchange_file.documents(reached, CHAIN, 2)
    import msgspec

    back: dict[bytes, Any] = {}
    for part in parts:
        assert len(part.data) <= 2
        back |= interchange.read(msgspec.json.encode(part), CHAIN)
    assert back == reached


def test_metadata_may_come_last() -> None:
    whole = document([])
    text = json.dumps({"data": whole["data"], "metadata": whole["metadata"]}).encode()
    assert read(text).reached == {}
    text = text.replace(b"4b4b", b"4b4c")
    with pytest.raises(Refused):
        read(text)


def test_another_chain_is_refused_before_the_rest_is_read() -> None:
    text = json.dumps(document([], genesis_validators_root="0x" + "00" * 32))
    with pytest.raises(Refused) as refused:
        read(text.encode().replace(b'"data": []', b'"data": [not JSON'))
    assert refused.value.code is Code.WRONG_CHAIN


ENTRY = {"pubkey": "0x" + KEYS[0].hex(), "signed_blocks": [], "signed_attestations": []}
VOTE = {"source_epoch": "1", "target_epoch": "2"}
WHOLE = json.dumps(document([ENTRY | {"signed_attestations": [VOTE, VOTE]}]))


def _entry(**changed: Any) -> str:
    return json.dumps(document([ENTRY | changed]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"metadata": {}, "data": []}',
        '{"data": []}',
        json.dumps(document([], interchange_format_version="4")),
        json.dumps(document([{}])),
        json.dumps(document({})),
        json.dumps(document(["x"])),
        json.dumps(document([])) + "x",
        json.dumps(document([])) + json.dumps(document([])),
        WHOLE[:-1],
        WHOLE[: len(WHOLE) // 2],
        WHOLE.replace("]}]", "],}]"),
        WHOLE.replace('"2"}]', '"2"},]'),
        WHOLE.replace('"2"}]', '"2"} {}]'),
        WHOLE.replace('"2"}, {', '"2"}; {'),
        WHOLE.replace('"2"}, {', '"2"}, , {'),
        WHOLE.replace('"1"', '"-1"', 1),
        WHOLE.replace('"1"', '"1.0"', 1),
        WHOLE.replace('"1"', '"\u0661"', 1),
        WHOLE.replace('"1"', "1.5", 1),
        WHOLE.replace('"1"', "true", 1),
        WHOLE.replace('"1"', '"18446744073709551616"', 1),
        WHOLE.replace('"1"', '"3"', 1),
        WHOLE.replace("0x", "", 1),
        WHOLE.replace('"data"', '"data": [], "data"'),
        WHOLE.replace('"signed_blocks"', '"signed_blocks": [], "signed_blocks"'),
        WHOLE.replace('"2"}', '"2", "target_epoch": "1"}', 1),
        _entry(signed_blocks=[{"slot": "7"}]).replace('"7"', '"7", "sl\\u006ft": "1"'),
        WHOLE.replace(
            '_version": "5"', '_version": "5", "genesis_validators_root": ""'
        ),
        _entry(pubkey="0x00"),
        _entry(pubkey=None),
        _entry(signed_blocks=None),
        _entry(signed_blocks=[[]]),
        _entry(signed_blocks=[{}]),
        _entry(signed_blocks=[{"slot": "1", "signing_root": "0x12"}]),
        _entry(signed_attestations=[{"source_epoch": "1"}]),
        '{"metadata": ' + "[" * 100_000,
        '{"x": ' + "[" * 20 + "]" * 20 + "}",
        '{"x": "' + "a" * 70_000 + '"}',
        '{"x": "unended',
        "\ufeff" + WHOLE,
    ],
)
def test_one_malformed_place_refuses_all(text: str) -> None:
    for size in (1 << 20, 7):
        with pytest.raises(Malformed):
            read(text.encode(), size)


@given(st.binary(max_size=300), st.integers(0, len(WHOLE)))
@settings(max_examples=300, deadline=None)
def test_no_bytes_do_anything_but_read_or_be_malformed(junk: bytes, at: int) -> None:
    data = WHOLE.encode()
    try:
        read(data[:at] + junk + data[at:], 50)
    except Verdict:
        return


def test_too_many_validators_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interchange_file, "MAX_VALIDATORS", 2)
    data = [ENTRY | {"pubkey": "0x" + key.hex()} for key in KEYS]
    assert len(read(json.dumps(document(data[:2])).encode()).reached) == 2
    with pytest.raises(Malformed) as malformed:
        read(json.dumps(document(data)).encode())
    assert malformed.value.code is Code.TOO_LARGE


def test_long_arrays_are_cut_between_elements() -> None:
    element = b'{"a": "}],{\\"", "b": 1}'
    data = b"[" + b", ".join([element] * 50_000) + b"]"
    stream = json_stream.JsonStream(in_pieces(data, 1 << 20))
    parts = list(stream.batches())
    stream.end()
    assert len(parts) > 2
    assert sum(len(json.loads(part)) for part in parts) == 50_000


CHILD = """
import resource, sys
from pathlib import Path
from nitrosigner.cli import interchange_file
with Path(sys.argv[1]).open("rb") as file:
    history = interchange_file.read(file.read, b"\\x4b" * 32)
# In kB on Linux; of this process alone.
print(len(history.reached), history.attestations,
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _write(file: Path, validators: int, votes: int) -> None:
    vote = '{"source_epoch":"%d","target_epoch":"%d","signing_root":"0x' + "ab" * 32
    with file.open("w") as out:
        head = json.dumps(document([]))
        out.write(head.removesuffix("]}"))
        for number in range(validators):
            listed = ",".join(
                (vote + '"}') % (epoch, epoch + 1) for epoch in range(votes)
            )
            out.write("," if number else "")
            out.write(
                f'{{"pubkey":"0x{number:096x}","signed_blocks":[],'
                f'"signed_attestations":[{listed}]}}'
            )
        out.write("]}")


def test_a_hundred_megabytes_take_no_more_memory_than_a_small_file(
    tmp_path: Path,
) -> None:
    small, big, one = (tmp_path / name for name in ("small", "big", "one"))
    _write(small, 10, 10)
    _write(big, 10_000, 80)
    # one validator's array can be as long as the file
    _write(one, 1, 400_000)
    assert big.stat().st_size > 100_000_000
    peaks = {}
    for file in (small, big, one):
        ran = subprocess.run(
            [sys.executable, "-c", CHILD, str(file)],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": os.environ["PATH"]},
        )
        validators, votes, peak = map(int, ran.stdout.split())
        peaks[file.name] = peak
        assert (validators, votes) in ((10, 100), (10_000, 800_000), (1, 400_000))
    assert peaks["big"] - peaks["small"] < 40_000
    assert peaks["one"] - peaks["small"] < 20_000
