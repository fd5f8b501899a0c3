"""What settings change in the templates: one more synthesis, of unusual choices."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

STACK = "prodNitroValidator"
RPMS = [
    f"{name}-1.4.2-1.amzn2023.0.1.aarch64"
    for name in (
        "aws-nitro-enclaves-cli",
        "python3.11",
        "amazon-cloudwatch-agent",
        "logrotate",
        "docker",
    )
]


@pytest.fixture(scope="module")
def chosen(node: None, tmp_path_factory: pytest.TempPathFactory, choose: Any) -> Any:
    del node
    folder = tmp_path_factory.mktemp("chosen")
    (folder / "rpms").mkdir()
    for name in (*RPMS, "nitro-dependency-1-1.amzn2023.noarch"):
        (folder / f"rpms/{name}.rpm").write_bytes(name.encode())
    return choose(
        folder,
        {
            STACK: {
                "administrator": "a2" * 32,
                "architecture": "arm64",
                "zones": 3,
                "minimum": 3,
                "maximum": 9,
                "parent": "container",
                "packages": "rpms",
                "nat_gateway": True,
                "ecr_endpoints": False,
                "client_networks": ["10.9.0.0/16"],
                "alarm_topic": "arn:aws:sns:us-east-1:123456789012:alarms",
                "key_administrator": "arn:aws:iam::123456789012:role/deployer",
                "expected_keys": 100,
                "log_days": 30,
            }
        },
    )


def test_graviton_instances_get_a_graviton_image_and_archive(chosen: Any) -> None:
    data = chosen.only(STACK, "AWS::EC2::LaunchTemplate")["Properties"][
        "LaunchTemplateData"
    ]
    assert data["InstanceType"] == "c7g.xlarge"
    parameter = chosen.template(STACK)["Parameters"][data["ImageId"]["Ref"]]
    assert parameter["Default"].endswith("kernel-default-arm64")


def test_more_zones_and_instances(chosen: Any) -> None:
    group = chosen.only(STACK, "AWS::AutoScaling::AutoScalingGroup")["Properties"]
    assert (group["MinSize"], group["MaxSize"]) == ("3", "9")
    assert len(group["VPCZoneIdentifier"]) == 3


def test_a_way_out_exists_only_when_asked_for(chosen: Any) -> None:
    assert len(chosen.resources(STACK, "AWS::EC2::NatGateway")) == 1
    assert not chosen.resources("prodNitroWalletEth", "AWS::EC2::NatGateway")


def test_the_container_is_pulled_from_this_accounts_registry(
    chosen: Any,
) -> None:
    policies = json.dumps(chosen.resources(STACK, "AWS::IAM::Policy"))
    assert "ecr:BatchGetImage" in policies
    data = json.dumps(chosen.resources(STACK, "AWS::EC2::LaunchTemplate"))
    assert "docker run" in data
    assert re.search("rpm -q system-release .* docker", data)
    assets = json.loads((chosen.folder / f"{STACK}.assets.json").read_text())
    (image,) = assets["dockerImages"].values()
    assert image["source"]["platform"] == "linux/arm64"
    folder = chosen.folder / image["source"]["directory"]
    assert (folder / "Dockerfile").is_file()
    assert (folder / "parent/nitrosigner/untrusted/parent/__main__.py").is_file()


def test_by_default_nothing_asks_for_docker(synthesized: Any, stack: str) -> None:
    assets = json.loads((synthesized.folder / f"{stack}.assets.json").read_text())
    assert assets["dockerImages"] == {}


def test_networks_of_clients_are_let_in_by_name(chosen: Any) -> None:
    groups = chosen.resources(STACK, "AWS::EC2::SecurityGroup")
    rules = [
        rule
        for group in groups.values()
        for rule in group["Properties"].get("SecurityGroupIngress", [])
    ]
    (rule,) = rules
    assert (rule["CidrIp"], rule["FromPort"]) == ("10.9.0.0/16", 443)


def test_another_role_administers_the_key(chosen: Any) -> None:
    policy = chosen.only(STACK, "AWS::KMS::Key")["Properties"]["KeyPolicy"]
    principals = {
        json.dumps(statement["Principal"])
        for statement in policy["Statement"]
        if "kms:PutKeyPolicy" in statement["Action"] and statement["Effect"] == "Allow"
    }
    assert principals == {'{"AWS": "arn:aws:iam::123456789012:role/deployer"}'}


def test_alarms_go_where_they_are_wanted(chosen: Any) -> None:
    assert not chosen.resources(STACK, "AWS::SNS::Topic")
    alarms = chosen.resources(STACK, "AWS::CloudWatch::Alarm")
    assert any("KeysMissing" in name for name in alarms)


def test_without_an_administrator_a_template_refuses_to_be_deployed(
    chosen: Any, synthesized: Any
) -> None:
    rules = chosen.template("prodNitroWalletEth")["Rules"]["NotToBeDeployed"]
    assert "administrator is not set" in json.dumps(rules)
    metadata = (chosen.folder / "prodNitroWalletEth.metadata.json").read_text()
    assert "aws:cdk:error" in metadata
    assert "NotToBeDeployed" not in synthesized.template(STACK).get("Rules", {})


def script_of(synthesized: Any) -> str:
    """User data, with a letter for each thing that only AWS knows."""
    data = synthesized.only(STACK, "AWS::EC2::LaunchTemplate")["Properties"]
    parts = data["LaunchTemplateData"]["UserData"]["Fn::Base64"]["Fn::Join"][1]
    return "".join(one if isinstance(one, str) else "x" for one in parts)


def test_packages_of_ones_own_are_an_asset_that_instances_check_by_hash(
    chosen: Any, tmp_path: Path
) -> None:
    from nitrosigner.infrastructure.bundle import sha256

    script = script_of(chosen)
    assert "--disablerepo='*' --setopt=localpkg_gpgcheck=1 install" in script
    assert "--repo=amazonlinux" not in script
    archives = {
        sha256(path): zipfile.ZipFile(path).namelist()
        for path in chosen.folder.glob("asset.*.zip")
    }
    (digest,) = re.findall(r"([0-9a-f]{64})  packages\.zip", script)
    assert archives[digest] == sorted(
        f"{name}.rpm" for name in (*RPMS, "nitro-dependency-1-1.amzn2023.noarch")
    )
    statements = json.dumps(chosen.resources(STACK, "AWS::IAM::Policy"))
    assert "FetchPackages" in statements
    written = tmp_path / "user_data.sh"
    written.write_text(script)
    done = subprocess.run(
        [
            Path(sys.executable).with_name("shellcheck"),
            "--enable=all",
            "--exclude=SC2250,SC2310,SC2312",
            written,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["python3.11-3.11.1-1.x86_64.rpm"], "lacks an RPM file of: aws-nitro"),
        ([], "lacks"),
        (["python3.11-libs-3.11.1-1.x86_64.rpm"], "python3.11"),
        (
            ["aws-nitro-enclaves-cli-1-1.x86_64.rpm", "python3.11-3-1.aarch64.rpm"],
            "not for x86_64: python3.11-3-1.aarch64.rpm",
        ),
    ],
)
def test_a_folder_that_could_not_be_installed_stops_the_synthesis(
    tmp_path: Path, files: list[str], says: str
) -> None:
    from nitrosigner.infrastructure.assets import Assets
    from nitrosigner.infrastructure.measured_image import MeasuredImage
    from nitrosigner.infrastructure.settings import Architecture
    from nitrosigner.verdicts import Malformed

    (tmp_path / "rpms").mkdir()
    for name in files:
        (tmp_path / "rpms" / name).touch()
    image = MeasuredImage(None, "ab" * 48, [])
    assets = Assets(image, tmp_path / "build", base=tmp_path)
    with pytest.raises(Malformed, match=re.escape(says)) as told:
        assets.packages(
            "rpms", Architecture.X86_64, ["aws-nitro-enclaves-cli", "python3.11"]
        )
    assert "dnf download --resolve" in told.value.hint
