"""
How somebody is told: the topic of alarms, and a rule about who manages the key.

A topic's policy stands in place of the one that SNS makes by itself, and only that one
lets the services of the account publish. So whoever shall publish is named here; who is
forgotten speaks to nobody, and nothing says so.
"""

from typing import Final

from aws_cdk import Aws
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from constructs import Construct

from nitrosigner.infrastructure.statements import allow

MANAGING_CALLS: Final = (
    "CancelKeyDeletion",
    "CreateGrant",
    "DisableKey",
    "EnableKey",
    "PutKeyPolicy",
    "ReplicateKey",
    "ScheduleKeyDeletion",
)
"""Calls of KMS that a deployment makes rarely, and an attacker first."""


class Notices(Construct):
    """The topic that alarms go to: the operator's, or one of the stack's own."""

    def __init__(
        self, scope: Construct, name: str, *, stack_name: str, given: str | None
    ) -> None:
        """
        Make the topic, or refer to the one that was *given* (its ARN).

        What is given must itself let CloudWatch publish.
        """
        super().__init__(scope, name)
        self._stack_name = stack_name
        if given is not None:
            self.topic: sns.ITopic = sns.Topic.from_topic_arn(self, "Topic", given)
            return
        # Not encrypted with a key of ours: CloudWatch could not publish, and what is
        # said here is that something is wrong, never what was signed.
        own = sns.Topic(self, "Topic", enforce_ssl=True)
        alarms = f"arn:{Aws.PARTITION}:cloudwatch:{Aws.REGION}:{Aws.ACCOUNT_ID}:alarm:"
        own.add_to_resource_policy(
            iam.PolicyStatement(
                sid="AlarmsOfThisStackTell",
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[own.topic_arn],
                conditions={
                    "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
                    "ArnLike": {"aws:SourceArn": f"{alarms}{stack_name}-*"},
                },
            )
        )
        self.topic = own

    def watch_key(self, arn: str) -> None:
        """
        Tell when somebody manages the key *arn*: at once, as CloudTrail delivers it.

        The account needs a trail for that. The canary, which needs none, comes to look
        within five minutes.
        """
        # By a role: EventBridge and conditions in a topic's policy do not get along.
        role = iam.Role(
            self,
            "KeyManagedRole",
            assumed_by=iam.ServicePrincipal("events.amazonaws.com"),
            description="Tells the alarms' topic that somebody managed the key",
        )
        role.add_to_policy(
            allow("TellTheTopic", ["sns:Publish"], [self.topic.topic_arn])
        )
        events.CfnRule(
            self,
            "KeyManaged",
            description=f"{self._stack_name}: the vault key's policy, state or grants",
            event_pattern={
                "source": ["aws.kms"],
                "detail-type": ["AWS API Call via CloudTrail"],
                "detail": {
                    "eventSource": ["kms.amazonaws.com"],
                    "eventName": list(MANAGING_CALLS),
                    "resources": {"ARN": [arn]},
                },
            },
            targets=[
                events.CfnRule.TargetProperty(
                    id="Topic", arn=self.topic.topic_arn, role_arn=role.role_arn
                )
            ],
        )
