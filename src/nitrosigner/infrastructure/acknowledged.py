"""
What cdk-nag's AwsSolutions rules find and we keep, each with its reason.

A reason is given for one construct and, for wildcards, for one resource: the next
finding of the same kind must be looked at again.
"""

from typing import Final

from aws_cdk import Acknowledgment, Validations
from constructs import IConstruct

from nitrosigner.infrastructure import fleet
from nitrosigner.infrastructure.stack import SignerStack
from nitrosigner.infrastructure.stores import ValidatorStores, WalletStores

_ARN: Final = "arn:<AWS::Partition>:"
_HERE: Final = "<AWS::Region>:<AWS::AccountId>:"
NO_RESOURCES: Final = (
    "The statements called …KnowNoResources hold actions for which AWS defines no "
    "resources; every other statement names its resource"
)
ELB2: Final = (
    "Access logs of a Network Load Balancer exist for TLS listeners only, and TLS ends "
    "in the enclave; VPC flow logs record connections, the audit log every request"
)
SMG4: Final = (
    "A new token takes effect only with a manifest that the administrator signs, so it "
    "cannot rotate by itself; docs/operations/rotating-the-wrapping-key.md says how"
)
L1: Final = (
    "The newest Python that coincurve has wheels for; requirements/gateway.txt is "
    "locked for it"
)
LIFECYCLE: Final = (
    "The wildcard is the id that Auto Scaling gives a group; its name follows"
)
INSTANCES: Final = (
    "Instances come and go; the condition on the stack's tag says which ones are meant"
)
RECORDS: Final = (
    "The parent makes a secret for each record, below the deployment's own prefix; "
    "what is in them is sealed by the enclave"
)


def acknowledge(stack: SignerStack) -> None:
    """Acknowledge the findings of *stack*."""
    _give(stack.entrance.balancer, "ELB2", ELB2)
    _give(stack.token, "SMG4", SMG4)
    for function in (stack.gateway, stack.canary, stack.probe):
        _give(function, "L1", L1)
    roles = (stack.gateway_role, stack.canary_role, stack.probe_role)
    asking = stack.network.prefix_lists.role
    for role in (*(one.role for one in roles), asking, stack.instance_role):
        _give(role, "IAM5[Resource::*]", NO_RESOURCES)
    group = (
        f"{_ARN}autoscaling:{_HERE}autoScalingGroup:*:autoScalingGroupName/"
        f"{fleet.group_name(stack.plan)}"
    )
    _give(stack.instance_role, f"IAM5[Resource::{group}]", LIFECYCLE)
    if isinstance(stack.stores, ValidatorStores):
        instances = f"IAM5[Resource::{_ARN}ec2:{_HERE}instance/*]"
        _give(stack.gateway_role.role, instances, INSTANCES)
    if isinstance(stack.stores, WalletStores):
        secrets = f"{_ARN}secretsmanager:{_HERE}secret:{stack.stores.prefix}*"
        _give(stack.instance_role, f"IAM5[Resource::{secrets}]", RECORDS)


def _give(construct: IConstruct, rule: str, reason: str) -> None:
    Validations.of(construct).acknowledge(
        Acknowledgment(id=f"AwsSolutions::AwsSolutions-{rule}", reason=reason)
    )
