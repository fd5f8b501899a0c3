"""
The network: private subnets without a way to the internet, and the AWS services in it.

Nothing in here decides who may sign; that is decided in the enclave. What a network can
do is make a stolen credential or a subverted parent less useful: no route leads out,
and the endpoints pass on only our programs' calls on this account's things.
"""

from collections.abc import Mapping
from typing import Final

from aws_cdk import Aws, Fn
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from nitrosigner.infrastructure import endpoint_policies
from nitrosigner.infrastructure.prefix_lists import PrefixLists

HTTPS: Final = 443
_SERVICES: Final[Mapping[str, ec2.InterfaceVpcEndpointAwsService]] = {
    "Kms": ec2.InterfaceVpcEndpointAwsService.KMS,
    "SecretsManager": ec2.InterfaceVpcEndpointAwsService.SECRETS_MANAGER,
    "Ssm": ec2.InterfaceVpcEndpointAwsService.SSM,
    "SsmMessages": ec2.InterfaceVpcEndpointAwsService.SSM_MESSAGES,
    "Ec2Messages": ec2.InterfaceVpcEndpointAwsService.EC2_MESSAGES,
    "Logs": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
    # Instances say here that their enclave can sign, or that it never will.
    "AutoScaling": ec2.InterfaceVpcEndpointAwsService.AUTOSCALING,
}
_ECR: Final[Mapping[str, ec2.InterfaceVpcEndpointAwsService]] = {
    "Ecr": ec2.InterfaceVpcEndpointAwsService.ECR,
    "EcrDocker": ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
}


class Network(Construct):
    """A VPC for one deployment, with the security groups that its parts wear."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        *,
        cidr: str,
        zones: int,
        nat_gateway: bool,
        ecr_endpoints: bool,
        log_retention: logs.RetentionDays,
    ) -> None:
        """
        Make the network.

        Args:
            scope: Where it belongs.
            name: In that scope.
            cidr: Its IPv4 addresses.
            zones: In how many Availability Zones it has subnets.
            nat_gateway: Whether instances shall reach the internet.
            ecr_endpoints: Whether container images can be pulled.
            log_retention: How long flow logs are kept.
        """
        super().__init__(scope, name)
        private = (
            ec2.SubnetType.PRIVATE_WITH_EGRESS
            if nat_gateway
            else ec2.SubnetType.PRIVATE_ISOLATED
        )
        subnets = [
            ec2.SubnetConfiguration(name="signers", subnet_type=private, cidr_mask=24)
        ]
        if nat_gateway:
            subnets.append(
                ec2.SubnetConfiguration(
                    name="public",
                    subnet_type=ec2.SubnetType.PUBLIC,
                    cidr_mask=28,
                    map_public_ip_on_launch=False,
                )
            )
        self.vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(cidr),
            # Which they are is known in the region only. Asking for a number of them
            # would need an account, or end at two.
            availability_zones=[
                Fn.select(index, Fn.get_azs()) for index in range(zones)
            ],
            nat_gateways=1 if nat_gateway else 0,
            subnet_configuration=subnets,
            # The default group lets its members talk to each other, and has none: to
            # empty it needs a function with rights over every group of the account.
            restrict_default_security_group=False,
        )
        self.subnets = ec2.SubnetSelection(subnet_type=private)
        self._flow_logs(log_retention)
        self.endpoints = self._security_group(
            "Endpoints", "The interface endpoints of AWS services"
        )
        self.entrance = self._security_group("Entrance", "The load balancer")
        self.signers = self._security_group("Signers", "The signing instances")
        self.clients = self._security_group(
            "Clients", "Whoever wears this may connect to the signer"
        )
        services = {**_SERVICES, **(_ECR if ecr_endpoints else {})}
        for service, aws_service in services.items():
            endpoint = self.vpc.add_interface_endpoint(
                service,
                service=aws_service,
                subnets=self.subnets,
                security_groups=[self.endpoints],
                open=False,
            )
            for statement in endpoint_policies.statements(service):
                endpoint.add_to_policy(statement)
        for source in (self.signers, self.clients):
            self.endpoints.add_ingress_rule(
                source, ec2.Port.tcp(HTTPS), "Calls of AWS services"
            )
            source.add_egress_rule(
                self.endpoints, ec2.Port.tcp(HTTPS), "Calls of AWS services"
            )
        self.dynamodb = self._gateway("DynamoDb", "DYNAMODB")
        for statement in endpoint_policies.statements("DynamoDb"):
            self.dynamodb.add_to_policy(statement)
        self.s3 = self._gateway("S3", "S3")
        for statement in _s3_statements():
            self.s3.add_to_policy(statement)
        self.prefix_lists = PrefixLists(
            self, "PrefixLists", log_retention=log_retention
        )
        for peer in self.prefix_lists.peers:
            self.signers.add_egress_rule(
                peer, ec2.Port.tcp(HTTPS), "A gateway endpoint"
            )
        if nat_gateway:
            self.signers.add_egress_rule(
                ec2.Peer.any_ipv4(), ec2.Port.tcp(HTTPS), "The internet, as chosen"
            )

    def _gateway(self, name: str, service: str) -> ec2.GatewayVpcEndpoint:
        return self.vpc.add_gateway_endpoint(
            name,
            service=getattr(ec2.GatewayVpcEndpointAwsService, service),
            subnets=[self.subnets],
        )

    def _flow_logs(self, retention: logs.RetentionDays) -> None:
        group = logs.LogGroup(self, "FlowLog", retention=retention)
        role = iam.Role(
            self,
            "FlowLogRole",
            assumed_by=iam.ServicePrincipal("vpc-flow-logs.amazonaws.com"),
        )
        self.vpc.add_flow_log(
            "Flows",
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(group, role),
            traffic_type=ec2.FlowLogTrafficType.ALL,
        )

    def _security_group(self, name: str, description: str) -> ec2.SecurityGroup:
        return ec2.SecurityGroup(
            self,
            f"{name}SecurityGroup",
            vpc=self.vpc,
            description=description,
            allow_all_outbound=False,
        )


def _s3_statements() -> list[iam.PolicyStatement]:
    arn = f"arn:{Aws.PARTITION}:s3:::"
    return [
        iam.PolicyStatement(
            sid="AssetsOfThisAccount",
            principals=[iam.AnyPrincipal()],
            actions=["s3:GetObject"],
            resources=[f"{arn}cdk-*-assets-{Aws.ACCOUNT_ID}-{Aws.REGION}/*"],
            conditions={"StringEquals": {"aws:PrincipalAccount": Aws.ACCOUNT_ID}},
        ),
        # Amazon Linux's packages are fetched without credentials; dnf checks their
        # signatures. ECR keeps the layers of images in a bucket of its own.
        iam.PolicyStatement(
            sid="PackagesAndLayersOfAws",
            principals=[iam.AnyPrincipal()],
            actions=["s3:GetObject"],
            resources=[
                f"{arn}al2023-repos-{Aws.REGION}-*/*",
                f"{arn}prod-{Aws.REGION}-starport-layer-bucket/*",
            ],
        ),
    ]
