"""An emulator's root never passes for AWS's, and the reverse."""

import pytest

from nitrosigner.attestation.trust_anchors import (
    AWS_NITRO_ROOT_G1,
    AwsRoot,
    EmulatedRoot,
    by_fingerprint,
)


def test_nobody_can_name_another_root_of_aws() -> None:
    with pytest.raises(ValueError, match="not a Nitro root"):
        AwsRoot("AWS Nitro Enclaves Root G2")
    with pytest.raises(TypeError):
        AwsRoot("AWS Nitro Enclaves Root G1", bytes(32))  # type: ignore[call-arg]


def test_an_emulated_root_cannot_be_called_aws() -> None:
    with pytest.raises(ValueError, match="AWS's own root"):
        EmulatedRoot("local", AWS_NITRO_ROOT_G1.fingerprint)
    assert EmulatedRoot("AWS Nitro Enclaves Root G1", bytes(32)).emulated
    assert EmulatedRoot(AWS_NITRO_ROOT_G1.name, bytes(32)) != AWS_NITRO_ROOT_G1


@pytest.mark.parametrize("size", [0, 20, 31, 33, 64])
def test_a_fingerprint_is_a_sha_256(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        EmulatedRoot("local", bytes(size))


def test_a_root_that_a_person_names_is_known_for_what_it_is() -> None:
    assert by_fingerprint(AWS_NITRO_ROOT_G1.fingerprint, "mine") == AWS_NITRO_ROOT_G1
    other = by_fingerprint(bytes(32), "mine")
    assert other == EmulatedRoot("mine", bytes(32))
    assert other.emulated
