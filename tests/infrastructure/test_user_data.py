"""The scripts that run on an instance, and what programs there are told."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

INSTANCE = Path(__file__).parents[2] / "src/nitrosigner/infrastructure/instance"
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
REFERENCES = {
    "AWS::Region": "us-east-1",
    "AWS::Partition": "aws",
    "AWS::AccountId": "123456789012",
}


def rendered(synthesized: Any, stack: str) -> str:
    """Return user data as EC2 gets it, with stand-ins for what only AWS knows."""
    template = synthesized.only(stack, "AWS::EC2::LaunchTemplate")
    data = template["Properties"]["LaunchTemplateData"]["UserData"]["Fn::Base64"]

    def resolve(value: Any) -> str:
        if isinstance(value, str):
            return value
        if "Fn::Join" in value:
            separator, parts = value["Fn::Join"]
            return str(separator).join(map(resolve, parts))
        if "Fn::Sub" in value:
            return re.sub(
                r"\$\{([^}]+)\}", lambda one: REFERENCES[one[1]], value["Fn::Sub"]
            )
        (name,) = value.values()
        return REFERENCES.get(name, f"referred-{name}")

    return resolve(data)


def told(synthesized: Any, stack: str) -> dict[str, Any]:
    script = rendered(synthesized, stack)
    (document,) = re.findall(r"deployed\.json <<'EOF'\n(.*?)\nEOF\n", script, re.DOTALL)
    answer: dict[str, Any] = json.loads(document)
    return answer


def test_user_data_is_short_and_has_no_placeholder_left(
    synthesized: Any, stack: str
) -> None:
    script = rendered(synthesized, stack)
    assert script.startswith("#!/bin/bash\n")
    assert script.count("#!/bin/bash") == 1
    assert len(script) < 8 * 1024
    assert re.findall(r"@[A-Z0-9_]+@", script) == ["@NAMES@"]


def test_shellcheck_has_no_complaint(synthesized: Any, tmp_path: Path) -> None:
    scripts = [INSTANCE / "install.sh"]
    for stack in ("devNitroWalletEth", "prodNitroValidator"):
        path = tmp_path / f"{stack}.sh"
        path.write_text(rendered(synthesized, stack))
        scripts.append(path)
    done = subprocess.run(
        [SHELLCHECK, "--enable=all", "--exclude=SC2250,SC2310,SC2312", *scripts],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Any:
    """Commands of an instance, as far as user data calls them, that write what they do."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    log = tmp_path / "log"

    def command(name: str, body: str) -> None:
        path = bin_ / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>{log}\n{body}\n')
        path.chmod(0o755)

    class Machine:
        root = tmp_path

        def __init__(self) -> None:
            command("dnf", "exit 0")
            command("curl", 'case "$*" in *PUT*) echo token;; *) echo i-0123;; esac')
            command(
                "aws",
                'case "$*" in *s3*parent.zip) echo p >parent.zip;;'
                " *s3*) echo e >enclave.eif;; esac",
            )
            command("rpm", "exit 0")
            command(
                "python3.11",
                'test "$*" = "-P -m zipfile -e parent.zip parent" || exit 1\n'
                "mkdir -p parent/instance;"
                " echo 'echo installed >>log' >parent/instance/install.sh",
            )
            command("tail", "exit 0")
            command("tee", "cat")

        def command(self, name: str, body: str) -> None:
            command(name, body)

        def run(self, script: str) -> tuple[int, str]:
            script = script.replace("/opt/nitrosigner", str(tmp_path / "opt"))
            script = script.replace("/etc/nitrosigner", str(tmp_path / "etc"))
            script = script.replace("/dev/console", str(tmp_path / "console"))
            done = subprocess.run(
                ["bash", "-c", script],
                env={**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                check=False,
            )
            return done.returncode, log.read_text() + done.stderr

    return Machine()


def honest(script: str) -> str:
    """Return *script* expecting what the machine's `aws` hands out."""
    import hashlib

    for name, data in (("parent.zip", b"p\n"), ("enclave.eif", b"e\n")):
        found = hashlib.sha256(data).hexdigest()
        script = re.sub(rf"[0-9a-f]{{64}}(?=  {name})", found, script)
    return script


def test_user_data_installs_what_it_has_checked(
    synthesized: Any, stack: str, machine: Any
) -> None:
    code, log = machine.run(honest(rendered(synthesized, stack)))
    assert code == 0, log
    assert (machine.root / "opt/log").read_text() == "installed\n"
    assert json.loads((machine.root / "etc/deployed.json").read_text())["parent"]
    assert "complete-lifecycle-action" not in log


@pytest.mark.parametrize(
    "broken",
    ["dnf", "rpm", "aws", "sha256sum", "python3.11"],
    ids=lambda name: f"{name}-fails",
)
def test_whatever_fails_gives_the_instance_up(
    synthesized: Any, machine: Any, broken: str
) -> None:
    if broken == "aws":
        machine.command("aws", 'case "$*" in *s3*) exit 1;; esac')
    else:
        machine.command(broken, "exit 1")
    code, log = machine.run(honest(rendered(synthesized, "prodNitroWalletEth")))
    assert code != 0
    assert "--lifecycle-action-result ABANDON" in log
    assert "--instance-id i-0123" in log
    assert "--auto-scaling-group-name prodNitroWalletEth-signers" in log
    assert "--lifecycle-hook-name can-sign" in log
    assert not (machine.root / "opt/log").exists()


def test_an_installer_that_fails_gives_the_instance_up(
    synthesized: Any, machine: Any
) -> None:
    machine.command(
        "python3.11",
        "mkdir -p parent/instance; echo 'exit 7' >parent/instance/install.sh",
    )
    code, log = machine.run(honest(rendered(synthesized, "prodNitroWalletEth")))
    assert code != 0
    assert "--lifecycle-action-result ABANDON" in log


def test_packages_come_from_amazons_repository_alone_with_their_signatures_checked(
    synthesized: Any, stack: str, machine: Any
) -> None:
    _, log = machine.run(honest(rendered(synthesized, stack)))
    (line,) = (one for one in log.splitlines() if one.startswith("dnf "))
    assert "--repo=amazonlinux" in line
    assert "--setopt=amazonlinux.gpgcheck=1" in line
    assert "nogpgcheck" not in line
    # What was installed stands in the log that is shipped.
    assert re.search(
        r"^rpm -q system-release aws-nitro-enclaves-cli ", log, re.MULTILINE
    )


def test_an_exchanged_file_is_not_run(synthesized: Any, machine: Any) -> None:
    code, log = machine.run(rendered(synthesized, "prodNitroWalletEth"))
    assert code != 0
    assert "ABANDON" in log
    assert not (machine.root / "opt/log").exists()


INSTALLER_CALLS = (
    "groupadd",
    "useradd",
    "systemctl",
    "systemd-tmpfiles",
    "amazon-cloudwatch-agent-ctl",
)


@pytest.fixture
def install(synthesized: Any, tmp_path: Path) -> Any:
    """Run install.sh in a folder of ours, with the archive that a stack ships."""
    bin_, log = tmp_path / "bin", tmp_path / "log"
    bin_.mkdir()

    def command(name: str, body: str = "exit 0") -> None:
        path = bin_ / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>{log}\n{body}\n')
        path.chmod(0o755)

    for name in INSTALLER_CALLS:
        command(name)
    command("id", "exit 1")
    # There is no user of that name here.
    command("install", 'exec /usr/bin/install "${@//nitrosigner nitrosigner/}"')
    command("chown")
    (bin_ / "python3.11").symlink_to(sys.executable)
    (archive,) = (
        path
        for path in synthesized.folder.glob("asset.*.zip")
        if "instance/install.sh" in zipfile.ZipFile(path).namelist()
    )
    root = tmp_path / "root"
    zipfile.ZipFile(archive).extractall(root / "opt/nitrosigner/parent")
    for folder in ("etc/nitrosigner", "etc/nitro_enclaves", "etc/systemd/system"):
        (root / folder).mkdir(parents=True)
    for folder in ("etc/logrotate.d", "etc/tmpfiles.d", "opt/aws"):
        (root / folder).mkdir(parents=True)

    def run(stack: str, broken: str = "") -> tuple[int, list[str], Path]:
        if broken:
            command(broken, "exit 1")
        document = json.dumps(told(synthesized, stack))
        (root / "etc/nitrosigner/deployed.json").write_text(document)
        script = (root / "opt/nitrosigner/parent/instance/install.sh").read_text()
        script = re.sub(r"(?<![\w.$])/(opt|etc|var)/(?=[a-z])", rf"{root}/\1/", script)
        script = script.replace("-o nitrosigner -g nitrosigner ", "")
        script = re.sub(r"\S+/(amazon-cloudwatch-agent-ctl)", r"\1", script)
        done = subprocess.run(
            ["bash", "-c", script],
            env={**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, log.read_text().splitlines(), root

    return run


def test_the_installer_sets_everything_up_and_starts_the_lifecycle_last(
    install: Any, stack: str
) -> None:
    code, log, root = install(stack)
    assert code == 0, log
    units = {path.name for path in (root / "etc/systemd/system").glob("*.service")}
    assert units == {
        "nitrosigner-parent.service",
        "nitrosigner-watchdog.service",
        "nitrosigner-lifecycle.service",
    }
    drop_in = root / "etc/systemd/system/nitrosigner-watchdog.service.d/logs.conf"
    assert "watchdog.log" in drop_in.read_text()
    for name in ("parent", "watchdog", "lifecycle", "cloudwatch-agent", "prometheus"):
        json.loads((root / f"etc/nitrosigner/{name}.json").read_text())
    assert "memory_mib" in (root / "etc/nitro_enclaves/allocator.yaml").read_text()
    started = [line for line in log if line.startswith("systemctl enable")]
    assert started == [
        "systemctl enable --now logrotate.timer",
        "systemctl enable --now nitro-enclaves-allocator.service",
        # It starts parent and watchdog itself, when there are keys.
        "systemctl enable --now nitrosigner-lifecycle.service",
    ]
    assert log[-1] == started[-1]


@pytest.mark.parametrize("broken", [*INSTALLER_CALLS, "install"])
def test_whatever_fails_ends_the_installer(install: Any, broken: str) -> None:
    code, log, _ = install("prodNitroValidator", broken)
    assert code != 0
    assert "systemctl enable --now nitrosigner-lifecycle.service" not in log


def test_each_program_can_read_what_it_is_told(
    synthesized: Any, stack: str, image: Any, tmp_path: Path
) -> None:
    from nitrosigner.infrastructure import deployed_settings
    from nitrosigner.infrastructure.instance import write_settings
    from nitrosigner.untrusted.parent import (
        configuration,
        instance_lifecycle,
        watchdog_configuration,
    )

    document = told(synthesized, stack)
    write_settings.write(document, tmp_path)
    parent = configuration.read(tmp_path / "parent.json")
    assert parent.region == "us-east-1"
    assert parent.listen.port == 8443
    assert {one.host for one in parent.allowed()} == {
        name for name in {one.host for one in parent.allowed()} if "kms" in name
    }
    if "Wallet" in stack:
        assert parent.store == configuration.SecretsManager(
            prefix=f"nitrosigner/{stack}/"
        )
        assert parent.watermarks is None
    else:
        assert isinstance(parent.store, configuration.DynamoDb)
        assert isinstance(parent.watermarks, configuration.DynamoDb)
        assert parent.store.table != parent.watermarks.table
    dog = watchdog_configuration.read(tmp_path / "watchdog.json")
    assert dog.enclave.debug is stack.startswith("dev")
    # One that runs already is adopted only if it is the image that was shipped.
    assert dog.enclave.pcr0 == image.pcr0
    assert dog.probe.port == parent.listen.port
    assert dog.parent_control == parent.control
    assert dog.parent_state == parent.state
    assert dog.enclave.cid == parent.vsock.enclave_cid
    life = msgspec.json.decode(
        (tmp_path / "lifecycle.json").read_bytes(),
        type=instance_lifecycle.Configuration,
    )
    assert life.group == f"{stack}-signers"
    assert life.port == parent.listen.port
    allocator = (tmp_path / "allocator.yaml").read_text()
    assert allocator == (
        f"---\nmemory_mib: {dog.enclave.memory_mib}\n"
        f"cpu_count: {dog.enclave.cpu_count}\n"
    )
    agent = json.loads((tmp_path / "cloudwatch-agent.json").read_text())
    files = agent["logs"]["logs_collected"]["files"]["collect_list"]
    assert {one["file_path"] for one in files} >= {f"{deployed_settings.AUDIT}*"}
    shipped = agent["logs"]["metrics_collected"]["prometheus"]
    assert shipped["prometheus_config_path"] == deployed_settings.PROMETHEUS
    scraped = json.loads((tmp_path / "prometheus.json").read_text())
    assert parent.metrics is not None
    (job,) = scraped["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [
        f"{parent.metrics.address}:{parent.metrics.port}"
    ]


def test_the_archive_holds_the_units_and_nothing_of_the_enclave(
    synthesized: Any,
) -> None:
    archives = [
        names
        for path in synthesized.folder.glob("asset.*.zip")
        if "instance/install.sh" in (names := zipfile.ZipFile(path).namelist())
    ]
    (names,) = archives
    assert {
        "instance/nitrosigner-parent.service",
        "instance/nitrosigner-watchdog.service",
        "instance/nitrosigner-lifecycle.service",
        "nitrosigner/untrusted/parent/__main__.py",
        "nitrosigner/untrusted/parent/watchdog.py",
    } <= set(names)
    for foreign in ("trusted", "emulator", "infrastructure", "cli"):
        assert not [one for one in names if one.startswith(f"nitrosigner/{foreign}")]


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
def test_units_are_what_systemd_takes() -> None:
    done = subprocess.run(
        [
            "systemd-analyze",
            "verify",
            "--recursive-errors=no",
            *map(str, sorted(INSTANCE.glob("*.service"))),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    # It also looks for the programs and the user, which are not on this machine.
    complaints = [
        line
        for line in done.stderr.splitlines()
        if "Unknown" in line or "Failed to parse" in line
    ]
    assert complaints == []


@pytest.mark.usefixtures("node")
def test_units_stop_later_than_their_programs_drain() -> None:
    from nitrosigner.infrastructure import deployed_settings

    unit = (INSTANCE / "nitrosigner-parent.service").read_text()
    (seconds,) = re.findall(r"TimeoutStopSec=(\d+)", unit)
    assert int(seconds) > deployed_settings.DRAIN_SECONDS
