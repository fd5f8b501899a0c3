"""The emulated NSM answers as the device's own test program expects it to."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.attestation.measurements import extended, measured
from nitrosigner.attestation.verify import Expectations, unverified_document, verify
from nitrosigner.emulator.nitro_pki import NitroPki
from nitrosigner.emulator.nsm import MAX_RESPONSE, EmulatedNsm, initial_pcrs
from nitrosigner.trusted.enclave.attested.nsm import NsmClient
from nitrosigner.verdicts import Undecided

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
CODE = {0: b"\x10" * 48, 1: b"\x11" * 48, 2: b"\x12" * 48}
VECTOR = Path(__file__).parents[2] / "../shared/vectors/attestation/production-2021.bin"
PKI = NitroPki.new(NOW)


@pytest.fixture
def nsm() -> EmulatedNsm:
    pcrs = initial_pcrs(CODE, instance_id=PKI.instance_id)
    return EmulatedNsm(PKI, pcrs, lambda: NOW)


def _ask(nsm: EmulatedNsm, request: Any) -> Any:
    return cbor2.loads(nsm.handle(cbor2.dumps(request)))


def test_describes_itself(nsm: EmulatedNsm) -> None:
    described = _ask(nsm, "DescribeNSM")["DescribeNSM"]
    assert described["digest"] == "SHA384"
    assert described["max_pcrs"] == 32
    assert described["locked_pcrs"] == list(range(16))
    assert described["module_id"] == nsm.module_id
    assert {"version_major", "version_minor", "version_patch"} < described.keys()


def test_the_first_sixteen_registers_are_locked_from_the_start(
    nsm: EmulatedNsm,
) -> None:
    for index in range(16):
        assert _ask(nsm, {"DescribePCR": {"index": index}})["DescribePCR"]["lock"]
        assert _ask(nsm, {"LockPCR": {"index": index}}) == {"Error": "ReadOnlyIndex"}
        extend = {"ExtendPCR": {"index": index, "data": b"x"}}
        assert _ask(nsm, extend) == {"Error": "ReadOnlyIndex"}


def test_the_others_are_extended_until_they_are_locked(nsm: EmulatedNsm) -> None:
    expected = bytes(48)
    for _ in range(3):
        expected = extended(b"\x01\x02", expected)
        answer = _ask(nsm, {"ExtendPCR": {"index": 20, "data": b"\x01\x02"}})
        assert answer == {"ExtendPCR": {"data": expected}}
    assert _ask(nsm, {"LockPCR": {"index": 20}}) == "LockPCR"
    extend = {"ExtendPCR": {"index": 20, "data": b"x"}}
    assert _ask(nsm, extend) == {"Error": "ReadOnlyIndex"}
    described = _ask(nsm, {"DescribePCR": {"index": 20}})
    assert described == {"DescribePCR": {"lock": True, "data": expected}}


def test_a_range_of_registers_is_locked(nsm: EmulatedNsm) -> None:
    assert _ask(nsm, {"LockPCRs": {"range": 33}}) == {"Error": "InvalidIndex"}
    assert _ask(nsm, {"LockPCRs": {"range": 32}}) == "LockPCRs"
    assert _ask(nsm, "DescribeNSM")["DescribeNSM"]["locked_pcrs"] == list(range(32))


def test_a_document_reports_the_locked_registers(nsm: EmulatedNsm) -> None:
    _ask(nsm, {"ExtendPCR": {"index": 16, "data": b"x"}})
    assert set(unverified_document(nsm.attest()).pcrs) == set(range(16))
    _ask(nsm, {"LockPCR": {"index": 16}})
    document = unverified_document(nsm.attest())
    assert document.pcrs[16] == extended(b"x")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"user_data": b"u"},
        {"nonce": b"n", "public_key": b"k"},
        {"user_data": bytes(1024), "nonce": bytes(1024), "public_key": bytes(1024)},
        {"user_data": b"", "nonce": b"", "public_key": None},
    ],
)
def test_a_document_holds_what_was_given(nsm: EmulatedNsm, fields: Any) -> None:
    answer = nsm.handle(cbor2.dumps({"Attestation": fields}))
    assert len(answer) <= MAX_RESPONSE
    document = cbor2.loads(answer)["Attestation"]["document"]
    attestation = verify(
        document,
        anchors=[PKI.trust_anchor],
        now=NOW,
        expectations=Expectations(pcrs=CODE),
    )
    for name in ("user_data", "nonce", "public_key"):
        assert getattr(attestation, name) == fields.get(name)
    assert attestation.timestamp == NOW


def test_a_document_is_laid_out_like_a_real_one(nsm: EmulatedNsm) -> None:
    if not VECTOR.exists():
        pytest.skip("the real documents (../shared/vectors) are not on this machine")
    ours, real = cbor2.loads(nsm.attest()), cbor2.loads(VECTOR.read_bytes())
    assert ours[:2] == real[:2]
    fields, real_fields = cbor2.loads(ours[2]), cbor2.loads(real[2])
    assert list(fields) == list(real_fields)
    assert list(fields["pcrs"]) == list(real_fields["pcrs"])
    assert len(fields["module_id"]) == len(real_fields["module_id"])
    assert len(fields["cabundle"]) == len(real_fields["cabundle"])


def test_random_bytes_are_256_and_new_each_time(nsm: EmulatedNsm) -> None:
    given = [_ask(nsm, "GetRandom")["GetRandom"]["random"] for _ in range(3)]
    assert {len(random) for random in given} == {256}
    assert len(set(given)) == 3


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ("Unknown", "InvalidOperation"),
        ({"Unknown": {}}, "InvalidOperation"),
        ({}, "InvalidOperation"),
        ([], "InvalidOperation"),
        (7, "InvalidOperation"),
        ({"GetRandom": {}, "DescribeNSM": {}}, "InvalidOperation"),
        ({1: {}}, "InvalidOperation"),
        ({"GetRandom": 3}, "InvalidOperation"),
        ("DescribePCR", "InvalidArgument"),
        ({"DescribePCR": {"index": 32}}, "InvalidIndex"),
        ({"DescribePCR": {"index": -1}}, "InvalidIndex"),
        ({"DescribePCR": {"index": "0"}}, "InvalidArgument"),
        ({"DescribePCR": {"index": True}}, "InvalidArgument"),
        ({"ExtendPCR": {"index": 16}}, "InvalidArgument"),
        ({"ExtendPCR": {"index": 16, "data": "x"}}, "InvalidArgument"),
        ({"LockPCR": {"index": 99}}, "InvalidIndex"),
        ({"Attestation": {"nonce": bytes(1025)}}, "InputTooLarge"),
        ({"Attestation": {"user_data": bytes(1025)}}, "InputTooLarge"),
        ({"Attestation": {"public_key": bytes(1025)}}, "InputTooLarge"),
        ({"Attestation": {"public_key": b""}}, "InvalidArgument"),
        ({"Attestation": {"nonce": "text"}}, "InvalidArgument"),
        ({"Attestation": {"nonce": bytes(4096)}}, "InputTooLarge"),
    ],
)
def test_errors_are_those_of_the_device(
    nsm: EmulatedNsm, request_: Any, error: str
) -> None:
    assert _ask(nsm, request_) == {"Error": error}


@given(st.binary(max_size=200))
def test_no_request_whatever_raises(request_: bytes) -> None:
    nsm = EmulatedNsm(PKI, {}, lambda: NOW)
    assert cbor2.loads(nsm.handle(request_))


def test_registers_start_as_the_hypervisor_sets_them() -> None:
    pcrs = initial_pcrs(
        CODE,
        instance_id="i-0",
        role_arn="arn:aws:iam::1:role/r",
        image_certificate=b"c",
    )
    assert {index: pcrs[index] for index in range(3)} == CODE
    assert pcrs[3] == extended(b"arn:aws:iam::1:role/r")
    assert pcrs[4] == extended(b"i-0")
    assert pcrs[8] == measured(b"c")
    assert all(pcrs[n] == bytes(48) for n in (5, 6, 7, *range(9, 32)))


def test_debug_mode_measures_neither_image_nor_signer() -> None:
    pcrs = initial_pcrs(
        CODE, instance_id="i-0", role_arn="r", image_certificate=b"c", debug=True
    )
    assert all(pcrs[n] == bytes(48) for n in (0, 1, 2, 8))
    assert pcrs[3] != bytes(48)
    assert pcrs[4] != bytes(48)


def test_the_enclaves_own_client_understands_it(nsm: EmulatedNsm) -> None:
    client = NsmClient(nsm.handle)
    document = client.attest(nonce=b"n", user_data=b"u", public_key=b"k")
    assert unverified_document(document).nonce == b"n"
    assert len(client.random(1000)) == 1000
    with pytest.raises(Undecided):
        client.attest(nonce=bytes(1025))
