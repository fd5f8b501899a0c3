"""
A deployment, played: two parents, two enclaves, one DynamoDB (dynalite), one KMS, both
signers behind a TCP load balancer, validator clients that contradict each other and
the four Lambda functions at work, and each signer killed once under that load.

Every function is a process of its own that runs the handler which its stack names, told
by environment variables alone, with the credentials of its own role.
"""

import contextlib
import hashlib
import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from py_ecc.bls import G2ProofOfPossession
from remerkleable.basic import uint64
from remerkleable.byte_arrays import Bytes4, Bytes32
from remerkleable.complex import Container

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator import kms_rollout
from nitrosigner.emulator.beacon_chain import (
    INTEROP_GENESIS_VALIDATORS_ROOT,
    validators,
)
from nitrosigner.emulator.data_folder import make_private
from nitrosigner.emulator.first_run import ACCOUNT as AWS_ACCOUNT
from nitrosigner.emulator.first_run import REGION
from nitrosigner.emulator.fleet import Fleet, Instance, Tables
from nitrosigner.emulator.kms.principals import PrincipalsFile, load_or_create
from nitrosigner.emulator.running_stack import wait_until
from nitrosigner.untrusted.parent import instance_lifecycle
from nitrosigner.verdicts import Code, Refused, Undecided

VERSION = "06000001"
"""Fulu's on the minimal preset; every fork is at the epoch 0 of an interop chain."""
SLOTS = 8
KEYS = 5
CLIENTS = 3
SERVED_AGAIN = 15.0
"""Seconds after a kill until every validator and the wallet are served."""
MENDED = 40.0
"""Seconds after a kill until the watchdog's enclave and its parent are back."""
TO = "0x" + "70" * 20
ENVIRONMENT = Path(__file__).with_name("lambda_environment.py")
FUNCTIONS = {
    # name: the handler that the stack names, and the function's role
    "wallet": ("nitrosigner.untrusted.gateway.wallet.handler", "gateway"),
    "validator": ("nitrosigner.untrusted.gateway.validator.handler", "gateway"),
    "probe": ("nitrosigner.untrusted.gateway.health_probe.handler", None),
    "canary": ("nitrosigner.untrusted.gateway.attestation_canary.handler", "canary"),
}

pytestmark = pytest.mark.filterwarnings(
    # A handshake that the kill cut off, collected by whichever test comes next.
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)


# --- the chain, from the consensus specification and not from our own code -----------


class Checkpoint(Container):
    epoch: uint64
    root: Bytes32


class AttestationData(Container):
    slot: uint64
    index: uint64
    beacon_block_root: Bytes32
    source: Checkpoint
    target: Checkpoint


class BeaconBlockHeader(Container):
    slot: uint64
    proposer_index: uint64
    parent_root: Bytes32
    state_root: Bytes32
    body_root: Bytes32


class ForkData(Container):
    current_version: Bytes4
    genesis_validators_root: Bytes32


class SigningData(Container):
    object_root: Bytes32
    domain: Bytes32


@dataclass(frozen=True)
class Vote:
    source: int
    target: int
    root: int

    @property
    def duty(self) -> dict[str, Any]:
        return {
            "type": "ATTESTATION",
            "fork_info": FORK_INFO,
            "attestation": {
                "slot": str(self.target * SLOTS),
                "index": "0",
                "beacon_block_root": hex32(self.root),
                "source": {"epoch": str(self.source), "root": hex32(1)},
                "target": {"epoch": str(self.target), "root": hex32(self.root)},
            },
        }

    @property
    def signing_root(self) -> bytes:
        data = AttestationData(
            slot=self.target * SLOTS,
            index=0,
            beacon_block_root=Bytes32(hex32(self.root)),
            source=Checkpoint(epoch=self.source, root=Bytes32(hex32(1))),
            target=Checkpoint(epoch=self.target, root=Bytes32(hex32(self.root))),
        )
        return signing_root(data, 1)


@dataclass(frozen=True)
class Proposal:
    slot: int
    root: int

    @property
    def duty(self) -> dict[str, Any]:
        header = {
            "slot": str(self.slot),
            "proposer_index": "7",
            "parent_root": hex32(1),
            "state_root": hex32(2),
            "body_root": hex32(self.root),
        }
        return {
            "type": "BLOCK_V2",
            "fork_info": FORK_INFO,
            "beacon_block": {"version": "FULU", "block_header": header},
        }

    @property
    def signing_root(self) -> bytes:
        header = BeaconBlockHeader(
            slot=self.slot,
            proposer_index=7,
            parent_root=Bytes32(hex32(1)),
            state_root=Bytes32(hex32(2)),
            body_root=Bytes32(hex32(self.root)),
        )
        return signing_root(header, 0)


Message = Vote | Proposal
FORK_INFO = {
    "fork": {
        "previous_version": f"0x{VERSION}",
        "current_version": f"0x{VERSION}",
        "epoch": "0",
    },
    "genesis_validators_root": f"0x{INTEROP_GENESIS_VALIDATORS_ROOT}",
}


def hex32(number: int) -> str:
    return f"0x{number:064x}"


def signing_root(data: Container, domain_type: int) -> bytes:
    fork = ForkData(
        current_version=Bytes4(f"0x{VERSION}"),
        genesis_validators_root=Bytes32(f"0x{INTEROP_GENESIS_VALIDATORS_ROOT}"),
    )
    domain = bytes([domain_type, 0, 0, 0]) + bytes(fork.hash_tree_root())[:28]
    signing = SigningData(object_root=data.hash_tree_root(), domain=Bytes32(domain))
    return bytes(signing.hash_tree_root())


def punishable(one: Message, other: Message) -> bool:
    """is_slashable_attestation_data, and the condition of a proposer slashing."""
    if one == other:
        return False
    if isinstance(one, Proposal) and isinstance(other, Proposal):
        return one.slot == other.slot
    if isinstance(one, Vote) and isinstance(other, Vote):
        return one.target == other.target or any(
            outer.source < inner.source and inner.target < outer.target
            for outer, inner in ((one, other), (other, one))
        )
    return False


# --- the Lambda functions -------------------------------------------------------------


class Function:
    """One of them, started cold: a process with the variables that its stack sets."""

    def __init__(self, handler: str, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-I", ENVIRONMENT, handler],
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __call__(self, event: dict[str, Any]) -> Any:
        """What the handler returns for *event*. One event at a time, as on AWS."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(event), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, self._log.read_text()
        return json.loads(line)

    @property
    def printed(self) -> list[dict[str, Any]]:
        """The log's lines, each in CloudWatch's embedded metric format."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def start_cold(fleet: Fleet, name: str, log: Path) -> Function:
    """The function, told what its deployment tells it."""
    handler, role = FUNCTIONS[name]
    files = fleet.identities.clients["default"]
    told = {
        "AWS_DEFAULT_REGION": REGION,
        "LC_ALL": "C.UTF-8",
        "SIGNER_URL": fleet.url,
        "EXPECTED_PCR0": fleet.pcr0.hex(),
        "ADMINISTRATOR": fleet.identities.fingerprint,
        "DEPLOYMENT": fleet.manifest.manifest.deployment,
        "KMS_KEY_ARN": fleet.manifest.manifest.aws.kms_key_arn,
        "STACK": "played",
        # What is here instead of AWS's: the root of attestation, the way to KMS, and a
        # certificate instead of the token in Secrets Manager.
        "TRUST_ROOT": fleet.anchor.fingerprint.hex(),
        "CLIENT_CERTIFICATE": str(files.cert),
        "CLIENT_KEY": str(files.key),
        "AWS_ENDPOINT_URL_KMS": f"https://localhost:{fleet.shared.kms_port}",
        "AWS_CA_BUNDLE": str(fleet.shared.kms_ca),
    }
    if role is not None:
        known = fleet.shared.principals.read_bytes()
        mine = msgspec.json.decode(known, type=PrincipalsFile).principals[role]
        told |= {
            "AWS_ACCESS_KEY_ID": mine.access_key_id,
            "AWS_SECRET_ACCESS_KEY": mine.secret_access_key,
            "AWS_SESSION_TOKEN": mine.session_token or "",
        }
    return Function(handler, told, log)


# --- the load -------------------------------------------------------------------------


@dataclass
class Received:
    """What callers were given. Written by all threads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    signatures: dict[tuple[str, Message], set[str]] = field(default_factory=dict)
    served: dict[str, float] = field(default_factory=dict)
    """When each validator was last given a signature for a new duty."""
    slashable: int = 0
    undecided: dict[str, int] = field(default_factory=dict)
    wallet_keys: dict[str, str] = field(default_factory=dict)
    """Name to address, of those that were promised to exist."""
    wallet_served: float = 0.0
    operated: int = 0
    """Operations of the validator's function that were answered."""
    looks: int = 0
    """Runs of the probe and of the canary."""
    wrong: list[BaseException] = field(default_factory=list)

    def signed(self, key: str, message: Message, signature: str) -> None:
        with self.lock:
            if (key, message) not in self.signatures:
                self.served[key] = time.monotonic()
            self.signatures.setdefault((key, message), set()).add(signature)

    def not_decided(self, code: str) -> None:
        with self.lock:
            self.undecided[code] = self.undecided.get(code, 0) + 1


class Clock:
    """Epochs that pass as fast as a test needs them. Each has slots of its own."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def epoch(self) -> int:
        return 10 + int((time.monotonic() - self._began) * 4)


def wish(source: random.Random, epoch: int) -> Message:
    """A duty of about now: mostly the honest one, often one against it."""
    root = 10 if source.random() < 0.5 else source.randrange(10, 13)
    if source.random() < 0.3:
        return Proposal(slot=epoch * SLOTS + source.randrange(SLOTS), root=root)
    if source.random() < 0.6:
        return Vote(source=epoch - 1, target=epoch, root=root)
    low, high = sorted(epoch + source.randrange(-6, 3) for _ in range(2))
    return Vote(source=low, target=high + 1, root=root)


def attest(
    client: SignerClient,
    keys: list[str],
    received: Received,
    stop: threading.Event,
    *,
    seed: int,
    clock: Clock,
) -> None:
    """What a validator client does, without protection of its own."""
    source = random.Random(seed)
    while not stop.is_set():
        key, message = source.choice(keys), wish(source, clock.epoch)
        try:
            received.signed(key, message, client.sign_duty(key, message.duty))
        except Refused as refused:
            if refused.code is not Code.SLASHABLE:
                raise
            with received.lock:
                received.slashable += 1
        except Undecided as undecided:
            received.not_decided(undecided.code)
            # The same again: whether it was recorded is unknown, repeating is allowed.
            with contextlib.suppress(Undecided, Refused):
                received.signed(key, message, client.sign_duty(key, message.duty))
        stop.wait(0.005)


def trade(
    handle: Callable[[dict[str, Any]], Any], received: Received, stop: threading.Event
) -> None:
    """What callers of the wallet's function do: new keys, and payments from them."""
    numbers = itertools.count()
    while not stop.is_set():
        number = next(numbers)
        name = f"played-{number}"
        if number % 4 == 0:
            secret = hashlib.sha256(name.encode()).hexdigest()
            made = handle({"operation": "set_key", "key": name, "eth_key": secret})
        else:
            made = handle({"operation": "create_key", "key": name})
        if not answered(made, received):
            continue
        with received.lock:
            received.wallet_keys[name] = made["identity"]
        payment = {"nonce": number, "gas": 21_000, "to": TO, "value": 0.5}
        payment |= {"maxFeePerGas": 10**10, "maxPriorityFeePerGas": 1, "chainId": 31337}
        paid = handle(
            {
                "operation": "sign_transaction",
                "key": name,
                "transaction_payload": payment,
            }
        )
        if answered(paid, received):
            raw = paid["transaction_signed"]
            assert Account.recover_transaction(raw) == made["identity"]
            received.wallet_served = time.monotonic()
        stop.wait(0.05)


def operate(
    handle: Callable[[dict[str, Any]], Any],
    fleet: Fleet,
    keys: list[str],
    received: Received,
    stop: threading.Event,
) -> None:
    """What the reference's scripts ask of the validator's function."""
    for operation in itertools.cycle(
        ("web3signer_status", "web3signer_public_keys", "set_tls_key", "healthcheck")
    ):
        if stop.is_set():
            return
        answer = handle({"operation": operation})
        if not answered(answer, received):
            continue
        if operation == "web3signer_status":
            assert answer == "OK"
        elif operation == "web3signer_public_keys":
            assert set(keys) <= set(answer)
        elif operation == "set_tls_key":
            assert answer["attested"] is True
            assert answer["pcr0"] == fleet.pcr0.hex()
            assert answer["authority_pem"] == fleet.folder.ca.read_text()
        received.operated += 1
        stop.wait(0.1)


def look(
    functions: Mapping[str, Function], received: Received, stop: threading.Event
) -> None:
    """What the schedules do, more often."""
    while not stop.is_set():
        for name in ("probe", "canary"):
            assert functions[name]({}) is None
        received.looks += 1
        stop.wait(0.5)


def answered(answer: Any, received: Received) -> bool:
    """False if nobody could say; a refusal is wrong."""
    if not isinstance(answer, dict) or "error" not in answer:
        return True
    code = answer["error"]["code"]
    # `unknown_key`: the other signer hears of a new key when it reloads.
    # `version_conflict`: a key whose making was not answered was made.
    undecided = {"signer_unreachable", "unknown_key", "version_conflict", "not_ready"}
    assert code in undecided or code.endswith("_unavailable"), answer
    received.not_decided(code)
    return False


@contextlib.contextmanager
def under_load(
    fleet: Fleet,
    functions: Mapping[str, Function],
    keys: list[str],
    received: Received,
) -> Iterator[None]:
    stop, clock = threading.Event(), Clock()

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                received.wrong.append(error)

        return run

    with contextlib.ExitStack() as opened:
        works: list[Callable[[], None]] = []
        for seed in range(CLIENTS):
            client = opened.enter_context(fleet.client("validator"))
            works.append(
                lambda client=client, seed=seed: attest(  # type: ignore[misc]
                    client, keys, received, stop, seed=seed, clock=clock
                )
            )
        works += [
            lambda: trade(functions["wallet"], received, stop),
            lambda: operate(functions["validator"], fleet, keys, received, stop),
            lambda: look(functions, received, stop),
        ]
        threads = [threading.Thread(target=guarded(work)) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


# --- the deployment -------------------------------------------------------------------


@pytest.fixture
def fleet(
    dynamodb_tables: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    tables = Tables(dynamodb_tables, records="records", watermarks="watermarks")
    with Fleet(tmp_path / "fleet", tables, validators("minimal", None, None)) as made:
        make_private(made.folder.kms)
        give_the_canary_a_role(made)
        made.start(2)
        let_the_canary_make_bait(made)
        yield made


CANARY = "arn:aws:iam::{}:role/nitrosigner-canary"


def give_the_canary_a_role(fleet: Fleet) -> None:
    """IAM allows it everything, as its role in the stack nearly does."""
    path = fleet.folder.kms / "principals.json"
    stored = load_or_create(path, region=REGION, account=AWS_ACCOUNT)
    stored.principals["canary"] = msgspec.structs.replace(
        stored.principals["administrator"],
        arn=CANARY.format(AWS_ACCOUNT),
        access_key_id="ASIACANARYCANARYCANA",
    )
    path.write_bytes(msgspec.json.encode(stored))


def let_the_canary_make_bait(fleet: Fleet) -> None:
    """The key policy's statements that the stacks add for it."""
    arn = fleet.manifest.manifest.aws.kms_key_arn
    with contextlib.closing(kms_rollout.client(fleet.shared, "administrator")) as kms:
        policy = json.loads(kms.get_key_policy(KeyId=arn)["Policy"])
        condition = {
            "kms:EncryptionContext:administrator": fleet.identities.fingerprint,
            "kms:EncryptionContext:deployment": fleet.manifest.manifest.deployment,
            "kms:EncryptionContext:purpose": "canary",
        }
        policy["Statement"] += [
            {
                "Sid": "CanaryEncryptsItsBait",
                "Effect": "Allow",
                "Principal": {"AWS": CANARY.format(AWS_ACCOUNT)},
                "Action": ["kms:Encrypt"],
                "Resource": "*",
                "Condition": {"StringEquals": condition},
            },
            {
                "Sid": "AccountLooksAtTheKey",
                "Effect": "Allow",
                "Principal": {"AWS": f"arn:aws:iam::{AWS_ACCOUNT}:root"},
                "Action": ["kms:GetKeyPolicy", "kms:ListGrants"],
                "Resource": "*",
            },
        ]
        kms.put_key_policy(KeyId=arn, Policy=json.dumps(policy))


@pytest.fixture
def functions(fleet: Fleet, tmp_path: Path) -> Iterator[dict[str, Function]]:
    with contextlib.ExitStack() as opened:
        made = {}
        for name in FUNCTIONS:
            made[name] = start_cold(fleet, name, tmp_path / f"{name}.log")
            opened.callback(made[name].close)
        yield made


def test_two_signers_on_one_store_lose_nothing_and_sign_nothing_slashable(
    fleet: Fleet, functions: dict[str, Function], tmp_path: Path
) -> None:
    with fleet.client("operator", fleet.instances[0]) as operator:
        keys = [operator.create_validator().name for _ in range(KEYS)]
    for one in fleet.instances:
        reload(fleet, one)
    received = Received()
    with under_load(fleet, functions, keys, received):
        all_served(keys, received)
        for victim in fleet.instances:
            before = fleet.enclaves(victim)
            fleet.kill(victim)
            killed = time.monotonic()
            # What decides on AWS whether an instance is let in.
            wait_until(lambda victim=victim: not can_sign(victim), "it is out")  # type: ignore[misc]
            all_served(keys, received)
            wait_until(
                lambda victim=victim, before=before: (  # type: ignore[misc]
                    fleet.enclaves(victim) not in ([], before)
                    and can_sign(victim)
                    and all(fleet.balancer.healthy)
                ),
                "the watchdog has brought it back",
                MENDED - (time.monotonic() - killed),
            )
            all_served(keys, received)
    if received.wrong:
        raise received.wrong[0]

    nothing_slashable(received)
    real_signatures(received)
    for one in fleet.instances:
        reload(fleet, one)
        every_key_signs(fleet, one, keys, received)
        audit_is_a_chain(one)
    with contextlib.closing(start_cold(fleet, "wallet", tmp_path / "cold.log")) as cold:
        listed = cold({"operation": "list_keys"})["keys"]
        assert received.wallet_keys.keys() <= {key["name"] for key in listed}
    probed(functions["probe"], KEYS + len(received.wallet_keys))
    never_opened(functions["canary"])
    # Nothing but a failed request is printed, and no request failed for a bug of ours.
    assert functions["wallet"].printed == functions["validator"].printed == []
    # It was the load that it should be.
    assert len(received.signatures) > 50
    assert received.slashable > 50
    assert len(received.wallet_keys) > 10
    assert received.operated > 5
    assert received.looks > 1


def probed(probe: Function, keys: int) -> None:
    """It saw the signers through the balancer, and sees them whole in the end."""
    probe({})
    last = probe.printed[-1]
    assert last["SignerReady"] == 1.0
    assert last["KeysLoaded"] >= keys
    assert 0 < last["CertificateDaysLeft"] < 400
    assert {one["stack"] for one in probe.printed} == {"played"}


def never_opened(canary: Function) -> None:
    """Whatever died meanwhile, KMS knew that the canary is no enclave."""
    tried = ("Decrypt", "GenerateDataKey", "ReEncrypt")
    ways = dict.fromkeys((*tried, "Policy", "Grants"), "denied")
    for one in canary.printed:
        assert one["attempts"] == ways
        assert (one["UnattestedOpened"], one["UnattestedNotKnown"]) == (0, 0)


def all_served(keys: list[str], received: Received) -> None:
    """Every validator signs a new duty, and a new wallet key pays, from now on."""
    asked = time.monotonic()

    def left() -> set[str]:
        if received.wrong:
            raise received.wrong[0]
        served = received.served | {"wallet": received.wallet_served}
        return {one for one in (*keys, "wallet") if served.get(one, 0.0) <= asked}

    try:
        wait_until(lambda: not left(), "all are served", SERVED_AGAIN)
    except TimeoutError:
        pytest.fail(f"not served: {left()}; meanwhile: {received.undecided}")


def can_sign(instance: Instance) -> bool:
    """What the instance's lifecycle program says to its Auto Scaling group."""
    told = instance_lifecycle.Configuration(
        region=REGION,
        group="played",
        launching_hook="can-sign",
        terminating_hook="drained",
        init_flag="/played",
        port=instance.places.port,
    )
    nobody = object()
    one = instance_lifecycle.Instance(told, autoscaling=nobody, ssm=nobody)
    return one.can_sign()


def nothing_slashable(received: Received) -> None:
    by_key: dict[str, list[Message]] = {}
    for key, message in received.signatures:
        by_key.setdefault(key, []).append(message)
    found = [
        (key, pair)
        for key, messages in by_key.items()
        for pair in itertools.combinations(messages, 2)
        if punishable(*pair)
    ]
    assert found == []


def real_signatures(received: Received) -> None:
    """What the oracle judged is what was signed: another library says so."""
    # BLS signatures are deterministic: one message has one.
    assert all(len(given) == 1 for given in received.signatures.values())
    source = random.Random(1)
    for (key, message), (signature,) in source.sample(
        sorted(received.signatures.items(), key=str), 6
    ):
        assert G2ProofOfPossession.Verify(
            bytes.fromhex(key[2:]), message.signing_root, bytes.fromhex(signature[2:])
        ), message


def reload(fleet: Fleet, instance: Instance) -> None:
    with fleet.client("operator", instance) as operator:
        operator.reload()
        wait_until(lambda: operator.reload_status().status != "running", "it reloads")
        assert operator.reload_status().status == "completed"


def every_key_signs(
    fleet: Fleet, instance: Instance, keys: list[str], received: Received
) -> None:
    epoch = 100_000 + instance.number
    with fleet.client("validator", instance) as client:
        assert set(keys) <= {key.name for key in client.list_validators()}
        for key in keys:
            client.sign_duty(key, Vote(epoch - 1, epoch, 10).duty)
            with pytest.raises(Refused) as told:
                client.sign_duty(key, Vote(epoch - 1, epoch, 11).duty)
            assert told.value.code is Code.SLASHABLE
    with fleet.client("default", instance) as client:
        listed = {key.name: key.identity for key in client.list_keys()}
        assert received.wallet_keys.items() <= listed.items()
        for name, address in received.wallet_keys.items():
            signed = client.sign_message(name, "still here")
            message = encode_defunct(text="still here")
            assert (
                Account.recover_message(message, signature=signed.signature) == address
            )


def audit_is_a_chain(instance: Instance) -> None:
    last: dict[str, str] = {}
    signed = 0
    for line in instance.audit.read_bytes().splitlines():
        event = json.loads(line)
        assert event["previous"] == last.get(event["boot"], "0" * 64)
        last[event["boot"]] = hashlib.sha256(line).hexdigest()
        signed += event["outcome"] == "signed"
    # One for the boot before the kill, one for that after it.
    assert len(last) == 2
    # The balancer sent work to it.
    assert signed > 10
