"""The fake signer of tests/client, here too."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from nitrosigner.cli.main import run


@pytest.fixture
def signer(fake_signer: Any) -> Any:
    return fake_signer


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ran]
SECRETS = (
    "b25c7db31feed9122727bf0939dc769a96564b2de4c4726d035b36ecf1e5b364",
    "canary",
)
"""What no command may say, whatever a test hands to it."""


@pytest.fixture
def cli(
    capfd: pytest.CaptureFixture[str],
    fakes: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Cli:
    """Run the command in this process; look for secrets in all that it says."""
    monkeypatch.chdir(tmp_path)

    def go(*arguments: Any, stdin: bytes = b"") -> Ran:
        arguments = tuple(map(str, arguments))
        file = tmp_path / "stdin"
        file.write_bytes(stdin)
        with file.open() as opened, monkeypatch.context() as patched:
            patched.setattr(sys, "stdin", opened)
            code = run(arguments)
        out, err = capfd.readouterr()
        for secret in (*SECRETS, fakes.TOKEN):
            assert secret not in out + err
            assert not any(secret in argument for argument in arguments)
        return Ran(code, out, err)

    return go


@pytest.fixture
def data(signer: Any, tmp_path: Path, fakes: Any) -> Path:
    """A local stack's folder, as `up` leaves it."""
    folder = tmp_path / "stack"
    folder.mkdir(mode=0o700)
    (folder / "emulator").mkdir()
    (folder / "emulator/root.pem").write_bytes(
        signer.pki.root.public_bytes(Encoding.PEM)
    )
    (folder / "parent").mkdir()
    (folder / "parent/state.json").write_text(
        '{"enclave": {"state": "ready"}, "pid": 1}'
    )
    stack = {
        "url": signer.url,
        "ca": str(signer.ca_file),
        "pid": os.getpid(),
        "pids": {"parent": os.getpid()},
        "clients": {
            "default": {
                "cert": str(signer.cert_file),
                "key": str(signer.key_file),
                "token_file": str(signer.token_file),
            }
        },
        "pcr0": "c0" * 48,
        "trust_root": "",
        "administrator": fakes.ADMINISTRATOR,
        "manifest": fakes.MANIFEST,
        "deployment": fakes.DEPLOYMENT,
        "kms_key_arn": "arn",
        "kms_url": "https://localhost:1",
        "kms_ca": str(signer.ca_file),
        "later": 1,
    }
    (folder / "stack.json").write_text(json.dumps(stack))
    return folder


@pytest.fixture
def options(signer: Any) -> list[Any]:
    return [
        "--url",
        signer.url,
        "--ca",
        signer.ca_file,
        "--cert",
        signer.cert_file,
        "--key",
        signer.key_file,
    ]
