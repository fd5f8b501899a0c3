"""A fake signer, and the client's own parts against it."""

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.client.verification import Proof, verify


@pytest.fixture
def signer(fake_signer: Any) -> Any:
    return fake_signer


@pytest.fixture
def client(signer: Any) -> Iterator[SignerClient]:
    with SignerClient(
        signer.url, ca=signer.ca_file, certificate=signer.cert_file, key=signer.key_file
    ) as made:
        yield made


@pytest.fixture
def check(signer: Any) -> Callable[..., Proof]:
    """Verify, with everything expected that the fake is honest about."""

    def run(client: SignerClient, **changed: Any) -> Proof:
        arguments: dict[str, Any] = {
            "now": dt.datetime.now(dt.UTC),
            "anchors": [signer.pki.trust_anchor],
            "pcrs": {0: b"\xc0" * 48},
            **changed,
        }
        return verify(client, **arguments)

    return run
