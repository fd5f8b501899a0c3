"""Frames survive any split of the stream; anything else is refused at once."""

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.wire import frames, services

messages = st.lists(
    st.tuples(st.integers(0, frames.MAX_REQUEST_ID), st.binary(max_size=300)),
    max_size=8,
)


def read_all(reader: frames.FrameReader, chunks: list[bytes]) -> list[frames.Frame]:
    found = []
    for chunk in chunks:
        reader.feed(chunk)
        while (frame := reader.next()) is not None:
            found.append(frame)
    return found


@given(messages, st.lists(st.integers(0, 3000), max_size=12))
def test_frames_survive_any_split_of_the_stream(
    sent: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(frames.encode(number, payload) for number, payload in sent)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[a:b] for a, b in itertools.pairwise(edges)]
    reader = frames.FrameReader()
    assert read_all(reader, chunks) == [frames.Frame(*one) for one in sent]
    assert reader.pending == 0


@given(messages)
def test_frames_survive_a_stream_that_comes_byte_by_byte(
    sent: list[tuple[int, bytes]],
) -> None:
    stream = b"".join(frames.encode(number, payload) for number, payload in sent)
    chunks = [bytes([byte]) for byte in stream]
    reader = frames.FrameReader()
    assert read_all(reader, chunks) == [frames.Frame(*one) for one in sent]


@given(st.binary(max_size=200), st.integers(0, 208))
def test_a_cut_off_frame_is_never_delivered(payload: bytes, keep: int) -> None:
    whole = frames.encode(7, payload)
    cut = whole[: min(keep, len(whole) - 1)]
    reader = frames.FrameReader()
    assert read_all(reader, [cut]) == []
    assert reader.pending == len(cut)


@given(st.binary(max_size=4000))
def test_garbage_gives_frames_or_a_refusal_and_nothing_else(garbage: bytes) -> None:
    reader = frames.FrameReader()
    try:
        found = read_all(reader, [garbage])
    except frames.BadFrame:
        return
    assert sum(frames.HEADER_SIZE + len(f.payload) for f in found) <= len(garbage)


@pytest.mark.parametrize("version", [0, 2, 0x16, 0x47, 255])
def test_an_unknown_version_is_refused_by_its_first_byte(version: int) -> None:
    reader = frames.FrameReader()
    reader.feed(bytes([version]))
    with pytest.raises(frames.BadFrame, match="version"):
        reader.next()


def test_a_refused_stream_stays_refused() -> None:
    reader = frames.FrameReader()
    reader.feed(b"\xff")
    with pytest.raises(frames.BadFrame):
        reader.next()
    with pytest.raises(frames.BadFrame):
        reader.feed(frames.encode(1, b"good"))
    with pytest.raises(frames.BadFrame):
        reader.next()


def test_the_good_frames_before_a_bad_one_are_delivered_first() -> None:
    reader = frames.FrameReader()
    reader.feed(frames.encode(1, b"good") + b"\x09")
    assert reader.next() == frames.Frame(1, b"good")
    with pytest.raises(frames.BadFrame):
        reader.next()


def test_a_length_is_judged_before_memory_is_taken_for_it() -> None:
    header = b"\x01" + (5).to_bytes(4) + (frames.MAX_PAYLOAD + 1).to_bytes(4)
    reader = frames.FrameReader()
    tracemalloc.start()
    try:
        reader.feed(header)
        with pytest.raises(frames.BadFrame, match="long"):
            reader.next()
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


def test_the_longest_payload_passes_and_one_byte_more_is_not_sent() -> None:
    longest = bytes(frames.MAX_PAYLOAD)
    assert read_all(frames.FrameReader(), [frames.encode(0, longest)]) == [
        frames.Frame(0, longest)
    ]
    with pytest.raises(ValueError, match="at most"):
        frames.encode(0, longest + b"x")


@pytest.mark.parametrize("number", [-1, frames.MAX_REQUEST_ID + 1])
def test_a_request_id_has_32_bits(number: int) -> None:
    with pytest.raises(ValueError, match="32 bits"):
        frames.encode(number, b"")


def test_the_layout_is_the_documented_one() -> None:
    assert frames.encode(0x01020304, b"ab") == bytes.fromhex(
        "01 01020304 00000002 6162"
    )


def test_every_answer_within_its_limits_fits_in_a_frame() -> None:
    count = services.MAX_PAGE
    size = services.MAX_PAGE_BYTES // count
    page = services.Page(
        records=[
            services.StoredRecord(
                name="n" * services.MAX_NAME, version=1 << 53, data=bytes(size)
            )
            for _ in range(count)
        ],
        more=True,
    )
    assert len(services.encode(page)) <= frames.MAX_PAYLOAD
