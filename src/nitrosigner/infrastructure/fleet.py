"""
The instances: parents with an enclave each, replaced when they cannot sign.

An instance joins the load balancer only after it has said itself that its enclave can
sign: the launching hook holds it back until then, and ABANDON is what the hook assumes
if nothing is said. So a bad image or a wrong key policy stops a rollout at its first
new instance, with the old ones still serving.
"""

from collections.abc import Sequence
from typing import Final

from aws_cdk import Aws, Duration, Tags
from aws_cdk import aws_autoscaling as autoscaling
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from constructs import Construct

from nitrosigner.infrastructure.network import Network
from nitrosigner.infrastructure.settings import Plan
from nitrosigner.infrastructure.statements import allow

LAUNCHING_HOOK: Final = "can-sign"
TERMINATING_HOOK: Final = "drained"
HELD_BACK: Final = Duration.hours(2)
"""How long one heartbeat keeps an instance waiting; before the key ceremony there is
nothing to sign with, and instances send heartbeats for up to two days."""
DRAIN: Final = Duration.minutes(3)
GRACE: Final = Duration.minutes(5)
"""In service, until unhealthy counts: more than a watchdog's restart of the enclave."""
CPU_TARGET: Final = 50
"""Percent. The parent's relay and the enclave's processors grow with the load alike."""
TAG: Final = "nitrosigner:stack"
"""Run Command documents find instances by it."""
_AMI: Final = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-"


class SigningFleet(Construct):
    """An Auto Scaling group of enclave parents."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        *,
        plan: Plan,
        network: Network,
        role: iam.Role,
        user_data: ec2.UserData,
        notifications: sns.ITopic,
    ) -> None:
        """
        Make the fleet.

        Args:
            scope: Where it belongs.
            name: In that scope.
            plan: Instance type, sizes, debug mode.
            network: Where instances live.
            role: Theirs. The enclave calls KMS with its credentials.
            user_data: What installs the parent.
            notifications: Told when instances come and go.
        """
        super().__init__(scope, name)
        chosen = plan.chosen
        self.template = ec2.LaunchTemplate(
            self,
            "LaunchTemplate",
            instance_type=ec2.InstanceType(plan.instance_type),
            machine_image=ec2.MachineImage.from_ssm_parameter(
                f"{_AMI}{chosen.architecture.value}", os=ec2.OperatingSystemType.LINUX
            ),
            role=role,
            security_group=network.signers,
            user_data=user_data,
            nitro_enclave_enabled=True,
            require_imdsv2=True,
            # One hop: a container or a proxied request on the instance does not reach
            # the role's credentials.
            http_put_response_hop_limit=1,
            http_endpoint=True,
            block_devices=[
                ec2.BlockDevice(
                    device_name="/dev/xvda",
                    volume=ec2.BlockDeviceVolume.ebs(
                        chosen.volume,
                        encrypted=True,
                        volume_type=ec2.EbsDeviceVolumeType.GP3,
                    ),
                )
            ],
        )
        self.group = autoscaling.AutoScalingGroup(
            self,
            "Group",
            # Named, because user data names it and the group needs the user data.
            auto_scaling_group_name=group_name(plan),
            vpc=network.vpc,
            vpc_subnets=network.subnets,
            launch_template=self.template,
            min_capacity=chosen.minimum,
            max_capacity=chosen.maximum,
            health_checks=autoscaling.HealthChecks.with_additional_checks(
                grace_period=GRACE,
                additional_types=[autoscaling.AdditionalHealthCheckType.ELB],
            ),
            update_policy=autoscaling.UpdatePolicy.instance_refresh(
                strategy=autoscaling.InstanceRefreshStrategy.ROLLING,
                # A new one is in service before an old one goes.
                min_healthy_percentage=100,
                max_healthy_percentage=150,
                instance_warmup=Duration.minutes(1),
            ),
            notifications=[autoscaling.NotificationConfiguration(topic=notifications)],
            max_instance_lifetime=Duration.days(90),
        )
        # Health says DOWN as well when the store is away, on all instances at once. An
        # unhealthy one therefore stays until its substitute can sign: an outage of
        # DynamoDB must not end as a fleet of new instances that cannot boot.
        group = self.group.node.default_child
        if not isinstance(group, autoscaling.CfnAutoScalingGroup):
            raise TypeError
        group.instance_maintenance_policy = (
            autoscaling.CfnAutoScalingGroup.InstanceMaintenancePolicyProperty(
                min_healthy_percentage=100, max_healthy_percentage=150
            )
        )
        # Part of the group, not resources of their own: those are made after it, when
        # its first instances have already been launched without them.
        made = self.group.node.default_child
        if not isinstance(made, autoscaling.CfnAutoScalingGroup):
            msg = "the group is not one resource"
            raise TypeError(msg)
        made.lifecycle_hook_specification_list = [
            _hook(LAUNCHING_HOOK, "LAUNCHING", "ABANDON", HELD_BACK),
            _hook(TERMINATING_HOOK, "TERMINATING", "CONTINUE", DRAIN),
        ]
        self.group.scale_on_cpu_utilization(
            "Load",
            target_utilization_percent=CPU_TARGET,
            disable_scale_in=False,
            estimated_instance_warmup=Duration.minutes(3),
        )
        Tags.of(self.group).add(TAG, plan.name)
        Tags.of(self.group).add(
            "nitrosigner:mode", "DEBUG" if plan.debug else "production"
        )

    def serve(self, target_group: elb.NetworkTargetGroup) -> None:
        """Let *target_group* send callers here."""
        self.group.attach_to_network_target_group(target_group)


def _hook(
    name: str, transition: str, otherwise: str, time: Duration
) -> autoscaling.CfnAutoScalingGroup.LifecycleHookSpecificationProperty:
    return autoscaling.CfnAutoScalingGroup.LifecycleHookSpecificationProperty(
        lifecycle_hook_name=name,
        lifecycle_transition=f"autoscaling:EC2_INSTANCE_{transition}",
        default_result=otherwise,
        heartbeat_timeout=time.to_seconds(),
    )


def instance_role(scope: Construct, name: str, plan: Plan) -> iam.Role:
    """
    Return the instances' role, with what every instance needs.

    The managed policy for Systems Manager lets an instance read every parameter of the
    account; this is the part of it that Session Manager and Run Command need.
    """
    role = iam.Role(
        scope,
        name,
        assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"),
        description="Parent instances: sealed records, and an attested KMS",
    )
    role.add_to_policy(
        allow(
            "SystemsManagerKnowsNoResources",
            [
                "ec2messages:AcknowledgeMessage",
                "ec2messages:DeleteMessage",
                "ec2messages:FailMessage",
                "ec2messages:GetEndpoint",
                "ec2messages:GetMessages",
                "ec2messages:SendReply",
                "ssm:UpdateInstanceInformation",
                "ssmmessages:CreateControlChannel",
                "ssmmessages:CreateDataChannel",
                "ssmmessages:OpenControlChannel",
                "ssmmessages:OpenDataChannel",
            ],
            ["*"],
        )
    )
    role.add_to_policy(
        allow(
            "SayWhetherItCanSign",
            [
                "autoscaling:CompleteLifecycleAction",
                "autoscaling:RecordLifecycleActionHeartbeat",
            ],
            # The part before the name is an id that only Auto Scaling knows.
            [
                (
                    f"arn:{Aws.PARTITION}:autoscaling:{Aws.REGION}:{Aws.ACCOUNT_ID}:"
                    f"autoScalingGroup:*:autoScalingGroupName/{group_name(plan)}"
                )
            ],
        )
    )
    return role


def allow_objects(role: iam.Role, sid: str, objects: Sequence[str]) -> None:
    """Let *role* read S3 objects, each by its whole name."""
    role.add_to_policy(allow(sid, ["s3:GetObject"], objects))


def group_name(plan: Plan) -> str:
    """Return the Auto Scaling group's name."""
    return f"{plan.name}-signers"
