"""
The demo's validator part: keys with their past, a vote, the vote that would be slashed,
two signers on one store, and the history that goes along when one moves away.

The keys are the interop keys of the consensus specifications, which everybody knows.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, final

from nitrosigner.cli.bls import bls12_381
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.beacon_chain import INTEROP_GENESIS_VALIDATORS_ROOT
from nitrosigner.emulator.demo_keystores import write_keystores
from nitrosigner.emulator.demo_steps import Script, StepFailed, need
from nitrosigner.emulator.first_run import VALIDATOR_CLIENT
from nitrosigner.emulator.running_stack import RunningStack
from nitrosigner.emulator.second_signer import second_signer
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Refused, Verdict

VALIDATORS: Final = 4
RACES: Final = 25
"""Epochs in which both signers are asked, for each validator, for different votes."""
_ORDER: Final = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
FORK_INFO: Final = {
    "fork": {
        "previous_version": "0x05000001",
        "current_version": "0x06000001",
        "epoch": "0",
    },
    "genesis_validators_root": f"0x{INTEROP_GENESIS_VALIDATORS_ROOT}",
}
_COMMAND: Final = (sys.executable, "-I", "-m", "nitrosigner.cli.main")
_DEADLINE: Final = 60.0
_PAST: Final = (10, 11)
"""Source and target epoch that the first validator voted for elsewhere."""


def interop_key(index: int) -> bytes:
    """Return the private key that everybody knows (consensus-specs, interop)."""
    digest = hashlib.sha256(index.to_bytes(32, "little")).digest()
    return (int.from_bytes(digest, "little") % _ORDER).to_bytes(32, "big")


def attestation(source: int, target: int, head: str = "aa") -> dict[str, Any]:
    """Return a signing request, in the JSON of Web3Signer."""
    return {
        "type": "ATTESTATION",
        "fork_info": FORK_INFO,
        "attestation": {
            "slot": str(target * 8),
            "index": "0",
            "beacon_block_root": "0x" + head * 32,
            "source": {"epoch": str(source), "root": "0x" + "11" * 32},
            "target": {"epoch": str(target), "root": "0x" + "22" * 32},
        },
    }


@final
class ValidatorJob:
    """The steps of the validator job against one running stack."""

    def __init__(self, script: Script, stack: RunningStack) -> None:
        self._script = script
        self._stack = stack
        bls = bls12_381()
        self._keys: Final[list[tuple[bytes, bytes]]] = []
        for index in range(VALIDATORS):
            secret = interop_key(index)
            with SecretBytes(bytearray(secret)) as held:
                self._keys.append((secret, bls.public_key(held)))
        self.names: Final = ["0x" + public.hex() for _, public in self._keys]

    def client(self) -> SignerClient:
        """Return the client that a validator client is."""
        return SignerClient.from_data(self._stack.folder.path, VALIDATOR_CLIENT)

    def bring_in(self) -> None:
        """Step: keystores, with what one of them has signed elsewhere."""
        with (
            self._script.step(
                "validators_import",
                "Validators' keystores are imported, with their slashing history",
                "the history is durable before the key is there: a validator that "
                "moves in cannot vote against its own past",
            ) as lines,
            tempfile.TemporaryDirectory(prefix="nitrosigner-demo-") as temporary,
        ):
            folder = Path(temporary)
            password = "demo password"  # noqa: S105  # of keys that everybody knows
            write_keystores(folder / "keystores", self._keys, password)
            (folder / "password").write_text(password + "\n")
            (folder / "history.json").write_text(json.dumps(self._history()))
            answer = self._run(
                *("validators", "import", "--yes"),
                *("--keystores", str(folder / "keystores")),
                *("--password-file", str(folder / "password")),
                *("--slashing-history", str(folder / "history.json")),
            )
            need(
                sorted(answer["imported"]) == sorted(self.names),
                "not every keystore was imported",
            )
            with self.client() as client:
                listed = client.validator_public_keys()
            need(sorted(listed) == sorted(self.names), "the signer lists other keys")
            lines.extend(f"validator {name}" for name in listed)
            lines.append("the first has voted elsewhere: epoch {} to {}".format(*_PAST))

    def vote(self) -> None:
        """Step: an attestation, twice the same."""
        with (
            self._script.step(
                "attestation_duty",
                "A validator client has an attestation signed (Web3Signer's API)",
                "how far the validator has come was durable before it was signed; the "
                "very same vote may be asked for again",
            ) as lines,
            self.client() as client,
        ):
            vote = attestation(_PAST[1], _PAST[1] + 1)
            signature = client.sign_duty(self.names[0], vote)
            need(
                client.sign_duty(self.names[0], vote) == signature,
                "the same vote got another signature",
            )
            lines.append(f"vote {_PAST[1]} to {_PAST[1] + 1}: {signature}")

    def slashable(self) -> None:
        """Step: what would be slashed is refused, and why is said."""
        source, target = _PAST[1], _PAST[1] + 1
        refused = {
            "another head, same target": attestation(source, target, "bb"),
            "surrounds what it voted": attestation(source - 1, target + 1),
            "what it voted elsewhere, once more": attestation(*_PAST, "cc"),
        }
        with (
            self._script.step(
                "slashable_refused",
                "The votes that would be slashed are refused",
                "no client, operator or host can talk the signer into a slashable "
                "vote, nor into one against what was imported; there is no off switch",
            ) as lines,
            self.client() as client,
        ):
            for what, vote in refused.items():
                try:
                    client.sign_duty(self.names[0], vote)
                except Refused as verdict:
                    lines.append(f"{what}: [{verdict.code}] {verdict.message}")
                else:
                    raise StepFailed(f"it was signed: {what}")

    def race(self) -> None:
        """Step: two signers on one store, asked for contradicting votes at once."""
        with self._script.step(
            "two_signers_race",
            "Two signers race over one store",
            "the store's conditional write is what commits: of two contradicting "
            "votes one at most is ever signed, whoever is asked",
        ) as lines:
            with second_signer(self._stack) as other:
                signed = self._contradict([self._stack.ready.url, other.url])
            both = [duty for duty, who in signed.items() if len(who) > 1]
            need(not both, f"both signed: {both[:3]}")
            need(
                len(signed) > RACES * VALIDATORS // 2,
                "hardly anything was signed at all",
            )
            wins = [who[0] for who in signed.values()]
            lines.append(
                f"{RACES * VALIDATORS} duties, two contradicting votes each, at once"
            )
            lines.append(
                f"signed by the first {wins.count(0)}, by the second {wins.count(1)}, "
                f"by both 0, by none {RACES * VALIDATORS - len(wins)}"
            )

    def export(self) -> None:
        """Step: the history, for whoever takes the validators over."""
        with (
            self._script.step(
                "slashing_history",
                "The slashing history is exported (EIP-3076)",
                "another signer, ours or not, can go on from here without being "
                "slashed",
            ) as lines,
            tempfile.TemporaryDirectory(prefix="nitrosigner-demo-") as temporary,
        ):
            file = Path(temporary) / "history.json"
            self._run("slashing-history", "export", "--output", str(file))
            history = json.loads(file.read_bytes())
            ours = {one["pubkey"] for one in history["data"]}
            need(ours >= set(self.names), "a validator is missing")
            first = next(o for o in history["data"] if o["pubkey"] == self.names[0])
            (vote,) = first["signed_attestations"]
            need(int(vote["target_epoch"]) > _PAST[1], "it forgot a vote")
            lines.append(json.dumps(history["metadata"]))
            lines.append(
                f"{len(ours)} validators; the first: source {vote['source_epoch']}, "
                f"target {vote['target_epoch']}"
            )

    def _contradict(self, urls: Sequence[str]) -> dict[tuple[int, int], list[int]]:
        """Ask for different votes of each duty everywhere; return who signed which."""
        files = self._stack.ready.clients[VALIDATOR_CLIENT]
        clients = [
            SignerClient(
                url, ca=self._stack.ready.ca, certificate=files.cert, key=files.key
            )
            for url in urls
        ]
        signed: dict[tuple[int, int], list[int]] = {}

        def ask(job: tuple[int, int, int]) -> tuple[int, int, int] | None:
            who, validator, epoch = job
            vote = attestation(epoch - 1, epoch, f"a{who}")
            try:
                clients[who].sign_duty(self.names[validator], vote)
            except Verdict:
                return None
            return job

        first = _PAST[1] + 2
        jobs = [
            (who, validator, first + race)
            for race in range(RACES)
            for validator in range(VALIDATORS)
            # Now the one first, now the other.
            for who in sorted(range(len(urls)), reverse=race % 2 == 1)
        ]
        with ThreadPoolExecutor(4 * len(urls)) as threads:
            for done in threads.map(ask, jobs):
                if done is not None:
                    who, validator, epoch = done
                    signed.setdefault((validator, epoch), []).append(who)
        for client in clients:
            client.close()
        return signed

    def _history(self) -> dict[str, Any]:
        source, target = _PAST
        return {
            "metadata": {
                "interchange_format_version": "5",
                "genesis_validators_root": f"0x{INTEROP_GENESIS_VALIDATORS_ROOT}",
            },
            "data": [
                {
                    "pubkey": self.names[0],
                    "signed_blocks": [],
                    "signed_attestations": [
                        {"source_epoch": str(source), "target_epoch": str(target)}
                    ],
                }
            ],
        }

    def _run(self, *arguments: str) -> dict[str, Any]:
        """Run a command as its users do, on the stack; return its JSON."""
        data = ("--data", str(self._stack.folder.path), "--json")
        done = subprocess.run(
            [*_COMMAND, *arguments, *data],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_DEADLINE,
            check=False,
        )
        try:
            answer = json.loads(done.stdout) if done.stdout.strip() else {}
        except ValueError:
            raise StepFailed(f"{arguments[0]} did not answer in JSON") from None
        if done.returncode != 0:
            told = answer.get("error", {}).get("message", "it failed")
            raise StepFailed(f"nitrosigner {' '.join(arguments[:2])}: {told}")
        return dict(answer)
