"""One synthesis of all four stacks for the whole session: jsii is slow to start."""

import datetime as dt
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ADMINISTRATORS = {
    "devNitroWalletEth": "1d" * 32,
    "prodNitroWalletEth": "a1" * 32,
    "devNitroValidator": "2d" * 32,
    "prodNitroValidator": "a2" * 32,
}
PCR0, PREVIOUS = "ab" * 48, "cd" * 48
NODE = "Node.js is not installed"


@dataclass(frozen=True)
class Synthesized:
    """What one run of the app wrote."""

    folder: Path

    def template(self, stack: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            (self.folder / f"{stack}.template.json").read_text()
        )
        return found

    def resources(self, stack: str, kind: str) -> dict[str, dict[str, Any]]:
        return {
            name: resource
            for name, resource in self.template(stack)["Resources"].items()
            if resource["Type"] == kind
        }

    def only(self, stack: str, kind: str) -> dict[str, Any]:
        (found,) = self.resources(stack, kind).values()
        return found

    def named(self, stack: str, kind: str, part: str) -> dict[str, Any]:
        (found,) = (
            resource
            for name, resource in self.resources(stack, kind).items()
            if name.startswith(part)
        )
        return found


def settings_of(**changed: Any) -> Any:
    from nitrosigner.infrastructure import settings

    stacks = {
        name: {"administrator": administrator}
        for name, administrator in ADMINISTRATORS.items()
    }
    return settings.parse(json.dumps({"stacks": stacks, **changed}).encode())


def no_wheels(program: Any, machine: Any, folder: Path) -> None:
    """Stand in for pip: the archives hold our own source only."""
    del program, machine
    folder.mkdir()


def synthesize(
    folder: Path, chosen: Any, image: Any, base: Path = Path()
) -> Synthesized:
    from aws_cdk import App

    from nitrosigner.infrastructure import settings
    from nitrosigner.infrastructure.assets import Assets
    from nitrosigner.infrastructure.synthesis import add_stacks

    out = folder / "cdk.out"
    app = App(outdir=str(out), analytics_reporting=False)
    plans = settings.plans(chosen, measured=image.eif is not None)
    assets = Assets(image, folder / "build", wheels=no_wheels, base=base)
    add_stacks(app, plans, assets)
    app.synth()
    return Synthesized(out)


@pytest.fixture(scope="session")
def node() -> None:
    if shutil.which("node") is None:
        # On a build machine its absence would hide every test below.
        if os.environ.get("CI") == "true":
            pytest.fail(NODE)
        pytest.skip(NODE)
    from nitrosigner.infrastructure.app import OLD_NODES

    os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", OLD_NODES)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from nitrosigner.infrastructure.measured_image import MeasuredImage
    from nitrosigner.infrastructure.settings import Architecture

    eif = tmp_path_factory.mktemp("image") / "enclave.eif"
    eif.write_bytes(b"stands for an image")
    return MeasuredImage(eif, PCR0, [PREVIOUS], None, Architecture.X86_64)


@pytest.fixture(scope="session")
def synthesized(
    node: None, image: Any, tmp_path_factory: pytest.TempPathFactory
) -> Synthesized:
    del node
    return synthesize(tmp_path_factory.mktemp("stacks"), settings_of(), image)


@pytest.fixture(params=list(ADMINISTRATORS))
def stack(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def again(node: None) -> Any:
    """Synthesize once more, somewhere else."""
    del node
    return lambda folder, image: synthesize(folder, settings_of(), image)


@pytest.fixture(scope="session")
def choose(node: None, image: Any) -> Any:
    """Synthesize with other choices, given by stack."""
    del node
    from nitrosigner.infrastructure import settings
    from nitrosigner.infrastructure.measured_image import MeasuredImage

    without_machine = MeasuredImage(image.eif, image.pcr0, image.previous)

    def synthesized(folder: Path, stacks: dict[str, Any]) -> Synthesized:
        chosen = settings.parse(json.dumps({"stacks": stacks}).encode())
        return synthesize(folder, chosen, without_machine, base=folder)

    return synthesized


NOW = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """A certificate that ends 20 days from NOW, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signer")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - dt.timedelta(days=1))
        .not_valid_after(NOW + dt.timedelta(days=20))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "signer.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path
