"""
Which addresses S3 and DynamoDB have in the region, as security groups name them.

A gateway endpoint is a route to public addresses, and a rule that lets instances reach
them needs the id of AWS's own list of them. It differs by region, no template function
knows it, and to look it up at synthesis would need an account. So CloudFormation asks
EC2 once, by CDK's own function for such questions. The alternative is a rule for every
address there is, which holds only as long as nobody adds a route.
"""

from typing import Final

from aws_cdk import Aws, Duration
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import custom_resources as cr
from constructs import Construct

from nitrosigner.infrastructure.statements import allow

SERVICES: Final = ("s3", "dynamodb")
_FOUND: Final = "PrefixLists.0.PrefixListId"


class PrefixLists(Construct):
    """The lists of the services that have gateway endpoints."""

    def __init__(
        self, scope: Construct, name: str, *, log_retention: logs.RetentionDays
    ) -> None:
        """Ask for them when the stack is deployed."""
        super().__init__(scope, name)
        log = logs.LogGroup(self, "Log", retention=log_retention)
        self.role = iam.Role(
            self, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com")
        )
        self.role.add_to_policy(
            allow(
                "WriteItsLog",
                ["logs:CreateLogStream", "logs:PutLogEvents"],
                [log.log_group_arn],
            )
        )
        self.role.add_to_policy(
            allow(
                "PrefixListsKnowNoResources", ["ec2:DescribeManagedPrefixLists"], ["*"]
            )
        )
        allowed = self.role.node.find_child("DefaultPolicy")
        self.peers: list[ec2.IPeer] = []
        """What a rule may lead to."""
        for service in SERVICES:
            asked = cr.AwsCustomResource(
                self,
                service,
                on_update=cr.AwsSdkCall(
                    service="EC2",
                    action="DescribeManagedPrefixLists",
                    parameters={
                        "Filters": [
                            {"Name": "owner-id", "Values": ["AWS"]},
                            {
                                "Name": "prefix-list-name",
                                "Values": [f"com.amazonaws.{Aws.REGION}.{service}"],
                            },
                        ]
                    },
                    output_paths=[_FOUND],
                    physical_resource_id=cr.PhysicalResourceId.of(service),
                ),
                role=self.role.without_policy_updates(),
                # The one that Lambda has will do, and nothing is fetched.
                install_latest_aws_sdk=False,
                log_group=log,
                timeout=Duration.minutes(1),
            )
            asked.node.add_dependency(allowed)
            self.peers.append(ec2.Peer.prefix_list(asked.get_response_field(_FOUND)))
