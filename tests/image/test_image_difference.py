"""A difference of PCR0 is named down to the file and what about it changed."""

import gzip
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.image.eif.metadata import Metadata
from nitrosigner.image.eif.reader import read_eif
from nitrosigner.image.image_difference import ImageDifference, compare
from nitrosigner.verdicts import Refused

FILES = {"init": (0o100755, b"#!"), "etc/a": b"a", "etc/b": b"b"}


@pytest.fixture
def difference(
    make_image: Callable[..., Path],
) -> Callable[[dict[str, Any], dict[str, Any]], ImageDifference]:
    def between(one: dict[str, Any], two: dict[str, Any]) -> ImageDifference:
        with ExitStack() as stack:
            before, after = (
                read_eif(stack.enter_context(make_image(**changed).open("rb")))
                for changed in (one, two)
            )
            return compare(before, after)

    return between


def test_the_same_image_has_no_difference(difference: Any) -> None:
    found = difference({}, {})
    assert found.same
    assert found == ImageDifference((), False, None, (), ())


def test_files_that_came_went_and_changed_are_named(
    difference: Any, pack: Callable[..., bytes]
) -> None:
    changed = {"init": (0o100700, b"#!"), "etc/a": b"A", "etc/c": b"b"}
    packed = gzip.compress(pack(FILES), mtime=0)
    found = difference(
        {"ramdisks": [pack({"same": b""}), packed + bytes(-len(packed) % 4)]},
        {"ramdisks": [pack({"same": b""}), pack(changed)]},
    )
    assert found.registers == (0, 2)
    assert not found.kernel
    (ramdisk,) = found.ramdisks
    assert ramdisk.number == 2
    assert [one.path for one in ramdisk.added] == ["etc/c"]
    assert [one.path for one in ramdisk.removed] == ["etc/b"]
    assert [(one.before.path, one.what) for one in ramdisk.changed] == [
        ("etc/a", ("content",)),
        ("init", ("mode",)),
    ]
    assert not ramdisk.same_files


def test_owner_and_time_count_too(difference: Any, pack: Callable[..., bytes]) -> None:
    for field, name in (
        ("owner", "owner"),
        ("group", "group"),
        ("modified", "modified"),
    ):
        found = difference(
            {"ramdisks": [pack(FILES)]}, {"ramdisks": [pack(FILES, **{field: 1})]}
        )
        assert {one.what for one in found.ramdisks[0].changed} == {(name,)}
        assert found.registers == (0, 1)


def test_the_same_files_packed_differently_are_said_to_be_so(
    difference: Any, pack: Callable[..., bytes]
) -> None:
    backwards = dict(reversed(FILES.items()))
    found = difference({"ramdisks": [pack(FILES)]}, {"ramdisks": [pack(backwards)]})
    assert found.registers == (0, 1)
    assert found.ramdisks[0].same_files


def test_a_path_that_comes_twice_is_compared_twice(
    difference: Any, pack: Callable[..., bytes]
) -> None:
    twice = pack({"init": b"1"}) + pack({"init": b"2"})
    found = difference({"ramdisks": [pack({"init": b"1"})]}, {"ramdisks": [twice]})
    assert [one.path for one in found.ramdisks[0].added] == ["init"]


def test_kernel_and_command_line_are_told_apart(difference: Any) -> None:
    found = difference({}, {"kernel": b"other"})
    assert found.kernel
    assert found.command_lines is None
    assert found.registers == (0, 1)
    found = difference({"command_line": "one"}, {"command_line": "two"})
    assert not found.kernel
    assert found.command_lines == ("one", "two")


def test_a_ramdisk_more_is_all_new(difference: Any, pack: Callable[..., bytes]) -> None:
    found = difference(
        {"ramdisks": [pack({})]}, {"ramdisks": [pack({}), pack({"application": b""})]}
    )
    (ramdisk,) = found.ramdisks
    assert (ramdisk.number, [one.path for one in ramdisk.added]) == (2, ["application"])


def test_a_ramdisk_that_cannot_be_listed_is_said_to_differ(difference: Any) -> None:
    found = difference({"ramdisks": [b"what"]}, {"ramdisks": [b"ever"]})
    assert "cannot be listed" in found.ramdisks[0].unlisted
    assert not found.ramdisks[0].same_files


def test_what_no_register_measures_is_listed_apart(
    difference: Any, pair: Any, pairs: Callable[..., Any]
) -> None:
    found = difference(
        {},
        {
            "metadata": Metadata(image_name="other", image_version="1"),
            "memory": 1 << 28,
            "vcpus": 4,
            "aarch64": True,
        },
    )
    assert found.same
    assert found.unmeasured == (
        "metadata",
        "default memory",
        "default number of vCPUs",
        "architecture",
    )
    found = difference({}, {"signer": pair.signer()})
    assert (found.registers, found.unmeasured) == ((8,), ())
    found = difference({"signer": pairs().signer()}, {"signer": pair.signer()})
    assert (found.registers, found.unmeasured) == ((8,), ())


def test_an_image_with_a_false_signature_is_not_compared(
    make_image: Callable[..., Path], pair: Any, pairs: Callable[..., Any]
) -> None:
    with make_image(pair.signer()).open("rb") as one:
        image = read_eif(one)
        other = read_signature_of(pairs, image)
        with pytest.raises(Refused):
            compare(image, other)


def read_signature_of(pairs: Callable[..., Any], image: Any) -> Any:
    import dataclasses

    from nitrosigner.image.eif.signature import read_signature

    section = pairs().signer().section(bytes(48))
    return dataclasses.replace(image, signature=read_signature(section))
