"""
The way in: a load balancer that passes TCP on, and a name that nobody outside knows.

TLS ends in the enclave. The load balancer holds no certificate and sees TLS records; it
asks /healthcheck over HTTPS, unverified, only to learn whether an enclave can sign.
"""

from typing import Final

from aws_cdk import Duration
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_route53 as route53
from aws_cdk import aws_route53_targets as targets
from constructs import Construct

from nitrosigner.infrastructure.network import HTTPS, Network

PARENT_PORT: Final = 8443
HEALTH: Final = "/healthcheck"
HOST: Final = "signer"


class Entrance(Construct):
    """An internal Network Load Balancer, and its private name."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        *,
        network: Network,
        stack_name: str,
        client_networks: list[str],
        protected: bool,
    ) -> None:
        """
        Make the entrance.

        Args:
            scope: Where it belongs.
            name: In that scope.
            network: Where it stands.
            stack_name: Names the private zone.
            client_networks: CIDRs of callers without the clients' security group.
            protected: Whether it can be deleted by mistake.
        """
        super().__init__(scope, name)
        self.balancer = elb.NetworkLoadBalancer(
            self,
            "LoadBalancer",
            vpc=network.vpc,
            vpc_subnets=network.subnets,
            internet_facing=False,
            cross_zone_enabled=True,
            security_groups=[network.entrance],
            deletion_protection=protected,
            enforce_security_group_inbound_rules_on_private_link_traffic=True,
        )
        self.targets = elb.NetworkTargetGroup(
            self,
            "Signers",
            vpc=network.vpc,
            port=PARENT_PORT,
            protocol=elb.Protocol.TCP,
            target_type=elb.TargetType.INSTANCE,
            deregistration_delay=Duration.seconds(60),
            # A connection to a signer that left says so at once, instead of hanging.
            connection_termination=True,
            preserve_client_ip=False,
            health_check=elb.HealthCheck(
                protocol=elb.Protocol.HTTPS,
                path=HEALTH,
                port=str(PARENT_PORT),
                healthy_http_codes="200",
                interval=Duration.seconds(10),
                timeout=Duration.seconds(5),
                healthy_threshold_count=2,
                unhealthy_threshold_count=2,
            ),
        )
        self.listener = self.balancer.add_listener(
            "Https",
            port=HTTPS,
            protocol=elb.Protocol.TCP,
            default_target_groups=[self.targets],
        )
        for source in [network.clients, *map(ec2.Peer.ipv4, client_networks)]:
            network.entrance.add_ingress_rule(
                source, ec2.Port.tcp(HTTPS), "Callers of the signer"
            )
        network.clients.add_egress_rule(
            network.entrance, ec2.Port.tcp(HTTPS), "To the signer"
        )
        network.entrance.add_egress_rule(
            network.signers, ec2.Port.tcp(PARENT_PORT), "To the parents"
        )
        network.signers.add_ingress_rule(
            network.entrance, ec2.Port.tcp(PARENT_PORT), "From the load balancer"
        )
        self.zone = route53.PrivateHostedZone(
            self, "Zone", zone_name=f"{stack_name.lower()}.private", vpc=network.vpc
        )
        route53.ARecord(
            self,
            "Name",
            zone=self.zone,
            record_name=HOST,
            target=route53.RecordTarget.from_alias(
                targets.LoadBalancerTarget(self.balancer)
            ),
        )
        self.host = f"{HOST}.{stack_name.lower()}.private"
        """The manifest's `tls_names` must hold it."""
