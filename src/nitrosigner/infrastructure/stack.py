"""
One stack: a deployment of the wallet or of the validator signer, whole.

The order is the order of trust: first the roles, then the key whose policy names them,
then what merely serves. Prod stacks keep the key, the tables and the token when they
are deleted.
"""

from typing import Final

from aws_cdk import (
    Annotations,
    Aws,
    CfnOutput,
    CfnRule,
    CfnRuleAssertion,
    DefaultStackSynthesizer,
    Duration,
    Fn,
    RemovalPolicies,
    RemovalPolicy,
    Stack,
    Tags,
)
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as event_targets
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3_assets as s3_assets
from constructs import Construct

from nitrosigner.infrastructure import bundle, deployed_settings, fleet, user_data
from nitrosigner.infrastructure.assets import Assets
from nitrosigner.infrastructure.control import Control
from nitrosigner.infrastructure.entrance import Entrance
from nitrosigner.infrastructure.gateway import FunctionRole, private_function
from nitrosigner.infrastructure.measured_image import DEBUG_REGISTER
from nitrosigner.infrastructure.network import Network
from nitrosigner.infrastructure.notices import Notices
from nitrosigner.infrastructure.observability import Observability
from nitrosigner.infrastructure.parent_container import ParentContainer
from nitrosigner.infrastructure.settings import Job, ParentKind, Plan
from nitrosigner.infrastructure.statements import allow
from nitrosigner.infrastructure.stores import (
    ValidatorStores,
    WalletStores,
    client_token,
)
from nitrosigner.infrastructure.vault_key import VaultKey

_HANDLERS: Final = {
    Job.WALLET: "nitrosigner.untrusted.gateway.wallet.handler",
    Job.VALIDATOR: "nitrosigner.untrusted.gateway.validator.handler",
}
_RETENTION: Final = {
    30: logs.RetentionDays.ONE_MONTH,
    90: logs.RetentionDays.THREE_MONTHS,
    180: logs.RetentionDays.SIX_MONTHS,
    365: logs.RetentionDays.ONE_YEAR,
    731: logs.RetentionDays.TWO_YEARS,
    1827: logs.RetentionDays.FIVE_YEARS,
    3653: logs.RetentionDays.TEN_YEARS,
}
_LOG_GROUPS: Final = (*deployed_settings.LOGS, "audit", "installation", "metrics")
GATEWAYS_AT_ONCE: Final = 20
DEBUG_WARNING: Final = (
    "DEBUG MODE: enclaves are not measured, whoever runs the instances can read them, "
    "and KMS opens for any debug enclave. Only for keys that are worth nothing."
)


class SignerStack(Stack):
    """A signer, from the KMS key to the dashboard."""

    def __init__(self, scope: Construct, plan: Plan, assets: Assets) -> None:
        """
        Make the stack.

        Args:
            scope: The app.
            plan: What it shall be.
            assets: What it ships.
        """
        job = "Wallet" if plan.job is Job.WALLET else "Validator signer"
        super().__init__(
            scope,
            plan.name,
            description=("DEBUG MODE, no real keys. " if plan.debug else "")
            + f"nitrosigner: {job} in Nitro Enclaves, deployment {plan.deployment}",
            termination_protection=not plan.debug,
        )
        self.plan = plan
        self._assets = assets
        self._retention = _RETENTION[plan.chosen.log_days]
        Tags.of(self).add("nitrosigner:deployment", plan.deployment)
        self._refuse_what_must_not_be_deployed()

        chosen = plan.chosen
        self.network = Network(
            self,
            "Network",
            cidr=chosen.network,
            zones=chosen.zones,
            nat_gateway=chosen.nat_gateway,
            ecr_endpoints=chosen.ecr_endpoints,
            log_retention=self._retention,
        )
        self.entrance = Entrance(
            self,
            "Entrance",
            network=self.network,
            stack_name=plan.name,
            client_networks=chosen.client_networks,
            protected=not plan.debug,
        )
        self.instance_role = fleet.instance_role(self, "InstanceRole", plan)
        self.stores: WalletStores | ValidatorStores = (
            WalletStores(self, "Stores", stack_name=plan.name)
            if plan.job is Job.WALLET
            else ValidatorStores(self, "Stores", debug=plan.debug)
        )
        for statement in self.stores.statements():
            self.instance_role.add_to_policy(statement)
        self.token = client_token(self, "GatewayToken", debug=plan.debug)
        self.control = Control(self, "Control", stack_name=plan.name)
        notices = Notices(
            self, "Notices", stack_name=plan.name, given=chosen.alarm_topic
        )
        self.topic = notices.topic
        self.gateway_role = FunctionRole(
            self, "GatewayRole", log_retention=self._retention
        )
        self.canary_role = FunctionRole(
            self, "CanaryRole", log_retention=self._retention
        )
        self.probe_role = FunctionRole(self, "ProbeRole", log_retention=self._retention)
        self.key = VaultKey(
            self,
            "VaultKey",
            plan=plan,
            image=assets.image,
            enclave_role=self.instance_role.role_arn,
            gateway_role=self.gateway_role.role.role_arn,
            canary_role=self.canary_role.role.role_arn,
            key_administrator=chosen.key_administrator or _cloudformation_role(),
        )
        notices.watch_key(self.key.arn)
        self._code = lambda_.Code.from_asset(str(assets.gateway))
        self.gateway = self._gateway()
        self.canary = self._canary()
        self.probe = self._probe()
        self.log_groups = self._log_groups()
        self.fleet = self._fleet()
        self.observability = Observability(
            self,
            "Observability",
            plan=plan,
            topic=self.topic,
            log_groups=self.log_groups,
            targets=self.entrance.targets,
            balancer=self.entrance.balancer,
        )
        self._outputs()
        if plan.debug:
            # Logs stay when a stack goes, unless it is said of each.
            RemovalPolicies.of(self).destroy(
                apply_to_resource_types=["AWS::Logs::LogGroup"]
            )

    @property
    def measurements(self) -> list[str]:
        """PCR0 of every enclave that KMS opens for."""
        return [DEBUG_REGISTER] if self.plan.debug else self._assets.image.admitted

    def _refuse_what_must_not_be_deployed(self) -> None:
        if self.plan.debug:
            Annotations.of(self).add_warning_v2("nitrosigner:debug", DEBUG_WARNING)
        for reason in self.plan.not_deployable:
            # The CDK's command line stops at an error; a rule in the template stops
            # whoever deploys it by other means.
            Annotations.of(self).add_error(f"not to be deployed: {reason}")
        if self.plan.not_deployable:
            CfnRule(
                self,
                "NotToBeDeployed",
                assertions=[
                    CfnRuleAssertion(
                        assert_=Fn.condition_equals("complete", "not complete"),
                        assert_description="; ".join(self.plan.not_deployable),
                    )
                ],
            )

    def _gateway(self) -> lambda_.Function:
        role = self.gateway_role.role
        role.add_to_policy(
            allow(
                "ReadItsToken",
                ["secretsmanager:GetSecretValue"],
                [self.token.secret_arn],
            )
        )
        environment = {
            "SIGNER_URL": f"https://{self.entrance.host}",
            "EXPECTED_PCR0": ",".join(self.measurements),
            "ADMINISTRATOR": self.plan.administrator,
            "DEPLOYMENT": self.plan.deployment,
            "SIGNER_TOKEN_SECRET_ARN": self.token.secret_arn,
            "KMS_KEY_ARN": self.key.arn,
        }
        if isinstance(self.stores, ValidatorStores):
            for statement in self.control.statements(self.plan.name):
                role.add_to_policy(statement)
            environment |= {
                "START_DOCUMENT": self.control.documents["Start"].ref,
                "STOP_DOCUMENT": self.control.documents["Stop"].ref,
                "AUTO_SCALING_GROUP": fleet.group_name(self.plan),
                "INIT_FLAG": self.control.initialised.parameter_name,
            }
        return private_function(
            self,
            "Gateway",
            role=self.gateway_role,
            network=self.network,
            description=f"The {self.plan.job}'s operations",
            handler=_HANDLERS[self.plan.job],
            code=self._code,
            environment=environment,
            reserved=GATEWAYS_AT_ONCE,
        )

    def _canary(self) -> lambda_.Function:
        # IAM allows it all of this on purpose: then the key's policy alone stands in
        # the way, and the canary notices when it no longer does.
        self.canary_role.role.add_to_policy(
            allow(
                "TryToOpenBait",
                [
                    "kms:Decrypt",
                    "kms:GenerateDataKey",
                    "kms:ReEncryptFrom",
                    "kms:ReEncryptTo",
                ],
                [self.key.arn],
            )
        )
        self.canary_role.role.add_to_policy(
            allow(
                "LookAtThePolicyInForce",
                ["kms:GetKeyPolicy", "kms:ListGrants"],
                [self.key.arn],
            )
        )
        canary = private_function(
            self,
            "Canary",
            role=self.canary_role,
            network=self.network,
            description="Tries to open something without an enclave; judges the policy",
            handler="nitrosigner.untrusted.gateway.attestation_canary.handler",
            code=self._code,
            environment={
                "KMS_KEY_ARN": self.key.arn,
                "EXPECTED_PCR0": ",".join(self.measurements),
                "ADMINISTRATOR": self.plan.administrator,
                "DEPLOYMENT": self.plan.deployment,
                "STACK": self.plan.name,
            },
            reserved=1,
        )
        self._every("Canary", canary, 5)
        return canary

    def _probe(self) -> lambda_.Function:
        probe = private_function(
            self,
            "Probe",
            role=self.probe_role,
            network=self.network,
            description="Asks the signer how it is, from where callers are",
            handler="nitrosigner.untrusted.gateway.health_probe.handler",
            code=self._code,
            environment={
                "SIGNER_URL": f"https://{self.entrance.host}",
                "STACK": self.plan.name,
            },
            reserved=1,
        )
        self._every("Probe", probe, 1)
        return probe

    def _every(self, name: str, function: lambda_.Function, minutes: int) -> None:
        events.Rule(
            self,
            f"{name}Schedule",
            schedule=events.Schedule.rate(Duration.minutes(minutes)),
            targets=[event_targets.LambdaFunction(function)],
        )

    def _log_groups(self) -> dict[str, logs.LogGroup]:
        keep = RemovalPolicy.DESTROY if self.plan.debug else RemovalPolicy.RETAIN
        groups = {
            name: logs.LogGroup(
                self,
                f"{name.title()}Log",
                log_group_name=f"/nitrosigner/{self.plan.name}/{name}",
                retention=self._retention,
                removal_policy=keep,
            )
            for name in _LOG_GROUPS
        }
        self.instance_role.add_to_policy(
            allow(
                "WriteLogs",
                [
                    "logs:CreateLogStream",
                    "logs:DescribeLogStreams",
                    "logs:PutLogEvents",
                ],
                [group.log_group_arn for group in groups.values()],
            )
        )
        return groups

    def _fleet(self) -> fleet.SigningFleet:
        machine = self.plan.chosen.architecture
        parent = s3_assets.Asset(self, "Parent", path=str(self._assets.parent(machine)))
        image = s3_assets.Asset(self, "Image", path=str(self._assets.eif))
        self.instance_role.add_to_policy(
            allow(
                "FetchWhatTheStackShips",
                ["s3:GetObject"],
                [
                    asset.bucket.arn_for_objects(asset.s3_object_key)
                    for asset in (parent, image)
                ],
            )
        )
        self.instance_role.add_to_policy(
            allow(
                "AskWhetherKeysAreThere",
                ["ssm:GetParameter"],
                [self.control.initialised.parameter_arn],
            )
        )
        told = deployed_settings.deployed(
            self.plan,
            stores=self.stores,
            pcr0=self._assets.image.pcr0,
            group_name=fleet.group_name(self.plan),
            init_flag=self.control.initialised.parameter_name,
            log_groups={
                name: group.log_group_name for name, group in self.log_groups.items()
            },
        )
        packages = list(user_data.PACKAGES)
        if self.plan.chosen.parent is ParentKind.CONTAINER:
            container = ParentContainer(
                self, "Container", assets=self._assets, machine=machine
            )
            container.allow_pulling(self.instance_role)
            told |= container.deployed
            packages += user_data.CONTAINER_PACKAGES
        script = ec2.UserData.for_linux()
        script.add_commands(
            user_data.script(
                {
                    "INSTALL": self._installing(packages),
                    "REGION": Aws.REGION,
                    "GROUP": fleet.group_name(self.plan),
                    "HOOK": fleet.LAUNCHING_HOOK,
                    "PACKAGES": " ".join(packages),
                    "PARENT_BUCKET": parent.s3_bucket_name,
                    "PARENT_KEY": parent.s3_object_key,
                    "PARENT_SHA256": bundle.sha256(self._assets.parent(machine)),
                    "IMAGE_BUCKET": image.s3_bucket_name,
                    "IMAGE_KEY": image.s3_object_key,
                    "IMAGE_SHA256": bundle.sha256(self._assets.eif),
                    "DEPLOYED": self.to_json_string(told),
                }
            )
        )
        built = fleet.SigningFleet(
            self,
            "Fleet",
            plan=self.plan,
            network=self.network,
            role=self.instance_role,
            user_data=script,
            notifications=self.topic,
        )
        built.serve(self.entrance.targets)
        # What installs itself needs its endpoints, and the rules that lead there.
        built.group.node.add_dependency(self.network)
        # In a rollout KMS must admit the new image before the first instance runs it.
        built.group.node.add_dependency(self.key)
        # An instance that starts before it may read or write anything gives up.
        policy = self.instance_role.node.try_find_child("DefaultPolicy")
        if policy is not None:
            built.group.node.add_dependency(policy)
        return built

    def _installing(self, packages: list[str]) -> str:
        folder = self.plan.chosen.packages
        if folder is None:
            return user_data.from_the_repository(packages)
        path = self._assets.packages(folder, self.plan.chosen.architecture, packages)
        asset = s3_assets.Asset(self, "Packages", path=str(path))
        fleet.allow_objects(
            self.instance_role,
            "FetchPackages",
            [asset.bucket.arn_for_objects(asset.s3_object_key)],
        )
        return user_data.from_the_assets(
            bucket=asset.s3_bucket_name,
            key=asset.s3_object_key,
            sha256=bundle.sha256(path),
        )

    def _outputs(self) -> None:
        # The first ones have the names that the source documents' scripts read.
        outputs = {
            "EC2InstanceRoleARN": self.instance_role.role_arn,
            "LambdaFunctionArn": self.gateway.function_arn,
            "LambdaExecutionArn": self.gateway_role.role.role_arn,
            "ASGGroupName": fleet.group_name(self.plan),
            "KMSKeyARN": self.key.arn,
            "SignerELBFQDN": self.entrance.host,
            "Mode": "DEBUG" if self.plan.debug else "production",
            "Job": self.plan.job.value,
            "Region": Aws.REGION,
            "Deployment": self.plan.deployment,
            "Administrator": self.plan.administrator,
            "Measurements": ",".join(self.measurements),
            "InitFlagParamName": self.control.initialised.parameter_name,
            "GatewayTokenArn": self.token.secret_arn,
            "ClientSecurityGroup": self.network.clients.security_group_id,
            "DashboardName": self.observability.dashboard.dashboard_name,
            "AlarmTopicArn": self.topic.topic_arn,
            **{
                f"{command}Document": document.ref
                for command, document in self.control.documents.items()
            },
        }
        if isinstance(self.stores, WalletStores):
            outputs["RecordPrefix"] = self.stores.prefix
        else:
            outputs |= {
                "Web3SignerInitFlagParamName": self.control.initialised.parameter_name,
                "ValidatorKeysTableName": self.stores.keys.table_name,
                "TLSKeysTableName": self.stores.tls.table_name,
                "RecordsTableName": self.stores.records.table_name,
                "WatermarksTableName": self.stores.watermarks.table_name,
            }
        for name, value in outputs.items():
            CfnOutput(self, name, value=value)


def _cloudformation_role() -> str:
    """Return the ARN of the role that `cdk bootstrap` makes for CloudFormation."""
    return (
        f"arn:{Aws.PARTITION}:iam::{Aws.ACCOUNT_ID}:role/"
        f"cdk-{DefaultStackSynthesizer.DEFAULT_QUALIFIER}-cfn-exec-role-"
        f"{Aws.ACCOUNT_ID}-{Aws.REGION}"
    )
