"""What the hypervisor measures of where an image is started."""

import hashlib

import pytest

from nitrosigner.image.eif.measure import instance_register, role_register
from nitrosigner.verdicts import Malformed

ROLE = "arn:aws:iam::123456789012:role/path/nitro"
INSTANCE = "i-0123456789abcdef0"


def test_role_and_instance_are_extended_as_they_are_written() -> None:
    for found, text in (
        (role_register(ROLE), ROLE),
        (instance_register(INSTANCE), INSTANCE),
    ):
        assert found == hashlib.sha384(bytes(48) + text.encode()).digest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nitro",
        "arn:aws:iam::123456789012:instance-profile/nitro",
        "arn:aws:sts::123456789012:assumed-role/nitro/i-1",
        "arn:aws:iam::12345678901:role/nitro",
        ROLE + "\n",
    ],
)
def test_pcr3_measures_roles_only(text: str) -> None:
    with pytest.raises(Malformed, match="PCR3"):
        role_register(text)


@pytest.mark.parametrize(
    "text", ["", "i-", "i-XYZ", "m-0123456789abcdef0", INSTANCE + " "]
)
def test_pcr4_measures_instances_only(text: str) -> None:
    with pytest.raises(Malformed, match="PCR4"):
        instance_register(text)
