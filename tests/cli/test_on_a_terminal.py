"""What is asked on a terminal: secrets are not shown, deleting needs a yes."""

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

SECRET = "b25c7db31feed9122727bf0939dc769a96564b2de4c4726d035b36ecf1e5b364"
COMMAND = Path(sys.executable).with_name("nitrosigner")
Dialogue = Callable[..., tuple[int, str]]


@pytest.fixture
def data(signer: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "stack"
    (folder / "emulator").mkdir(parents=True, mode=0o700)
    root = signer.pki.root.public_bytes(Encoding.PEM)
    (folder / "emulator/root.pem").write_bytes(root)
    files = {
        "cert": str(signer.cert_file),
        "key": str(signer.key_file),
        "token_file": str(signer.token_file),
    }
    stack = {
        "url": signer.url,
        "ca": str(signer.ca_file),
        "clients": {"default": files},
        "pcr0": "c0" * 48,
    }
    (folder / "stack.json").write_text(json.dumps(stack))
    return folder


@pytest.fixture
def dialogue(data: Path) -> Dialogue:
    """Run the command on a terminal; answer when it asks. Returns all it showed."""

    def go(*arguments: str, asks: str, answer: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [COMMAND, *arguments, "--data", data],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        shown, answered = b"", False
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                chunk = os.read(ours, 4096)
            except OSError:
                # How a terminal says that nobody holds its other end any more.
                break
            if not chunk:
                break
            shown += chunk
            if not answered and asks.encode() in shown:
                os.write(ours, answer.encode() + b"\n")
                answered = True
        os.close(ours)
        return process.wait(30), shown.decode()

    return go


def test_a_private_key_that_is_typed_is_not_shown(
    dialogue: Dialogue, signer: Any
) -> None:
    code, shown = dialogue(
        "keys", "import", "--name", "hot", asks="Private key:", answer=SECRET
    )
    assert code == 0, shown
    assert signer.secrets["hot"].hex() == SECRET
    assert SECRET not in shown


def test_deleting_shows_what_it_will_do_and_needs_a_yes(
    dialogue: Dialogue, signer: Any
) -> None:
    made = signer.add_key("hot", bytes.fromhex(SECRET))
    delete = ("keys", "delete", "hot")
    code, shown = dialogue(*delete, asks="[y/N]", answer="n")
    assert (code, made["state"]) == (1, "enabled")
    assert f"deleting hot ({made['identity']})" in shown
    code, _ = dialogue(*delete, asks="[y/N]", answer="y")
    assert (code, made["state"]) == (0, "deleted")


def test_a_mnemonic_that_is_typed_is_not_shown(dialogue: Dialogue, signer: Any) -> None:
    words = "canary " + "abandon " * 10 + "about"
    code, shown = dialogue("validators", "derive", asks="Mnemonic:", answer=words)
    assert code == 0, shown
    assert signer.validators.words == [words.encode()]
    assert "abandon" not in shown
    assert "canary" not in shown


def test_what_ends_a_validator_needs_a_yes(dialogue: Dialogue, signer: Any) -> None:
    name = "0x" + "a3" * 48
    signer.validators.add(name, bytes(32))
    ending = ("validators", "exit", name, "--validator-index", "7", "--epoch", "9")
    code, shown = dialogue(*ending, asks="[y/N]", answer="n")
    assert code == 1
    assert "valid from epoch 9 on for ever" in shown
    assert all("voluntary-exit" not in seen.path for seen in signer.seen)
    code, shown = dialogue(*ending, asks="[y/N]", answer="y")
    assert (code, '"epoch": "9"' in shown) == (0, True)
