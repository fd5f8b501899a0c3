"""Several enclaves behind one name: what is verified is what is spoken to."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.client.transport import CertificateChanged
from nitrosigner.client.verification import Proof
from nitrosigner.emulator.load_balancer import LoadBalancer
from nitrosigner.emulator.nitro_pki import NitroPki

Check = Callable[..., Proof]


@pytest.fixture
def other(pki: NitroPki, tmp_path: Path, fakes: Any) -> Iterator[Any]:
    folder = tmp_path / "other"
    folder.mkdir(mode=0o700)
    fake = fakes.FakeSigner(pki, folder)
    yield fake
    fake.stop()


@pytest.fixture
def url(signer: Any, other: Any) -> Iterator[str]:
    """Every second connection ends in the other one."""
    balancer = LoadBalancer([signer.port, other.port])
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def do(what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, loop).result(10)

    port = do(balancer.start())
    yield f"https://localhost:{port}"
    do(balancer.stop())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def secret_requests(signer: Any, fakes: Any) -> int:
    """How many came with the credential."""
    return sum(
        seen.headers.get("authorization") == f"Bearer {fakes.TOKEN}"
        for seen in signer.seen
    )


def test_connections_are_tried_until_one_ends_in_the_attested_enclave(
    url: str, signer: Any, other: Any, check: Check, fakes: Any
) -> None:
    with SignerClient(url, token=fakes.TOKEN) as client:
        proof = check(client)
        # The next connection is the other's turn.
        client.create_key("hot")
    first, second = (
        (signer, other)
        if proof.import_key == signer.import_key.public_key().public_bytes_raw()
        else (other, signer)
    )
    assert secret_requests(first, fakes) == 1
    assert secret_requests(second, fakes) == 0


def test_if_the_attested_enclave_is_gone_no_other_is_told_anything(
    url: str, signer: Any, other: Any, check: Check, fakes: Any
) -> None:
    with SignerClient(url, token=fakes.TOKEN) as client:
        check(client)
        for one in (signer, other):
            one.restart_with_new_certificate()
        with pytest.raises(CertificateChanged):
            client.create_key("hot")
        assert secret_requests(signer, fakes) == secret_requests(other, fakes) == 0
        check(client)
        client.create_key("hot")
