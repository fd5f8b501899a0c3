"""The watchdog's unit as it is shipped, against the program that it runs."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nitrosigner.untrusted import parent
from nitrosigner.untrusted.parent import nitro_cli, watchdog
from nitrosigner.untrusted.parent.watchdog_configuration import WatchdogConfiguration

UNIT = Path(parent.__file__).parent / "systemd" / "nitrosigner-watchdog.service"


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[method-assign, assignment]  # as systemd has it
    unit.read_string(UNIT.read_text())
    return unit["Service"]


def test_it_ends_the_watchdog_first_and_gives_it_time_to_end_the_enclave(
    service: configparser.SectionProxy,
) -> None:
    # `mixed`: SIGTERM to the watchdog alone, which then drains and runs nitro-cli.
    assert service["KillMode"] == "mixed"
    drain = WatchdogConfiguration.__struct_fields__.index("drain_seconds")
    seconds = WatchdogConfiguration.__struct_defaults__[
        drain - len(WatchdogConfiguration.__struct_fields__)
    ]
    needed = seconds + nitro_cli.STOP_SECONDS + 2 * nitro_cli.ASK_SECONDS
    assert int(service["TimeoutStopSec"]) > needed
    assert service["Restart"] == "always"


def test_reload_is_the_programs_own_command(
    service: configparser.SectionProxy,
) -> None:
    assert service["ExecReload"] == f"{service['ExecStart']} reload"
    assert "reload" in watchdog.COMMANDS
    assert service["ExecStart"].endswith(
        "-m nitrosigner.untrusted.parent.watchdog --config "
        "/etc/nitrosigner/watchdog.json"
    )


def test_the_status_document_asks_the_watchdog_that_runs(
    service: configparser.SectionProxy,
) -> None:
    from nitrosigner.infrastructure.control import COMMANDS

    (line,) = [line for line in COMMANDS["Status"] if "parent.watchdog" in line]
    assert "status" in watchdog.COMMANDS
    environment, _, command = line.removesuffix(" || true").partition(" /usr/bin/")
    assert f"/usr/bin/{command}" == f"{service['ExecStart']} status"
    assert set(environment.split()) == set(service["Environment"].split())


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
def test_systemd_takes_it() -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(UNIT)],
        capture_output=True,
        text=True,
        check=False,
    )
    # It also looks for the program and the units that it follows: not on this machine.
    complaints = re.findall(r".*(?:Unknown|Failed to parse|Invalid).*", done.stderr)
    assert complaints == []
