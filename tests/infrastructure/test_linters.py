"""What cdk-nag and cfn-lint think, and how synthesis behaves as a whole."""

import filecmp
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# cfn-lint's findings that we keep:
ACCEPTED = {
    # CDK writes a dependency that a reference implies already.
    "W3005",
}


def test_cdk_nag_finds_nothing_that_is_not_acknowledged(synthesized: Any) -> None:
    report = json.loads((synthesized.folder / "validation-report.json").read_text())
    (nag,) = report["pluginReports"]
    assert nag["pluginName"] == "AwsSolutions"
    assert nag["conclusion"] == "success"
    assert [
        violation
        for violation in nag["violations"]
        if not violation.get("acknowledged", violation.get("suppressed"))
    ] == []


def test_every_acknowledgement_has_a_reason(node: None) -> None:
    from nitrosigner.infrastructure import acknowledged

    del node
    reasons = [
        value
        for name, value in vars(acknowledged).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, str)
    ]
    assert len(reasons) >= 6
    assert all(len(reason) > 60 for reason in reasons)


def test_cfn_lint_has_no_complaint(synthesized: Any) -> None:
    templates = sorted(map(str, synthesized.folder.glob("*.template.json")))
    assert len(templates) == 4
    lint(templates)


def test_cfn_lint_has_no_complaint_about_unusual_choices(
    node: None, tmp_path: Path, choose: Any
) -> None:
    """synthesize() itself ends if cdk-nag finds anything."""
    del node
    stack = "prodNitroWalletEth"
    made = choose(
        tmp_path,
        {
            stack: {
                "administrator": "a1" * 32,
                "architecture": "arm64",
                "zones": 3,
                "parent": "container",
                "nat_gateway": True,
                "client_networks": ["10.9.0.0/16"],
                "alarm_topic": "arn:aws:sns:us-east-1:123456789012:alarms",
                "final_key_policy": True,
                "pcr3": ["33" * 48],
            }
        },
    )
    lint([str(made.folder / f"{stack}.template.json")])


def lint(templates: list[str]) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("cfn-lint"), "--format=json", "--", *templates],
        capture_output=True,
        text=True,
        check=False,
    )
    found = [
        (one["Rule"]["Id"], one["Message"], one["Filename"])
        for one in json.loads(done.stdout)
        if one["Rule"]["Id"] not in ACCEPTED
    ]
    assert found == [], done.stderr


def test_two_syntheses_give_the_same_templates(
    synthesized: Any, image: Any, tmp_path: Path, again: Any
) -> None:
    second = again(tmp_path, image)
    names = [path.name for path in synthesized.folder.glob("*.json")]
    templates = [
        name for name in names if name.endswith((".template.json", ".assets.json"))
    ]
    assert len(templates) == 8
    _, different, missing = filecmp.cmpfiles(
        synthesized.folder, second.folder, templates, shallow=False
    )
    assert (different, missing) == ([], [])
