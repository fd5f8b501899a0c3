"""What `nitrosigner up` tells people, and what loading its plugin costs others."""

import subprocess
import sys
from pathlib import Path

from nitrosigner.emulator.commands import _for_people, commands
from nitrosigner.emulator.local_stack import Ready


def test_whoever_sees_a_measurement_sees_that_it_is_emulated(tmp_path: Path) -> None:
    text = _for_people(
        Ready(
            url="https://localhost:8443",
            ca="ca.pem",
            clients={},
            pid=1,
            pids={},
            data=str(tmp_path / "data"),
            run="",
            region="us-east-1",
            kms_url="",
            kms_ca="",
            kms_key_arn="",
            trust_root="ab" * 32,
            trust_root_file="",
            pcr0="cd" * 48,
            administrator="ef" * 32,
            deployment="local",
            manifest="12" * 32,
            manifest_version=1,
            version="0",
        )
    )
    assert text.startswith("Ready. EMULATED: no Nitro hardware")
    lines = text.splitlines()
    (pcr0,) = [number for number, line in enumerate(lines) if "cd" * 48 in line]
    assert "EMULATED" in lines[pcr0 + 1]
    assert f"--data {tmp_path}/data" in text


def test_other_commands_do_not_pay_for_ours() -> None:
    """Every `nitrosigner` command loads the plugin."""
    heavy = {"boto3", "botocore", "eth_account", "rich", "cryptography"}
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-c"),
            "import sys, nitrosigner.emulator.commands; print(*sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert not heavy & set(done.stdout.split())


def test_the_plugin_brings_these_commands() -> None:
    assert [command.name for command in commands] == ["up", "demo"]
