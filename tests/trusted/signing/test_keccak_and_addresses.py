from random import Random

import pytest
from Crypto.Hash import keccak as independent_keccak
from eth_utils import to_checksum_address

from nitrosigner.trusted.signing import addresses
from nitrosigner.trusted.signing.keccak import keccak_256
from nitrosigner.verdicts import Code, Malformed

# From EIP-55.
CHECKSUMMED = (
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0x8617E340B3D01FA5F11F306F4090FD50E238070D",
    "0xde709f2102306220921060314715629080e2fb77",
    "0x27b1fdb04752bbc536007a920d24acb045561c26",
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
)


@pytest.mark.parametrize("size", [0, 1, 32, 135, 136, 137, 272, 4096])
def test_keccak_is_keccak_and_not_sha3(size: int) -> None:
    data = Random(size).randbytes(size)
    expected = independent_keccak.new(digest_bits=256, data=data).digest()
    assert keccak_256(data) == expected


@pytest.mark.parametrize("text", CHECKSUMMED)
def test_the_checksums_of_eip_55_are_written_and_read(text: str) -> None:
    address = addresses.parse(text)
    assert addresses.checksummed(address) == text
    assert addresses.parse(text.lower()) == address
    assert addresses.parse("0x" + text[2:].upper()) == address


def test_any_address_has_the_checksum_that_eth_utils_gives_it() -> None:
    random = Random(55)
    for _ in range(2000):
        address = addresses.Address(random.randbytes(20))
        text = addresses.checksummed(address)
        assert text == to_checksum_address(address)
        assert addresses.parse(text) == address


def test_a_letter_in_the_wrong_case_is_refused() -> None:
    text = CHECKSUMMED[4]
    for place in range(2, len(text)):
        if text[place].isalpha():
            wrong = text[:place] + text[place].swapcase() + text[place + 1 :]
            with pytest.raises(Malformed, match="checksum") as caught:
                addresses.parse(wrong, Code.MALFORMED_TRANSACTION)
            assert caught.value.code is Code.MALFORMED_TRANSACTION


@pytest.mark.parametrize(
    "text",
    [
        None,
        0,
        20 * b"\0",
        ["0x" + 40 * "0"],
        "",
        "0x",
        40 * "0",
        "0x" + 39 * "0",
        "0x" + 41 * "0",
        "0X" + 40 * "0",
        "0x" + 38 * "0" + "g0",
        "0x" + 19 * "00" + " 0",
        "0x00 " + 37 * "0",
        "0x00  " + 36 * "0",
        "0x" + 39 * "0" + "٣",
        "0x" + 39 * "0" + "\n",
    ],
)
def test_what_is_no_address_is_refused(text: object) -> None:
    with pytest.raises(Malformed, match="40 hex digits"):
        addresses.parse(text)
