import copy
import pickle

import pytest

from nitrosigner.trusted.signing.secret_bytes import SecretBytes

CANARY = b"canary-in-a-coal-mine-0123456789"


def test_wiping_writes_zeros_into_the_very_buffer() -> None:
    buffer = bytearray(CANARY)
    secret = SecretBytes(buffer)
    assert secret.buffer is buffer
    secret.wipe()
    assert buffer == bytes(len(CANARY))


def test_leaving_the_with_block_wipes_even_when_it_fails() -> None:
    buffer = bytearray(CANARY)
    with pytest.raises(LookupError), SecretBytes(buffer):
        raise LookupError
    assert buffer == bytes(len(CANARY))


def test_a_secret_does_not_show_itself() -> None:
    secret = SecretBytes(bytearray(CANARY))
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r}"):
        assert text == "<SecretBytes, 32 bytes>"


def test_a_secret_is_not_copied_compared_hashed_or_serialized() -> None:
    secret = SecretBytes(bytearray(CANARY))
    attempts = (
        lambda: bytes(secret),
        lambda: pickle.dumps(secret),
        lambda: copy.copy(secret),
        lambda: copy.deepcopy(secret),
        lambda: secret == SecretBytes(bytearray(CANARY)),
        lambda: {secret},
    )
    for attempt in attempts:
        with pytest.raises(TypeError) as caught:
            attempt()
        assert "canary" not in str(caught.value)
