"""Policies that cannot be stored are refused by KMS's own names."""

import pytest

from nitrosigner.emulator.kms.errors import KmsError
from nitrosigner.emulator.kms.stored_policy import parse_policy

GOOD = (
    '{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}}'
)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (GOOD.replace("Allow", "Perhaps"), "MalformedPolicyDocumentException"),
        ("{", "MalformedPolicyDocumentException"),
        (GOOD + " " * 32768, "LimitExceededException"),
    ],
)
def test_what_kms_would_not_store_has_the_name_that_kms_gives_it(
    text: str, code: str
) -> None:
    assert parse_policy(GOOD, of_key=True).statements
    with pytest.raises(KmsError) as caught:
        parse_policy(text, of_key=True)
    assert caught.value.code == code
