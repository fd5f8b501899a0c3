"""docs/operations/cost.md: each figure is its formula's, each count the templates'."""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[2] / "docs/operations/cost.md").read_text()
GUIDANCE, VALIDATOR, WALLET = 1, 3, 5
"""Columns of the table; the formula stands in the next one."""
_OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def table(heading: str) -> list[list[str]]:
    """The cells of the table below *heading*, without its first two lines."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


NAMES = {
    row[0].strip("`"): float(row[1])
    for heading in ("Unit prices", "What is counted")
    for row in table(heading)
}


def value(formula: str) -> float:
    """What the arithmetic in *formula* comes to."""

    def walk(node: ast.expr) -> float:
        match node:
            case ast.BinOp(left, kind, right):
                return _OPERATORS[type(kind)](walk(left), walk(right))
            case ast.UnaryOp(ast.USub(), operand):
                return -walk(operand)
            case ast.Name(name):
                return NAMES[name]
            case ast.Constant(number) if isinstance(number, int | float):
                return float(number)
        raise AssertionError(ast.dump(node))

    return walk(ast.parse(formula.strip("`"), mode="eval").body)


def amount(cell: str) -> float:
    return float(cell.strip("*"))


@pytest.mark.parametrize("column", [GUIDANCE, VALIDATOR, WALLET])
def test_every_figure_is_its_formulas_and_the_sums_are_sums(column: int) -> None:
    rows = {row[0].strip("*"): row for row in table("A month")}
    names = list(rows)[: list(rows).index("Sum")]
    services = [name for name in names if rows[name][column + 1]]
    assert len(services) >= (4 if column == GUIDANCE else 10)
    total = 0.0
    for name in services:
        found = round(value(rows[name][column + 1]), 2)
        assert found == amount(rows[name][column]), name
        total += found
    assert round(total, 2) == amount(rows["Sum"][column])
    if column == GUIDANCE:
        return
    for name in ("without the ECR endpoints", "on demand, with them"):
        change = value(rows[name][column + 1])
        assert round(total + change, 2) == amount(rows[name][column]), name


def test_the_documents_figures_are_the_documents() -> None:
    rows = {row[0]: row for row in table("A month")}
    assert {name: amount(rows[name][GUIDANCE]) for name in ("instances", "NAT gateways", "load balancer", "KMS")} == {
        "instances": 107.85,
        "NAT gateways": 65.78,
        "load balancer": 16.43,
        "KMS": 1.06,
    }  # fmt: skip


def test_what_is_from_memory_is_marked() -> None:
    for row in table("Unit prices")[1:]:
        assert row[3] in ("documents", "**check**"), row


def test_what_is_counted_is_in_the_templates(synthesized: Any) -> None:
    from nitrosigner.untrusted.gateway import attestation_canary

    for name, kind in (
        ("prodNitroValidator", "validator"),
        ("prodNitroWalletEth", "wallet"),
    ):
        endpoints = [
            one["Properties"]
            for one in synthesized.resources(name, "AWS::EC2::VPCEndpoint").values()
            if one["Properties"].get("VpcEndpointType") == "Interface"
        ]
        assert len(endpoints) == NAMES["endpoints"]
        assert all(len(one["SubnetIds"]) == NAMES["zones"] for one in endpoints)
        assert (
            sum(".ecr." in str(one["ServiceName"]) for one in endpoints)
            == (NAMES["ecr_endpoints"])
        )
        alarms = synthesized.resources(name, "AWS::CloudWatch::Alarm")
        assert len(alarms) == NAMES[f"{kind}_alarms"]
        group = synthesized.only(name, "AWS::AutoScaling::AutoScalingGroup")
        assert int(group["Properties"]["MinSize"]) == NAMES["instances"]
        assert not synthesized.resources(name, "AWS::EC2::NatGateway")
        rates = sorted(
            one["Properties"]["ScheduleExpression"]
            for one in synthesized.resources(name, "AWS::Events::Rule").values()
            if "ScheduleExpression" in one["Properties"]
        )
        assert rates == ["rate(1 minute)", "rate(5 minutes)"]
    assert NAMES["canary_calls"] == 6 * 12 * NAMES["hours"]
    calls = re.findall(r"kms\.(\w+)\(", Path(attestation_canary.__file__).read_text())
    assert len(calls) == 6
    assert NAMES["epochs"] == round(NAMES["hours"] * 3600 / (32 * 12))
