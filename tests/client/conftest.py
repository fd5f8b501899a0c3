"""A fake signer, and the client's own parts against it."""

import datetime as dt
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.client.verification import Proof, verify
from nitrosigner.emulator.nitro_pki import NitroPki


def _load() -> ModuleType:
    name = "nitrosigner_tests_fake_signer"
    if name not in sys.modules:
        path = Path(__file__).with_name("fake_signer.py")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def fakes() -> ModuleType:
    """The module fake_signer.py."""
    return _load()


@pytest.fixture(scope="session")
def pki() -> NitroPki:
    return NitroPki.new(dt.datetime.now(dt.UTC))


@pytest.fixture
def signer(pki: NitroPki, tmp_path: Path, fakes: ModuleType) -> Iterator[Any]:
    folder = tmp_path / "fake"
    folder.mkdir(mode=0o700)
    fake = fakes.FakeSigner(pki, folder)
    yield fake
    fake.stop()


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
