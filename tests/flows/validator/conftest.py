"""A real stack with a beacon chain, and what validator clients ask of it."""

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nitrosigner.cli.bls import bls12_381
from nitrosigner.client import verification
from nitrosigner.client.import_validator import import_validator
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.demo_validator import FORK_INFO, interop_key
from nitrosigner.emulator.nitro_pki import stored_trust_anchor
from nitrosigner.emulator.running_stack import RunningStack
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Refused, Verdict

Json = dict[str, Any]
OPTIONS = ("--preset", "minimal", "--plain-http-loopback", "0")


def proposal(slot: int, state: str = "aa") -> Json:
    return {
        "type": "BLOCK_V2",
        "fork_info": FORK_INFO,
        "beacon_block": {
            "version": "FULU",
            "block_header": {
                "slot": str(slot),
                "proposer_index": "1",
                "parent_root": "0x" + "11" * 32,
                "state_root": "0x" + state * 32,
                "body_root": "0x" + "33" * 32,
            },
        },
    }


class Asker:
    """Asks for votes and blocks, and judges all that was ever signed."""

    def __init__(self) -> None:
        self.signed: dict[tuple[str, str, int], set[str]] = defaultdict(set)

    def __call__(self, client: SignerClient, key: str, duty: Json) -> str | None:
        """Return the signature; None if there is none. Refusals are an answer."""
        try:
            signature = client.sign_duty(key, duty)
        except Verdict:
            return None
        if duty["type"] == "ATTESTATION":
            at = ("target", int(duty["attestation"]["target"]["epoch"]))
        else:
            at = ("slot", int(duty["beacon_block"]["block_header"]["slot"]))
        self.signed[key, *at].add(signature)
        return signature

    def double(self) -> list[tuple[str, str, int]]:
        return [at for at, signatures in self.signed.items() if len(signatures) > 1]


def refused_as(client: SignerClient, key: str, duty: Json) -> str:
    """Return the code of the refusal; it must be one."""
    with pytest.raises(Refused) as caught:
        client.sign_duty(key, duty)
    return str(caught.value.code)


def bring_in(stack: RunningStack, numbers: range) -> list[str]:
    """Import interop keys; return their names."""
    bls = bls12_381()
    names = []
    with SignerClient.from_data(stack.folder.path) as client:
        proof = verification.verify(
            client,
            now=dt.datetime.now(dt.UTC),
            anchors=[stored_trust_anchor(stack.folder.emulator)],
            pcrs={0: bytes.fromhex(stack.ready.pcr0)},
        )
        for number in numbers:
            secret = bytearray(interop_key(number))
            with SecretBytes(bytearray(secret)) as held:
                public = bls.public_key(held)
            names.append(import_validator(client, proof, secret, public).name)
    return names


@pytest.fixture(scope="package")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Shared: whoever breaks something mends it."""
    running = RunningStack.start(
        tmp_path_factory.mktemp("chain") / "data", options=OPTIONS
    )
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def client(chain: RunningStack) -> Iterator[SignerClient]:
    with SignerClient.from_data(chain.folder.path, "validator") as made:
        yield made


@pytest.fixture
def asker() -> Iterator[Asker]:
    made = Asker()
    yield made
    assert made.signed
    assert made.double() == []


@pytest.fixture(scope="package")
def fresh_keys(chain: RunningStack) -> Callable[[int], list[str]]:
    """Validators that nobody has used: each test its own."""
    used = [100]

    def take(count: int) -> list[str]:
        first = used[0]
        used[0] += count
        return bring_in(chain, range(first, first + count))

    return take


@pytest.fixture(name="proposal")
def proposal_fixture() -> Callable[..., Json]:
    return proposal


@pytest.fixture(name="refused_as")
def refused_fixture() -> Callable[..., str]:
    return refused_as


@pytest.fixture(name="bring_in")
def bring_in_fixture() -> Callable[..., list[str]]:
    return bring_in
