"""
A running front with validators: the real slashing guard over a store that can fail, the
real blst, and a count of every signature that was made.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ckzg
import pytest

from nitrosigner.trusted.enclave.https.http_protocol import Times
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.enclave.validators.slashing_guard import Advance, SlashingGuard
from nitrosigner.trusted.enclave.validators.validator_keys_port import (
    NO_HISTORY,
    DepositData,
    Derived,
    History,
    Imported,
    Reloaded,
    SignedBlsChange,
    SignedVoluntaryExit,
    ValidatorFacts,
    WrappedSeed,
)
from nitrosigner.trusted.enclave.validators.validator_records import (
    Records,
    Repaired,
    Untrusted,
)
from nitrosigner.trusted.enclave.validators.watermark_items import ItemSeal
from nitrosigner.trusted.signing.algorithms import Signature
from nitrosigner.trusted.signing.beacon_containers import MINIMAL_PRESET
from nitrosigner.trusted.signing.beacon_domains import (
    ForkVersion,
    GenesisValidatorsRoot,
)
from nitrosigner.trusted.signing.beacon_networks import BeaconNetwork
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.trusted.signing.slashing import Watermark
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided, Verdict
from nitrosigner.wire import api
from nitrosigner.wire.manifest import Client, Operation
from nitrosigner.wire.manifest_validators import CustomNetwork, Validators

CHAIN = GenesisValidatorsRoot(b"\x2a" * 32)
VERSIONS = {
    name: ForkVersion(bytes([number, 0, 0, 1]))
    for number, name in enumerate(
        ("phase0", "altair", "bellatrix", "capella", "deneb", "electra", "fulu")
    )
}
NETWORK = BeaconNetwork(
    name="devnet",
    preset=MINIMAL_PRESET,
    genesis_validators_root=CHAIN,
    fork_versions=VERSIONS,
)
BLS = Bls12381(ckzg.__file__)
KEYS = 4
DUTIES_ONLY = "duties-only"
OTHER_TEAM = "other-team-of-validators"
IMPORTER = "importer"
VALIDATOR_TOKENS = {
    name: f"token-of-{name}-{hashlib.sha256(name.encode()).hexdigest()}"
    for name in (DUTIES_ONLY, OTHER_TEAM, IMPORTER)
}


def secret_of(number: int) -> bytes:
    return hashlib.sha256(b"validator %d" % number).digest()[:31].rjust(32, b"\0")


def public_key_of(number: int) -> bytes:
    with SecretBytes(bytearray(secret_of(number))) as secret:
        return bytes(BLS.public_key(secret))


PUBLIC_KEYS = [public_key_of(number) for number in range(KEYS + 2)]
"""The last two have no key here."""
NAMES = ["0x" + key.hex() for key in PUBLIC_KEYS]


@dataclass(frozen=True)
class FakeKey:
    name: str
    public_key: bytes
    state: api.KeyState = "enabled"
    version: int = 1

    @property
    def description(self) -> api.KeyDescription:
        return api.KeyDescription(
            name=self.name,
            algorithm="bls12-381",
            kind="vault",
            public_key=self.name,
            identity=self.name,
            state=self.state,
            version=self.version,
            created=1_700_000_000,
        )


@dataclass
class Row:
    version: int
    data: bytes


class FakeStore:
    """Watermarks in memory. It can be down, forget, lose answers, or be held up."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Row] = {}
        self.round_trips = 0
        self.failure: BaseException | None = None
        self.answers_get_lost = False
        self.held: asyncio.Event | None = None

    async def fetch(self, public_keys: Sequence[bytes]) -> Mapping[bytes, Row]:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return {key: self.rows[key] for key in public_keys if key in self.rows}

    async def advance(self, changes: Sequence[Advance]) -> Sequence[bool]:
        await asyncio.sleep(0)
        if self.held is not None:
            await self.held.wait()
        if self.failure is not None:
            raise self.failure
        self.round_trips += 1
        written = []
        for change in changes:
            row = self.rows.get(change.public_key)
            fits = (row.version if row else 0) == change.expected
            if fits:
                self.rows[change.public_key] = Row(change.expected + 1, change.data)
            written.append(fits)
        if self.answers_get_lost:
            raise Undecided(Code.STORAGE_UNAVAILABLE, "the answer got lost")
        return written


class FakeRecords:
    """The records of `FakeStore`, in the order of their keys."""

    def __init__(self, validators: "FakeValidators") -> None:
        self._validators = validators

    async def page(self, after: bytes | None, limit: int) -> Records:
        await self._validators._began("records", after, limit)
        rows, guard = self._validators.store.rows, self._validators.guard
        keys = sorted(key for key in rows if after is None or key > after)
        page, more = keys[:limit], len(keys) > limit
        lost = await guard.load(page)
        reached = {key: guard.watermark(key) for key in page if key not in lost}
        untrusted = [Untrusted(key, rows[key], why) for key, why in lost.items()]
        return Records(
            {key: mark for key, mark in reached.items() if mark},
            untrusted,
            page[-1] if more else None,
        )

    async def repair(self, public_key: bytes, history: Watermark) -> Repaired:
        validators = self._validators
        await validators._began("repair", public_key, history)
        stored = validators.store.rows.get(public_key)
        why = (await validators.guard.load([public_key])).get(public_key)
        reached = await validators.guard.mend(public_key, history, "")
        assert why is not None
        return Repaired(Untrusted(public_key, stored, why), reached)


class FakeValidators:
    """The port, over a dictionary of secrets. Every method can fail."""

    def __init__(self) -> None:
        self.network = NETWORK
        self.store = FakeStore()
        self.guard = SlashingGuard(self.store, ItemSeal(b"\x07" * 32), CHAIN)
        self.secrets = {NAMES[number]: secret_of(number) for number in range(KEYS)}
        self.keys = {
            NAMES[number]: FakeKey(NAMES[number], PUBLIC_KEYS[number])
            for number in range(KEYS)
        }
        self.signed: list[Permit] = []
        self.hashed: list[bytes] = []
        self.asked: list[tuple[Any, ...]] = []
        self.untrusted: set[str] = set()
        self.failure: BaseException | None = None
        self.signing_failure: BaseException | None = None
        self.reloading: asyncio.Event | None = None
        self.reloaded = Reloaded(added=1, changed=0, removed=0, rejected=0)
        self.import_public_key = bytes(range(32))
        self.records = FakeRecords(self)
        self.elsewhere: dict[str, FakeKey] = {}
        """What other enclaves changed, and we have not heard of."""
        self.deaf = False
        self.listened = 0

    async def listen(self) -> None:
        await asyncio.sleep(0)
        if self.deaf:
            raise Undecided(Code.STORAGE_UNAVAILABLE, "the store is silent")
        self.listened += 1
        self.keys |= self.elsewhere
        self.elsewhere = {}

    async def seek(self, identifiers: Sequence[str]) -> None:
        if any(len(one.removeprefix("0x")) == 96 for one in identifiers):
            await self.listen()

    async def register_all(self) -> None:
        for key in self.keys.values():
            await self.guard.register(key.public_key, NO_HISTORY)

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    @property
    def facts(self) -> ValidatorFacts:
        states = [key.state for key in self.keys.values()]
        return ValidatorFacts(
            loaded=len(states),
            enabled=states.count("enabled"),
            unprotected=0,
            expected=None,
            signatures=len(self.signed),
            waiting=0,
        )

    def busy(self) -> bool:
        return False

    def find(self, identifier: str) -> FakeKey:
        self._fail()
        name = "0x" + identifier.lower().removeprefix("0x")
        if identifier in ("hot", "cold"):
            raise Refused(Code.NOT_ALLOWED, "this is a wallet's key")
        if name in self.untrusted:
            raise Refused(Code.RECORD_UNTRUSTED, "its record was altered")
        if name not in self.keys:
            raise Refused(Code.UNKNOWN_KEY, "there is no such validator key")
        return self.keys[name]

    def describe(self, identifier: str) -> api.KeyDescription:
        return self.find(identifier).description

    def page(self, after: str, limit: int) -> api.KeyPage:
        self._fail()
        names = sorted(name for name in self.keys if name > after)
        return api.KeyPage(
            keys=[self.keys[name].description for name in names[:limit]],
            more=len(names) > limit,
        )

    def enabled(self) -> list[str]:
        self._fail()
        return sorted(k.name for k in self.keys.values() if k.state == "enabled")

    def _sign(self, permit: Permit) -> Signature:
        if self.signing_failure is not None:
            raise self.signing_failure
        key = self.keys.get(permit.key)
        if key is None or key.state != "enabled":
            raise Refused(Code.KEY_DISABLED, "the key is disabled")
        self.signed.append(permit)
        with SecretBytes(bytearray(self.secrets[permit.key])) as secret:
            return BLS.sign(secret, permit.message)

    async def sign(self, permit: Permit) -> Signature:
        await asyncio.sleep(0)
        return self._sign(permit)

    def sign_soon(
        self, permit: Permit, then: Callable[[Signature | Verdict], None]
    ) -> None:
        # A failure that is no verdict comes at once, as it would from the real thing.
        try:
            outcome: Signature | Verdict = self._sign(permit)
        except Verdict as verdict:
            outcome = verdict
        asyncio.get_running_loop().call_soon(then, outcome)

    async def hash_once(self, message: bytes) -> None:
        self.hashed.append(message)
        await asyncio.sleep(0)

    async def sign_many(self, permits: Sequence[Permit]) -> list[Signature | Verdict]:
        await asyncio.sleep(0)
        outcome: list[Signature | Verdict] = []
        for permit in permits:
            try:
                outcome.append(self._sign(permit))
            except Verdict as verdict:
                outcome.append(verdict)
        return outcome

    async def deposit_data(
        self, identifier: str, *, withdrawal_credentials: bytes, amount: int
    ) -> DepositData:
        await self._began("deposit", identifier, withdrawal_credentials, amount)
        if amount < 10**9:
            raise Malformed(Code.MALFORMED_REQUEST, "no deposit is that small")
        return DepositData(
            public_key=self.find(identifier).public_key,
            withdrawal_credentials=withdrawal_credentials,
            amount=amount,
            signature=bytes(96),
            message_root=b"\x01" * 32,
            data_root=b"\x02" * 32,
            fork_version=VERSIONS["phase0"],
            network="devnet",
        )

    async def voluntary_exit(
        self, identifier: str, *, validator_index: int, epoch: int
    ) -> SignedVoluntaryExit:
        await self._began("exit", identifier, validator_index, epoch)
        self.find(identifier)
        return SignedVoluntaryExit(
            epoch=epoch, validator_index=validator_index, signature=bytes(96)
        )

    async def bls_to_execution_change(
        self,
        identifier: str,
        *,
        validator_index: int,
        to_execution_address: bytes,
        seed: WrappedSeed | None = None,
        index: int = 0,
    ) -> SignedBlsChange:
        await self._began("bls_change", identifier, validator_index, seed, index)
        return SignedBlsChange(
            validator_index=validator_index,
            from_bls_public_key=self.find(identifier).public_key,
            to_execution_address=to_execution_address,
            signature=bytes(96),
            network="mainnet",
            genesis_validators_root=bytes(32),
        )

    async def _began(self, *asked: Any) -> None:
        await asyncio.sleep(0)
        self._fail()
        self.asked.append(asked)

    async def _add(self, number: int, history: Watermark) -> Imported:
        name = NAMES[number]
        await self.guard.register(PUBLIC_KEYS[number], history)
        known = self.keys.get(name)
        if known is not None and known.state != "deleted":
            return Imported(known.description, new=False)
        key = FakeKey(name, PUBLIC_KEYS[number])
        self.keys[name] = key
        self.secrets[name] = secret_of(number)
        return Imported(key.description, new=True)

    async def create(self) -> api.KeyDescription:
        await self._began("create")
        return (await self._add(KEYS, NO_HISTORY)).key

    async def import_wrapped(
        self, identity: str, wrapped_key: str, history: Watermark
    ) -> Imported:
        await self._began("import", identity, wrapped_key, history)
        if wrapped_key == "":
            raise Malformed(Code.MALFORMED_KEY, "this is not wrapped for us")
        return await self._add(NAMES.index(identity.lower()), history)

    async def import_keystore(
        self, keystore: str, password: str, history: Watermark
    ) -> Imported:
        await self._began("keystore", keystore, history)
        try:
            number = json.loads(keystore)["number"]
        except (ValueError, KeyError, TypeError):
            raise Malformed(Code.MALFORMED_KEYSTORE, "this is no keystore") from None
        if password != "right":
            raise Refused(Code.WRONG_PASSWORD, "the password does not open it")
        return await self._add(number, history)

    async def import_reference(
        self, public_key: str, ciphertext: bytes, history: Watermark
    ) -> Imported:
        await self._began("reference", public_key, ciphertext, history)
        return await self._add(NAMES.index(public_key.lower()), history)

    async def derive(
        self,
        seed: WrappedSeed,
        *,
        start: int,
        count: int,
        backup_recipient: bytes | None = None,
    ) -> Derived:
        await self._began("derive", seed, start, count, backup_recipient)
        keys = [await self._add(number, NO_HISTORY) for number in range(start, count)]
        return Derived(keys, b"sealed" if backup_recipient else b"")

    async def _change(
        self, verb: str, identifier: str, state: api.KeyState, version: int | None
    ) -> FakeKey:
        await self._began(verb, identifier, version)
        key = self.find(identifier)
        if version is not None and version != key.version:
            raise Refused(Code.VERSION_CONFLICT, "the version is another one")
        key = replace(key, state=state, version=key.version + 1)
        self.keys[key.name] = key
        return key

    async def disable(self, identifier: str, version: int | None = None) -> Any:
        key = await self._change("disable", identifier, "disabled", version)
        return key.description

    async def enable(self, identifier: str, version: int | None = None) -> Any:
        key = await self._change("enable", identifier, "enabled", version)
        return key.description

    async def delete(
        self, identifier: str, version: int | None = None
    ) -> tuple[api.KeyDescription, Watermark | None]:
        key = await self._change("delete", identifier, "deleted", version)
        return key.description, self.guard.watermark(key.public_key)

    async def reload(self) -> Reloaded:
        if self.reloading is not None:
            await self.reloading.wait()
        await self._began("reload")
        return self.reloaded

    async def history(self, public_keys: Sequence[bytes]) -> History:
        await self._began("history", tuple(public_keys))
        lost = set(await self.guard.load(list(public_keys)))
        reached = {}
        for key in public_keys:
            watermark = self.guard.watermark(key)
            if key not in lost and watermark is not None:
                reached[key] = watermark
        return History(reached, sorted(lost))

    async def import_history(self, history: Mapping[bytes, Watermark]) -> int:
        await self._began("import_history", dict(history))
        for key, watermark in history.items():
            await self.guard.register(key, watermark)
        return len(history)


TOLD = Validators(
    network="devnet",
    custom=CustomNetwork(
        preset="minimal",
        genesis_validators_root=CHAIN.hex(),
        fork_versions={name: version.hex() for name, version in VERSIONS.items()},
    ),
)


def with_validators(running: Any) -> None:
    """Prepare a front that has validators."""
    running.validators = FakeValidators()
    running.told_of_validators = TOLD

    def token(name: str) -> list[str]:
        return [hashlib.sha256(VALIDATOR_TOKENS[name].encode()).hexdigest()]

    running.more_clients = [
        Client(
            name=DUTIES_ONLY,
            token_sha256=token(DUTIES_ONLY),
            operations=[Operation.SIGN_DUTY, Operation.LIST_KEYS],
            keys=["0x*"],
        ),
        Client(
            name=IMPORTER,
            token_sha256=token(IMPORTER),
            operations=[Operation.SLASHING_HISTORY, Operation.IMPORT_KEY],
            keys=["0x*"],
        ),
        Client(
            name=OTHER_TEAM,
            token_sha256=token(OTHER_TEAM),
            operations=list(Operation),
            keys=[NAMES[1]],
        ),
    ]


@pytest.fixture
def prepare() -> Callable[[Any], None]:
    return with_validators


@pytest.fixture
def duty_front(start: Callable[..., Any]) -> Iterator[Any]:
    """A front with validators, all registered."""
    running = start(with_validators)
    running.loop.run(running.validators.register_all())
    running.tokens = VALIDATOR_TOKENS
    return running


@pytest.fixture
def patient_front(start: Callable[..., Any]) -> Any:
    """The same with the times that it has in service: for clients that take theirs."""

    def prepare(running: Any) -> None:
        with_validators(running)
        running.times = Times()

    running = start(prepare)
    running.loop.run(running.validators.register_all())
    running.tokens = VALIDATOR_TOKENS
    return running


@pytest.fixture
def names() -> list[str]:
    """Names of the keys; the last two have none here."""
    return list(NAMES)


@pytest.fixture
def attestation() -> Callable[..., dict[str, Any]]:
    """A request as Lodestar sends it."""

    def make(
        source: int = 1, target: int = 2, *, block: str = "11", slot: int | None = None
    ) -> dict[str, Any]:
        return {
            "type": "ATTESTATION",
            "fork_info": fork_info(target),
            "attestation": {
                "slot": str(8 * target if slot is None else slot),
                "index": "0",
                "beacon_block_root": "0x" + block * 32,
                "source": {"epoch": str(source), "root": "0x" + "22" * 32},
                "target": {"epoch": str(target), "root": "0x" + "33" * 32},
            },
        }

    return make


def fork_info(epoch: int = 0) -> dict[str, Any]:
    return {
        "fork": {
            "previous_version": "0x03000001",
            "current_version": "0x04000001",
            "epoch": str(epoch),
        },
        "genesis_validators_root": "0x" + CHAIN.hex(),
    }


@pytest.fixture
def info() -> Callable[..., dict[str, Any]]:
    return fork_info


@pytest.fixture
def verify() -> Callable[[int, bytes, str], bool]:
    """Whether a signature in hex is the key's over a root."""

    def check(number: int, root: bytes, signature: str) -> bool:
        return BLS.verify(
            PUBLIC_KEYS[number], root, bytes.fromhex(signature.removeprefix("0x"))
        )

    return check
