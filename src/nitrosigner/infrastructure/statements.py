"""
IAM statements, written out.

The CDK's `grant_*` methods add what somebody might need (`kms.Key.grant_encrypt` adds
ReEncrypt, which moves a ciphertext to another key). Here a statement has a name, the
actions that our code calls, and the narrowest resource that AWS knows for them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import aws_iam as iam


def allow(
    sid: str,
    actions: Sequence[str],
    resources: Sequence[str],
    conditions: Mapping[str, Any] | None = None,
) -> iam.PolicyStatement:
    """Return a statement that allows *actions* on *resources*."""
    return iam.PolicyStatement(
        sid=sid,
        actions=list(actions),
        resources=list(resources),
        conditions=None if conditions is None else dict(conditions),
    )


def deny(
    sid: str,
    actions: Sequence[str],
    resources: Sequence[str],
    conditions: Mapping[str, Any],
) -> iam.PolicyStatement:
    """Return a statement that denies *actions* under *conditions*, whoever allows."""
    return iam.PolicyStatement(
        sid=sid,
        effect=iam.Effect.DENY,
        actions=list(actions),
        resources=list(resources),
        conditions=dict(conditions),
    )
