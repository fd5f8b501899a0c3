"""`nitrosigner deploy`, with an account that is as wrong as an account can be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nitrosigner.cli.main import command
from nitrosigner.image.key_policy import KeyPolicy
from nitrosigner.infrastructure import commands
from nitrosigner.infrastructure.account import AwsAccount, Deployed, Instance
from nitrosigner.infrastructure.outputs import Outputs
from nitrosigner.verdicts import Code, Undecided, Verdict
from nitrosigner.wire import manifest as manifests

ACCOUNT = "123456789012"
KEY = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1a2b"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/"
IMAGE = "ab" * 48
HOST = "signer.prodnitrowalleteth.private"
ADMINISTRATOR = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
STRANGER = Ed25519PrivateKey.from_private_bytes(b"\2" * 32)
STACK = "prodNitroWalletEth"
RUNBOOKS = Path(__file__).parents[2] / "docs/operations"


def outputs(**changed: Any) -> dict[str, Any]:
    return {
        "Mode": "production",
        "Job": "wallet",
        "Region": "us-east-1",
        "Deployment": "wallet",
        "Administrator": manifests.fingerprint(ADMINISTRATOR.public_key()),
        "Measurements": IMAGE,
        "KMSKeyARN": KEY,
        "EC2InstanceRoleARN": f"{ROLE}enclave",
        "ASGGroupName": f"{STACK}-signers",
        "SignerELBFQDN": HOST,
        "InitFlagParamName": f"/nitrosigner/{STACK}/initialised",
        "GatewayTokenArn": f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:t",
        "StartDocument": "start",
        "StatusDocument": f"nitrosigner-{STACK}-status",
        "AlarmTopicArn": f"arn:aws:sns:us-east-1:{ACCOUNT}:alarms",
        "RecordPrefix": f"nitrosigner/{STACK}/",
        "DashboardName": "something else",
        **changed,
    }


def policy(**changed: Any) -> str:
    return KeyPolicy(
        **{
            "measurements": [IMAGE],
            "administrator": manifests.fingerprint(ADMINISTRATOR.public_key()),
            "deployment": "wallet",
            "enclave_role": f"{ROLE}enclave",
            "gateway_role": f"{ROLE}gateway",
            "key_administrator": f"{ROLE}deployer",
            **changed,
        }
    ).text


def signed(key: Ed25519PrivateKey = ADMINISTRATOR, **changed: Any) -> bytes:
    fields: dict[str, Any] = {
        "deployment": "wallet",
        "version": 1,
        "aws": manifests.Aws(region="us-east-1", kms_key_arn=KEY),
        "networks": [manifests.Network(name="mainnet", chain_id=1)],
        "clients": [],
        "tls_names": [HOST],
        **changed,
    }
    return manifests.sign(manifests.Manifest(**fields), key)


class FakeAccount:
    """In order by default; each test makes one thing wrong."""

    def __init__(self) -> None:
        self.policy = policy()
        self.flag = True
        self.running = [
            Instance("i-1", "InService", "Healthy"),
            Instance("i-2", "InService", "Healthy"),
        ]
        self.alarming: list[str] = []
        self.hearing = 1
        self.key = "Enabled"
        self.deployed: Deployed | None = Deployed("UPDATE_COMPLETE", outputs())
        self.published: tuple[bytes, int] | None = (signed(), 1)
        self.faster = False
        self.unsure: set[str] = set()

    def _may(self, what: str) -> None:
        if what in self.unsure:
            raise Undecided(Code.SIGNER_UNREACHABLE, f"AWS did not answer {what}", "x")

    def identity(self) -> str:
        self._may("identity")
        return "arn:aws:iam::123456789012:user/operator"

    def stack(self, name: str) -> Deployed | None:
        self._may("stack")
        assert name == STACK
        return self.deployed

    def key_state(self, arn: str) -> str:
        self._may("key_state")
        assert arn == KEY
        return self.key

    def listeners(self, topic: str) -> int:
        self._may("listeners")
        assert topic == outputs()["AlarmTopicArn"]
        return self.hearing

    def key_policy(self, arn: str) -> str:
        self._may("key_policy")
        assert arn == KEY
        return self.policy

    def initialised(self, name: str) -> bool:
        self._may("initialised")
        return self.flag

    def instances(self, group: str) -> list[Instance]:
        self._may("instances")
        return self.running

    def alarms(self, stack: str) -> list[str]:
        self._may("alarms")
        return self.alarming

    def manifest(self, outputs: Outputs) -> tuple[bytes, int] | None:
        self._may("manifest")
        return self.published

    def publish(self, outputs: Outputs, data: bytes, expected: int) -> bool:
        self._may("publish")
        if self.faster or expected != (self.published or (b"", 0))[1]:
            return False
        self.published = (data, expected + 1)
        return True


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> FakeAccount:
    fake = FakeAccount()
    monkeypatch.setattr(commands, "account", lambda _: fake)
    return fake


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    file = tmp_path / "outputs.json"
    file.write_text(json.dumps({STACK: outputs()}))

    def invoke(*arguments: str, **changed: Any) -> tuple[int, str]:
        if changed:
            file.write_text(json.dumps({STACK: outputs(**changed)}))
        done = click.testing.CliRunner().invoke(
            command(), ["deploy", *arguments, "--outputs", str(file)]
        )
        if isinstance(done.exception, Verdict):
            return done.exception.exit_code, str(done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done.exit_code, done.output

    return invoke


def test_a_stack_in_order_is_said_to_be(run: Run, account: FakeAccount) -> None:
    code, said = run("doctor")
    assert code == 0, said
    assert said.count(" ok ") == 10


@pytest.mark.parametrize(
    ("wrong", "step", "says"),
    [
        ({"policy": policy(measurements=["cd" * 48])}, "key policy", "lacks"),
        ({"policy": policy(administrator="22" * 32)}, "key policy", "lacks"),
        (
            {
                "policy": json.dumps(
                    {
                        **json.loads(policy()),
                        "Statement": [
                            one
                            for one in json.loads(policy())["Statement"]
                            if one["Effect"] == "Allow"
                        ]
                        + [
                            {
                                "Sid": "Hole",
                                "Effect": "Allow",
                                "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
                                "Action": "kms:*",
                                "Resource": "*",
                            }
                        ],
                    }
                )
            },
            "key policy",
            "holes",
        ),
        ({"published": None}, "manifest", "publish-manifest"),
        ({"published": (signed(STRANGER), 1)}, "manifest", "administrator"),
        ({"published": (signed(deployment="other"), 1)}, "manifest", "deployment"),
        ({"published": (signed(tls_names=["x"]), 1)}, "manifest", "tls_names"),
        ({"flag": False}, "started", "put-parameter"),
        ({"running": []}, "instances", "there is none"),
        ({"deployed": None}, "stack", "deploy prodNitroWalletEth"),
        ({"key": "PendingDeletion"}, "key", "cancel-key-deletion"),
        ({"hearing": 0}, "listeners", "aws sns subscribe"),
        (
            {"running": [Instance("i-1", "Pending:Wait", "Healthy")]},
            "instances",
            "i-1 Pending:Wait",
        ),
        ({"alarming": ["NoHealthySigner"]}, "alarms", "NoHealthySigner"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(
    run: Run, account: FakeAccount, wrong: dict[str, Any], step: str, says: str
) -> None:
    for name, value in wrong.items():
        setattr(account, name, value)
    code, said = run("doctor")
    assert code == 1
    assert says in said
    (line,) = (one for one in said.splitlines() if "FAILS" in one)
    assert line.startswith(step)


@pytest.mark.parametrize(
    "what",
    [
        "identity",
        "stack",
        "key_state",
        "key_policy",
        "manifest",
        "initialised",
        "instances",
        "listeners",
        "alarms",
    ],
)
def test_what_cannot_be_found_out_is_never_ok(
    run: Run, account: FakeAccount, what: str
) -> None:
    account.unsure = {what}
    code, said = run("doctor", "--json")
    assert code == 1
    found = json.loads(said)
    assert found["ok"] is False
    assert any(f"did not answer {what}" in one["message"] for one in found["steps"])


def test_status_shows_the_file_offline_and_the_account_otherwise(
    run: Run, account: FakeAccount
) -> None:
    code, said = run("status", "--offline", "--json")
    assert code == 0
    assert json.loads(said)["url"] == f"https://{HOST}"
    assert "started" not in json.loads(said)
    code, said = run("status", "--json")
    assert json.loads(said)["started"] is True
    assert json.loads(said)["manifest_version"] == 1


def documented(page: str) -> list[str]:
    """What a runbook shows that `deploy doctor` prints."""
    text = (RUNBOOKS / f"{page}.md").read_text()
    block = text.split("$ nitrosigner deploy doctor --outputs outputs.json\n")[1]
    lines = [line.strip() for line in block.split("```")[0].splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("page", ["first-deployment", "key-ceremony"])
def test_the_doctor_prints_what_the_runbooks_show(
    run: Run, account: FakeAccount, page: str
) -> None:
    account.deployed = Deployed("CREATE_COMPLETE", outputs())
    if page == "first-deployment":
        account.published = None
    _, said = run("doctor")
    printed = [one for one in said.splitlines() if not one.startswith("nitrosigner:")]
    shown = documented(page)
    assert len(shown) == len(printed) > 4
    for line, expected in zip(printed, shown, strict=True):
        # Digests are shortened.
        assert line.startswith(expected.rstrip("…")), (line, expected)


@pytest.mark.parametrize(
    ("status", "step", "says"),
    [
        ("CREATE_IN_PROGRESS", "stack", "is making"),
        ("CREATE_FAILED", "stack", "describe-stack-events"),
        ("ROLLBACK_COMPLETE", "stack", "describe-stack-events"),
        ("DELETE_FAILED", "stack", "describe-stack-events"),
        ("UPDATE_IN_PROGRESS", "last change", "at work"),
        ("UPDATE_ROLLBACK_FAILED", "last change", "continue-update-rollback"),
        ("UPDATE_ROLLBACK_COMPLETE", "last change", "taken back"),
    ],
)
def test_a_half_deployed_stack_is_said_to_be(
    run: Run, account: FakeAccount, status: str, step: str, says: str
) -> None:
    account.deployed = Deployed(status, outputs())
    code, said = run("doctor")
    assert code == 1
    (line,) = (one for one in said.splitlines() if "FAILS" in one)
    assert line.startswith(step)
    assert says in said
    # What was deployed before goes on being looked at; what never was is not.
    assert ("manifest" in said) is (step == "last change")


def test_a_file_that_is_older_than_the_stack_is_not_believed(
    run: Run, account: FakeAccount
) -> None:
    account.deployed = Deployed("UPDATE_COMPLETE", outputs(Measurements="ef" * 48))
    code, said = run("doctor")
    assert code == 1
    assert "Measurements differ" in said
    assert f"--stack {STACK} --region us-east-1" in said


def test_without_a_file_the_stack_itself_is_asked(account: FakeAccount) -> None:
    def invoke(*arguments: str) -> click.testing.Result:
        return click.testing.CliRunner().invoke(command(), ["deploy", *arguments])

    named = ("--stack", STACK, "--region", "us-east-1")
    assert invoke("doctor", *named).exit_code == 0
    assert json.loads(invoke("status", *named, "--json").output)["started"] is True
    assert invoke("doctor").exit_code == 2
    assert invoke("status", *named, "--offline").exit_code == 2
    for gone in (None, Deployed("ROLLBACK_COMPLETE", {})):
        account.deployed = gone
        done = invoke("doctor", *named)
        assert isinstance(done.exception, Undecided)
        assert done.exception.hint


def test_a_manifest_is_published_once_and_only_forward(
    run: Run, account: FakeAccount, tmp_path: Path
) -> None:
    account.published = None
    file = tmp_path / "manifest.json"
    file.write_bytes(signed(version=2))
    assert run("publish-manifest", str(file))[0] == 0
    assert account.published == (signed(version=2), 1)
    code, said = run("publish-manifest", str(file))
    assert code == 0
    assert "already" in said
    for version in (1, 2):
        file.write_bytes(signed(version=version, clients=[], tls_names=[HOST, "x"]))
        code, said = run("publish-manifest", str(file))
        assert code == 3, said
    file.write_bytes(signed(version=3))
    assert run("publish-manifest", str(file))[0] == 0
    account.faster = True
    file.write_bytes(signed(version=4))
    assert run("publish-manifest", str(file))[0] == 4


@pytest.mark.parametrize(
    "data",
    [
        signed(STRANGER),
        signed(deployment="other"),
        signed(tls_names=["elsewhere"]),
        signed(
            aws=manifests.Aws(
                region="us-east-1", kms_key_arn=KEY.replace("1a2b", "9z9z")
            )
        ),
    ],
    ids=["administrator", "deployment", "names", "key"],
)
def test_a_manifest_that_kms_would_refuse_is_not_published(
    run: Run, account: FakeAccount, tmp_path: Path, data: bytes
) -> None:
    account.published = None
    file = tmp_path / "manifest.json"
    file.write_bytes(data)
    assert run("publish-manifest", str(file))[0] == 3
    assert account.published is None


def test_a_debug_stack_refuses_a_production_manifest(
    run: Run, account: FakeAccount, tmp_path: Path
) -> None:
    file = tmp_path / "manifest.json"
    file.write_bytes(signed())
    code, said = run(
        "publish-manifest", str(file), Mode="DEBUG", Deployment="debug-wallet"
    )
    assert code == 3
    assert "debug-wallet" in said


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"a": 1}', '{"a": {}, "b": {}}', '{"prodNitroWalletEth":{}}'],
)
def test_a_file_that_holds_no_outputs_is_said_to(tmp_path: Path, text: str) -> None:
    file = tmp_path / "outputs.json"
    file.write_text(text)
    done = click.testing.CliRunner().invoke(
        command(), ["deploy", "status", "--offline", "--outputs", str(file)]
    )
    assert isinstance(done.exception, Verdict)
    assert done.exception.exit_code == 2


def test_plan_says_what_each_stack_lacks(tmp_path: Path) -> None:
    done = click.testing.CliRunner().invoke(
        command(),
        ["deploy", "plan", "--settings", str(tmp_path / "none.json"), "--json"],
    )
    assert done.exit_code == 0
    stacks = {one["stack"]: one for one in json.loads(done.output)["stacks"]}
    assert len(stacks) == 4
    assert stacks["devNitroValidator"]["mode"] == "DEBUG"
    assert any("administrator" in one for one in stacks[STACK]["lacks"])


# the account, over clients that answer as boto3's do


class Clients:
    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[str] = []

    def __call__(self, service: str) -> Any:
        self.service = service
        return self

    def __getattr__(self, name: str) -> Any:
        def call(**_: Any) -> Any:
            self.calls.append(name)
            answer = self.answers[name]
            if isinstance(answer, list):
                answer = answer.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


def test_the_account_reads_what_aws_answers() -> None:
    alarms = [
        {"MetricAlarms": [{"AlarmName": "a"}], "NextToken": "more"},
        {"MetricAlarms": [{"AlarmName": "b"}]},
    ]
    group = {
        "Instances": [
            {
                "InstanceId": "i-1",
                "LifecycleState": "InService",
                "HealthStatus": "Healthy",
            }
        ]
    }
    account = AwsAccount(
        "us-east-1",
        Clients(
            get_caller_identity={"Arn": "me"},
            get_key_policy={"Policy": "{}"},
            get_parameter={"Parameter": {"Value": "true"}},
            describe_auto_scaling_groups={"AutoScalingGroups": [group]},
            describe_alarms=alarms,
            describe_key={"KeyMetadata": {"KeyState": "Enabled"}},
            list_subscriptions_by_topic=[
                {
                    "Subscriptions": [{"SubscriptionArn": "PendingConfirmation"}],
                    "NextToken": "more",
                },
                {"Subscriptions": [{"SubscriptionArn": "arn:aws:sns:x"}]},
            ],
            describe_stacks={
                "Stacks": [
                    {
                        "StackStatus": "CREATE_COMPLETE",
                        "Outputs": [{"OutputKey": "Mode", "OutputValue": "DEBUG"}],
                    }
                ]
            },
        ),
    )
    assert account.listeners("topic") == 1
    assert account.key_state(KEY) == "Enabled"
    assert account.stack(STACK) == Deployed("CREATE_COMPLETE", {"Mode": "DEBUG"})
    assert account.identity() == "me"
    assert account.key_policy(KEY) == "{}"
    assert account.initialised("x")
    assert account.instances("g") == [Instance("i-1", "InService", "Healthy")]
    assert account.alarms("s") == ["a", "b"]


@pytest.mark.parametrize(
    "error",
    [
        NoCredentialsError(),
        EndpointConnectionError(endpoint_url="x"),
        ClientError({"Error": {"Code": "AccessDenied", "Message": "secret"}}, "op"),
    ],
)
def test_aws_failing_is_undecided_and_not_quoted(error: Exception) -> None:
    account = AwsAccount("us-east-1", Clients(get_caller_identity=error))
    with pytest.raises(Undecided) as caught:
        account.identity()
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("ExpiredToken", "log in again"),
        ("AccessDeniedException", "sts:GetCallerIdentity"),
        ("InternalError", "ask again"),
    ],
)
def test_why_aws_did_not_answer_is_told_apart(code: str, hint: str) -> None:
    error = ClientError({"Error": {"Code": code, "Message": "m"}}, "op")
    account = AwsAccount("us-east-1", Clients(get_caller_identity=error))
    with pytest.raises(Undecided) as caught:
        account.identity()
    assert hint in caught.value.hint


def test_the_runbooks_name_every_right_that_the_command_needs() -> None:
    import inspect
    import re

    from nitrosigner.infrastructure import account

    text = (RUNBOOKS / "README.md").read_text()
    called = re.findall(
        r'_(?:ask|call)\(\s*"(\w+)",\s*"(\w+)"', inspect.getsource(account)
    )
    assert len(called) > 7
    for service, operation in called:
        assert f"`{service}:{operation.title().replace('_', '')}`" in text


def test_a_stack_of_which_nothing_can_be_said_is_not_absent() -> None:
    error = ClientError({"Error": {"Code": "AccessDenied", "Message": "m"}}, "op")
    account = AwsAccount("us-east-1", Clients(describe_stacks=error))
    with pytest.raises(Undecided):
        account.stack(STACK)


@pytest.mark.parametrize("job", ["wallet", "validator"])
def test_a_published_manifest_is_found_by_the_parents_own_store(job: str) -> None:
    moto = pytest.importorskip("moto", reason="moto is not installed")
    import boto3
    import msgspec

    from nitrosigner.trusted.enclave.permissions import manifest_in_force

    found = outputs(Job=job)
    with moto.mock_aws():
        if job == "validator":
            del found["RecordPrefix"]
            found["RecordsTableName"] = "records"
            boto3.client("dynamodb", region_name="us-east-1").create_table(
                TableName="records",
                KeySchema=[
                    {"AttributeName": "deployment", "KeyType": "HASH"},
                    {"AttributeName": "record", "KeyType": "RANGE"},
                ],
                AttributeDefinitions=[
                    {"AttributeName": "deployment", "AttributeType": "S"},
                    {"AttributeName": "record", "AttributeType": "S"},
                ],
                BillingMode="PAY_PER_REQUEST",
            )
        described = msgspec.convert(found, Outputs)
        account = AwsAccount("us-east-1")
        assert account.manifest(described) is None
        assert account.publish(described, signed(), 0)
        assert not account.publish(described, signed(version=2), 0)
        assert account.manifest(described) == (signed(), 1)
        with account._store(described) as store:
            record = store.get(manifest_in_force.COLLECTION, manifest_in_force.CURRENT)
        assert record is not None
        assert record.data == signed()


def test_an_operator_is_led_from_nothing_to_a_signer_that_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step is what `deploy doctor` said, done to the services that moto plays."""
    moto = pytest.importorskip("moto", reason="moto is not installed")
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    file = tmp_path / "manifest.json"

    def doctor() -> tuple[str, str]:
        """The first step that fails, or nothing; and all that was said."""
        done = click.testing.CliRunner().invoke(
            command(), ["deploy", "doctor", "--stack", STACK, "--region", "us-east-1"]
        )
        if isinstance(done.exception, Verdict):
            return "no stack", f"{done.exception.message} {done.exception.hint}"
        failed = [one for one in done.output.splitlines() if "FAILS" in one]
        return failed[0].split("FAILS")[0].strip() if failed else "", done.output

    def clients(service: str) -> Any:
        return boto3.client(service, region_name="us-east-1")

    with moto.mock_aws():
        assert doctor()[0] == "no stack"

        arn = clients("kms").create_key(Policy=policy())["KeyMetadata"]["Arn"]
        topic = clients("sns").create_topic(Name="alarms")["TopicArn"]
        found = outputs(KMSKeyARN=arn, AlarmTopicArn=topic)
        clients("ssm").put_parameter(
            Name=found["InitFlagParamName"], Value="false", Type="String"
        )
        template = {
            "Resources": {"Handle": {"Type": "AWS::SQS::Queue"}},
            "Outputs": {name: {"Value": value} for name, value in found.items()},
        }
        clients("cloudformation").create_stack(
            StackName=STACK, TemplateBody=json.dumps(template)
        )
        step, said = doctor()
        assert step == "manifest"
        assert f"publish-manifest --stack {STACK}" in said

        aws = manifests.Aws(region="us-east-1", kms_key_arn=arn)
        file.write_bytes(signed(aws=aws))
        arguments = ["--stack", STACK, "--region", "us-east-1", str(file)]
        done = click.testing.CliRunner().invoke(
            command(), ["deploy", "publish-manifest", *arguments]
        )
        assert done.exit_code == 0, done.output
        step, said = doctor()
        assert step == "started"
        assert found["InitFlagParamName"] in said

        clients("ssm").put_parameter(
            Name=found["InitFlagParamName"], Value="true", Overwrite=True
        )
        step, said = doctor()
        assert step == "instances"
        assert "describe-scaling-activities" in said

        image = clients("ec2").describe_images()["Images"][0]["ImageId"]
        clients("autoscaling").create_launch_configuration(
            LaunchConfigurationName="l", ImageId=image, InstanceType="c6a.xlarge"
        )
        clients("autoscaling").create_auto_scaling_group(
            AutoScalingGroupName=found["ASGGroupName"],
            LaunchConfigurationName="l",
            MinSize=2,
            MaxSize=4,
            AvailabilityZones=["us-east-1a", "us-east-1b"],
        )
        step, said = doctor()
        assert step == "listeners"
        assert topic in said

        clients("sns").subscribe(
            TopicArn=topic, Protocol="sms", Endpoint="+15550100123"
        )
        assert doctor()[0] == ""

        clients("kms").schedule_key_deletion(KeyId=arn.rpartition("/")[2])
        step, said = doctor()
        assert step == "key"
        assert "PendingDeletion" in said
