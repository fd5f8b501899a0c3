"""From plans to stacks, with cdk-nag's rules over them."""

from collections.abc import Sequence

import cdk_nag
from aws_cdk import App, Validations

from nitrosigner.infrastructure.acknowledged import acknowledge
from nitrosigner.infrastructure.assets import Assets
from nitrosigner.infrastructure.settings import Plan
from nitrosigner.infrastructure.stack import SignerStack


def add_stacks(app: App, plans: Sequence[Plan], assets: Assets) -> list[SignerStack]:
    """Add a stack for each plan to *app*; synthesis fails on what cdk-nag finds."""
    stacks = [SignerStack(app, plan, assets) for plan in plans]
    for stack in stacks:
        acknowledge(stack)
    Validations.of(app).add_plugins(cdk_nag.AwsSolutionsChecks(app))
    return stacks
