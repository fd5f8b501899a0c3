"""One honest deployment for all attacks; each attack gets a copy of its store."""

import base64
import copy
import datetime as dt
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from eth_account import Account
from eth_account.messages import encode_defunct

from nitrosigner.client import verification
from nitrosigner.client.import_key import import_private_key
from nitrosigner.client.private_key import PrivateKey
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator import kms_rollout, plaintext_search
from nitrosigner.emulator.data_folder import DataFolder
from nitrosigner.emulator.first_run import (
    REGION,
    ensure_identities,
    ensure_manifest,
)
from nitrosigner.emulator.hypervisor import gather_image
from nitrosigner.emulator.kms import FaultPlan
from nitrosigner.emulator.kms import start as start_kms
from nitrosigner.emulator.nitro_pki import NitroPki
from nitrosigner.emulator.stack_programs import Places
from nitrosigner.image import contents
from nitrosigner.verdicts import Refused, Undecided
from nitrosigner.wire import api, services
from nitrosigner.wire.manifest import key_encryption_context


def _load() -> ModuleType:
    name = "nitrosigner_tests_parent_of_attacks"
    if name not in sys.modules:
        path = Path(__file__).with_name("parent_of_attacks.py")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


attacks = _load()
MESSAGE = "pay the bearer"


@pytest.fixture(scope="session")
def attacking() -> ModuleType:
    """The module parent_of_attacks.py."""
    return attacks


def _short_folder() -> Path:
    # UNIX socket paths are short; pytest's own folders are not.
    return Path(tempfile.mkdtemp(prefix="ns-"))


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = DataFolder(tmp_path_factory.mktemp("deployment") / "data")
    now = dt.datetime.now(dt.UTC)
    pki = NitroPki.open(folder.emulator, now, REGION)
    image = gather_image(contents.source_root(), folder.path / "image")
    identities = ensure_identities(folder, now)
    faults = FaultPlan()
    with start_kms(folder.path, faults=faults) as kms:
        places = Places(
            folder=folder,
            run=folder.path,
            source=contents.source_root(),
            port=0,
            kms_port=kms.port,
            metadata_port=kms.imds_port,
        )
        aws = kms_rollout.ensure_key(
            places,
            administrator=identities.fingerprint,
            pcr0=image.pcrs[0],
            warn=lambda text: None,
        )
        _, signed = ensure_manifest(folder, identities, aws, at_least=0)
        made = attacks.Deployment(
            kms=kms,
            faults=faults,
            pki=pki,
            image=image,
            clients=identities.clients,
            kms_key_arn=aws.kms_key_arn,
            administrator=identities.fingerprint,
            administrator_key=identities.administrator,
            secret=bytes(Account.create().key),
        )
        made.records = {
            ("manifest", "current"): services.StoredRecord("current", 1, signed)
        }
        run = _short_folder()
        try:
            _first_boot(made, run, folder, places)
        finally:
            shutil.rmtree(run)
        yield made


def _first_boot(made: Any, run: Path, folder: DataFolder, places: Places) -> None:
    """Boot honestly; make a key, import one, and take one that KMS encrypted."""
    parent = attacks.AttackingParent(run, made.kms, made.records)
    scene = attacks.Scene(made, parent, run)
    try:
        scene.boot_until_ready()
        files = made.clients["default"]
        with SignerClient(scene.url, certificate=files.cert, key=files.key) as client:
            proof = verification.verify(
                client,
                now=dt.datetime.now(dt.UTC),
                anchors=[made.pki.trust_anchor],
                pcrs={0: made.image.pcrs[0]},
            )
            made.ca = folder.path / "ca.pem"
            made.ca.write_bytes(verification.attested_authority(client, proof))
            made.addresses["created"] = client.create_key("created").identity
            made.addresses["second"] = client.create_key("second").identity
            with PrivateKey(bytearray(made.secret)) as key:
                imported = import_private_key(client, proof, key, name="imported")
            made.addresses["imported"] = imported.identity
            made.addresses["by-kms"] = _import_kms(made, client, proof, places)
            for name in made.addresses:
                client.sign_message(name, MESSAGE)
        assert not plaintext_search.spellings_in(bytes(parent.seen), made.secret)
        made.records = copy.copy(parent.records)
    finally:
        scene.end()
        parent.close()


def _import_kms(made: Any, client: SignerClient, proof: Any, places: Places) -> str:
    account = Account.create()
    context = key_encryption_context(
        administrator=made.administrator,
        deployment=proof.statement.deployment,
        name="by-kms",
        algorithm="secp256k1",
        identity=account.address,
    )
    sealed = kms_rollout.client(places, "gateway").encrypt(
        KeyId=made.kms_key_arn,
        Plaintext=bytes(account.key),
        EncryptionContext=context,
    )
    return client.import_kms_key(
        api.ImportKmsKey(
            name="by-kms",
            identity=account.address,
            ciphertext=base64.b64encode(sealed["CiphertextBlob"]).decode(),
        )
    ).identity


@pytest.fixture(scope="session")
def administrator(deployment: Any) -> Ed25519PrivateKey:
    key: Ed25519PrivateKey = deployment.administrator_key
    return key


@pytest.fixture
def scene(deployment: Any) -> Iterator[Any]:
    """An enclave that has not been started, behind a parent that has no attack yet."""
    run = _short_folder()
    parent = attacks.AttackingParent(run, deployment.kms, deployment.records)
    scene = attacks.Scene(deployment, parent, run)
    try:
        yield scene
        # Whatever the attack was: what the parent saw holds no plaintext.
        found = plaintext_search.spellings_in(bytes(parent.seen), deployment.secret)
        assert not found, found
    finally:
        scene.end()
        parent.close()
        shutil.rmtree(run)


@pytest.fixture
def client(scene: Any, deployment: Any) -> Iterator[SignerClient]:
    """The client `default`, who knows the deployment's authority."""
    files = deployment.clients["default"]
    made = SignerClient(
        scene.url,
        ca=deployment.ca,
        certificate=files.cert,
        key=files.key,
        read_timeout=8,
    )
    with made:
        yield made


@pytest.fixture
def outcome(client: SignerClient, deployment: Any) -> Callable[[str], str]:
    """
    Ask for a signature: "signed" (and by the right key), or the code of the verdict.

    A signature by any other key fails the test, whatever it asked.
    """

    def ask(name: str) -> str:
        try:
            signed = client.sign_message(name, MESSAGE)
        except (Refused, Undecided) as verdict:
            return str(verdict.code)
        recovered = Account.recover_message(
            encode_defunct(text=MESSAGE), signature=signed.signature
        )
        assert recovered == signed.sender == deployment.addresses[name]
        return "signed"

    return ask
