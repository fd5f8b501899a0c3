"""`make synth` and `cdk` as somebody types them in a fresh clone."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(node: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the app as `cdk` does, in a folder where nothing is; return its exit code."""
    del node
    from nitrosigner.infrastructure import app

    # Nothing of an account, and nobody to build containers.
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_ACCESS_KEY_ID", "DOCKER_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CDK_DOCKER", "/nonexistent")
    monkeypatch.setenv("CDK_OUTDIR", str(tmp_path / "cdk.out"))

    def no_wheels(program: Any, machine: Any, folder: Path) -> None:
        del program, machine
        folder.mkdir()

    def main(settings: dict[str, Any] | None = None) -> int:
        if settings is not None:
            (tmp_path / "deployment.json").write_text(json.dumps(settings))
        return app.main(tmp_path, no_wheels)

    return main


def test_a_fresh_clone_gives_four_templates_that_refuse_to_be_deployed(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    templates = sorted((tmp_path / "cdk.out").glob("*.template.json"))
    assert [one.name.split(".")[0] for one in templates] == [
        "devNitroValidator",
        "devNitroWalletEth",
        "prodNitroValidator",
        "prodNitroWalletEth",
    ]
    for one in templates:
        rule = json.loads(one.read_text())["Rules"]["NotToBeDeployed"]
        # Not true whatever the parameters are: CloudFormation stops before it begins.
        (assertion,) = rule["Assertions"]
        assert assertion["Assert"] == {"Fn::Equals": ["complete", "not complete"]}
        assert "make a key" in assertion["AssertDescription"]
    said = capsys.readouterr().err
    assert said.count("make image") == 4
    assert said.count("(DEBUG MODE)") == 2


def test_what_is_wrong_with_the_settings_is_said_in_two_lines(
    run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"instance_type": "c7g.xlarge"}
    assert run({"stacks": {"prodNitroValidator": wrong}}) != 0
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("nitrosigner: error: settings: prodNitroValidator: ")
    assert "architecture says otherwise" in error
    assert hint.startswith("nitrosigner: hint: ")


def test_cdk_deploys_what_make_synth_shows() -> None:
    """Its command line adds metadata of its own unless it is told not to."""
    configured = json.loads((ROOT / "cdk.json").read_text())
    assert configured["app"] == ".venv/bin/python -m nitrosigner.infrastructure.app"
    for addition in ("versionReporting", "pathMetadata", "assetMetadata"):
        assert configured[addition] is False
    # A feature flag here would hold for cdk, and not for make synth and the tests.
    assert configured["context"] == {}
    assert configured["requireApproval"] == "broadening"


def test_one_command_line_of_the_cdk_is_locked() -> None:
    wanted = json.loads((ROOT / "package.json").read_text())["dependencies"]
    assert wanted.keys() == {"aws-cdk"}
    lock = json.loads((ROOT / "package-lock.json").read_text())
    packages = {name: one for name, one in lock["packages"].items() if name}
    (locked,) = packages.values()
    assert locked["version"] == wanted["aws-cdk"]
    assert locked["integrity"].startswith("sha512-")
    assert "resolved" not in locked
