"""
The demo's first half: the wallet job, as its users would do it.

The key and the transaction are those of AWS's own example ("AWS Nitro Enclaves for
secure blockchain key management"). The key has been public for years: it is a test
vector, and everybody can check what comes out.
"""

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, final

import msgspec
import sha3
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from nitrosigner.attestation.trust_anchors import EmulatedRoot
from nitrosigner.client import verification
from nitrosigner.client.import_key import import_private_key
from nitrosigner.client.private_key import PrivateKey
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator import plaintext_search
from nitrosigner.emulator.demo_broadcast import CHAIN_ID, find_anvil, running_node
from nitrosigner.emulator.demo_steps import Script, StepFailed, need
from nitrosigner.emulator.nitro_pki import stored_trust_anchor
from nitrosigner.emulator.running_stack import RunningStack

EXAMPLE_KEY: Final = "b25c7db31feed9122727bf0939dc769a96564b2de4c4726d035b36ecf1e5b364"
EXAMPLE_NAME: Final = "default"
"""The gateway's own key, which events without a name are about."""
EXAMPLE_TRANSACTION: Final[dict[str, Any]] = {
    "value": 0.01,
    "to": "0xa5D3241A1591061F2a4bB69CA0215F66520E67cf",
    "nonce": 0,
    "type": 2,
    "chainId": 4,
    "gas": 100000,
    "maxFeePerGas": 100000000000,
    "maxPriorityFeePerGas": 3000000000,
}
EXAMPLE_WEI: Final = 10_000_000_000_000_000
"""0.01 ether: the exact number, which no binary float is."""
_COMMAND_DEADLINE: Final = 90.0
_COMMAND: Final = (sys.executable, "-I", "-m", "nitrosigner.cli.main")


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """The signed transaction, as `nitrosigner demo --json` shows it."""

    raw: str
    hash: str
    sender: str = msgspec.field(name="from")


@final
class Wallet:
    """The steps of the wallet job against one running stack."""

    def __init__(self, script: Script, stack: RunningStack) -> None:
        self._script = script
        self._stack = stack
        self.anchor: Final[EmulatedRoot] = stored_trust_anchor(stack.folder.emulator)
        self.client: Final = SignerClient.from_data(stack.folder.path)
        self.address: Final = Account.from_key(EXAMPLE_KEY).address
        self.proof: verification.Proof | None = None

    def verify(self) -> verification.Proof:
        """Verify the enclave that runs now, as a stranger with the PCR0 would."""
        self.proof = verification.verify(
            self.client,
            now=dt.datetime.now(dt.UTC),
            anchors=[self.anchor],
            pcrs={0: bytes.fromhex(self._stack.ready.pcr0)},
            administrator=self._stack.ready.administrator,
        )
        return self.proof

    def attestation(self) -> None:
        """Step: the client verifies who answers."""
        with self._script.step(
            "attestation",
            "The client verifies the enclave before it sends anything",
            "the TLS connection ends in an enclave that runs exactly this source, and "
            "the answer is fresh",
        ) as lines:
            proof = self.verify()
            lines.extend(proof.proved())
            lines.extend(f"not proved: {sentence}" for sentence in proof.not_proved())
            lines.append(f"certificate {proof.certificate}")
            lines.append(f"manifest {proof.statement.manifest}")

    def create(self) -> None:
        """Step: a key is made inside."""
        with self._script.step(
            "create",
            "A key is made inside the enclave",
            "the private key was never anywhere else; its address is all that came out",
        ) as lines:
            made = self.client.create_key("treasury")
            stored = self.client.ciphertext("treasury")
            lines.append(f"treasury has the address {made.identity}")
            lines.append(f"stored outside: {len(stored.ciphertext)} characters, sealed")

    def import_wrapped(self) -> None:
        """Step: a key travels in, encrypted to the attested key."""
        with self._script.step(
            "import",
            "An existing key is imported, encrypted to the attested enclave",
            "only the enclave that was verified could open it on the way in",
        ) as lines:
            proof = self.proof or self.verify()
            with PrivateKey.from_hex(EXAMPLE_KEY) as private_key:
                made = import_private_key(
                    self.client, proof, private_key, name=EXAMPLE_NAME
                )
            need(
                made.identity == self.address,
                "the enclave reports another address than the key has",
            )
            lines.append(f"the key of AWS's example has the address {made.identity}")

    def set_key(self) -> None:
        """Step: the reference design's way in, through its own event."""
        with self._script.step(
            "set_key",
            "The same key the way of AWS's example: set_key, with KMS Encrypt outside",
            "existing callers keep their events; KMS opens the ciphertext for nobody "
            "but the attested enclave",
        ) as lines:
            event = {"operation": "set_key", "eth_key": EXAMPLE_KEY}
            # It takes the imported one's place. An event without the version, as
            # the example has it, is for a name that is free: nothing is overwritten
            # by accident.
            version = self.client.key(EXAMPLE_NAME).version
            answer = self.invoke(event | {"version": version})
            need(
                answer.get("identity") == self.address,
                "set_key stored a key with another address",
            )
            lines.append(f"set_key: {answer['name']} is {answer['identity']}")
            lines.append("kind kms: each signature needs an attested KMS Decrypt")

    def sign(self) -> Signed:
        """Step: the event of the source documents."""
        with self._script.step(
            "sign_transaction",
            "The transaction of AWS's example is signed",
            "0.01 ether became exactly 10000000000000000 wei; the key was open for one "
            "signature, inside",
        ) as lines:
            event = {
                "operation": "sign_transaction",
                "transaction_payload": EXAMPLE_TRANSACTION,
            }
            answer = self.invoke(event)
            signed = Signed(
                raw=answer["transaction_signed"],
                hash=answer["transaction_hash"],
                sender=answer["from"],
            )
            lines.append(f"from {signed.sender}")
            lines.append(f"hash {signed.hash}")
            lines.append(f"raw  {signed.raw}")
        return signed

    def check(self, signed: Signed) -> None:
        """Step: somebody else's code reads what was signed."""
        with self._script.step(
            "independent_check",
            "An independent library checks the signature (eth-account)",
            "what was signed is what was asked, by the key that was asked",
        ) as lines:
            raw = HexBytes(signed.raw)
            sender = Account.recover_transaction(raw)
            need(sender == self.address, f"the signature is {sender}'s")
            need(
                "0x" + sha3.keccak_256(raw).hexdigest() == signed.hash,
                "the hash is not the transaction's",
            )
            fields = TypedTransaction.from_bytes(raw).as_dict()
            wanted = EXAMPLE_TRANSACTION | {"value": EXAMPLE_WEI}
            for name, value in wanted.items():
                found = fields[name]
                if isinstance(found, bytes):
                    found, value = "0x" + found.hex(), value.lower()  # noqa: PLW2901
                need(found == value, f"the field {name} is {found}, not {value}")
            # Deterministic nonces (RFC 6979): the very bytes must agree.
            local = Account.sign_transaction(wanted, EXAMPLE_KEY)
            need(
                local.raw_transaction == raw,
                "eth-account signs the same transaction differently",
            )
            lines.append(f"recovered sender {sender}")
            lines.append(f"all {len(wanted)} fields are as asked")
            lines.append("eth-account, given the key, makes the very same bytes")

    def search(self) -> None:
        """Step: nothing but ciphertext lies outside."""
        with self._script.step(
            "nothing_outside",
            "Everything outside the enclave is searched for the private key",
            "files, logs, command lines, environments and the parent's memory hold "
            "ciphertext only",
        ) as lines:
            key = bytes.fromhex(EXAMPLE_KEY)
            state = self._stack.now()
            outside = [state.pid, *state.pids.values()]

            def look(*secrets: bytes) -> plaintext_search.Searched:
                return plaintext_search.search(
                    secrets,
                    folders=[self._stack.folder.path],
                    processes=outside,
                    memories=[state.pids["parent"]],
                )

            self._control(key, look)
            searched = look(key)
            for finding in searched.findings:
                lines.append(f"{finding.place}: {finding.spelling}")
            need(not searched.findings, "the private key lies outside the enclave")
            lines.append(
                f"{searched.places} places, {searched.size / 1e6:.1f} MB, "
                f"{len(plaintext_search.spellings(key))} spellings: nothing"
            )
            lines.extend(f"not readable on this system: {p}" for p in searched.closed)
            lines.append("control: the same search found the key where it was planted")

    def _control(self, key: bytes, look: Any) -> None:  # noqa: ANN401  # the caller's own
        planted = self._stack.folder.path / "planted"
        try:
            for text in (key, key.hex().encode()):
                planted.write_bytes(b"somewhere " + text + b" inside")
                found = {finding.place for finding in look(key).findings}
                need(str(planted) in found, "the search misses what is planted")
        finally:
            planted.unlink(missing_ok=True)

    def broadcast(self) -> None:
        """Step: a chain takes a transaction, if an EVM node is installed."""
        with (
            self._script.step(
                "broadcast",
                "An EVM node takes a transaction that the enclave signed",
                "a chain's own rules accept it",
            ) as lines,
            running_node(find_anvil()) as node,
        ):
            self.verify()  # the attacks restarted it: another certificate
            sender = self.client.key("treasury").identity
            node("anvil_setBalance", sender, hex(10**18))
            signed = self.client.sign_transaction(
                "treasury",
                EXAMPLE_TRANSACTION | {"value": EXAMPLE_WEI, "chainId": CHAIN_ID},
            )
            sent = node("eth_sendRawTransaction", signed.raw)
            need(sent == signed.hash, "the node computes another hash")
            receipt = node.receipt(sent)
            need(receipt["status"] == "0x1", "the transaction failed")
            lines.append(f"chain {CHAIN_ID}, block {int(receipt['blockNumber'], 16)}")
            lines.append(f"hash {receipt['transactionHash']}, status success")
            lines.append(f"from {receipt['from']}, gas {int(receipt['gasUsed'], 16)}")

    def invoke(self, event: dict[str, Any]) -> dict[str, Any]:
        """
        Run the Lambda handler on *event*, through the command that users have.

        Raises:
            StepFailed: It answered with an error.
        """
        return invoke(self._stack.folder.path, event)


def invoke(data: Path, event: dict[str, Any]) -> dict[str, Any]:
    """
    Answer *event* as `nitrosigner invoke wallet` does. See `Wallet.invoke`.

    A process of its own: the handler is one on AWS too, and *event* may hold a key.
    """
    done = subprocess.run(
        [*_COMMAND, "invoke", "wallet", "--data", str(data), "--json"],
        input=json.dumps(event).encode(),
        capture_output=True,
        timeout=_COMMAND_DEADLINE,
        check=False,
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise StepFailed("nitrosigner invoke wallet did not answer in JSON") from None
    if not isinstance(answer, dict):
        return {"result": answer}
    if "error" in answer:
        raise StepFailed(f"invoke wallet: {answer['error']['message']}")
    return answer
