"""The canary against the emulated KMS, with the templates' own key policies."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import msgspec
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from nitrosigner.emulator.kms import RunningKms, Settings, start
from nitrosigner.emulator.kms.principals import Principal, load_or_create
from nitrosigner.infrastructure.settings import parse, plans
from nitrosigner.untrusted.gateway import attestation_canary
from nitrosigner.untrusted.gateway.attestation_canary import Outcome

REGION, ACCOUNT = "us-east-1", "123456789012"
STACK = "prodNitroWalletEth"


@pytest.fixture(scope="module")
def kms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKms]:
    data = tmp_path_factory.mktemp("kms")
    folder = data / "kms"
    folder.mkdir(mode=0o700)
    file = folder / "principals.json"
    stored = load_or_create(file, region=REGION, account=ACCOUNT)
    # IAM allows the canary everything, as its role in the stack nearly does.
    administrator = stored.principals["administrator"]
    stored.principals["canary"] = msgspec.structs.replace(
        administrator,
        arn=f"arn:aws:iam::{ACCOUNT}:role/nitrosigner-canary",
        access_key_id="ASIACANARYCANARYCANA",
    )
    file.write_bytes(msgspec.json.encode(stored))

    def nothing(document: bytes) -> Any:
        raise AssertionError(document)

    with start(data, settings=Settings(read_document=nothing)) as running:
        yield running


@pytest.fixture
def client(kms: RunningKms) -> Iterator[Callable[[str], Any]]:
    made = []

    def make(role: str) -> Any:
        principal: Principal = kms.principal(role)
        one = boto3.session.Session().client(
            "kms",
            region_name=REGION,
            endpoint_url=kms.url,
            verify=str(kms.ca),
            aws_access_key_id=principal.access_key_id,
            aws_secret_access_key=principal.secret_access_key,
            aws_session_token=principal.session_token,
            config=botocore.config.Config(retries={"total_max_attempts": 1}),
        )
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def policy_of(stack: str) -> dict[str, Any]:
    """Return *stack*'s key policy, for the roles of the emulated account."""
    pytest.importorskip("aws_cdk", reason="the AWS CDK is not installed")
    from nitrosigner.infrastructure.measured_image import MeasuredImage
    from nitrosigner.infrastructure.vault_key import policy_document

    chosen = parse(
        json.dumps({"stacks": {stack: {"administrator": "a1" * 32}}}).encode()
    )
    (plan,) = (one for one in plans(chosen, measured=True) if one.name == stack)
    text = json.dumps(policy_document(plan, MeasuredImage(None, "ab" * 48, [])))
    for part, role in (("enclave", "parent"),):
        text = text.replace(f"role/{part}", f"role/{role}")
    for stand_in, real in (("role/", "role/nitrosigner-"), ("root", "root")):
        text = text.replace(
            f"arn:aws:iam::000000000000:{stand_in}", f"arn:aws:iam::{ACCOUNT}:{real}"
        )
    document: dict[str, Any] = json.loads(text)
    return document


def environment(key_arn: str, stack: str) -> dict[str, str]:
    deployment = (
        "debug-dev-nitro-wallet-eth" if "dev" in stack else "prod-nitro-wallet-eth"
    )
    return {
        "KMS_KEY_ARN": key_arn,
        "ADMINISTRATOR": "a1" * 32,
        "DEPLOYMENT": deployment,
        "STACK": stack,
    }


def try_policy(client: Any, policy: dict[str, Any], stack: str = STACK) -> Any:
    key = client("administrator").create_key(Policy=json.dumps(policy))
    return attestation_canary.run(
        client("canary"), environment(key["KeyMetadata"]["Arn"], stack)
    )


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("stack", ["devNitroWalletEth", "prodNitroWalletEth"])
def test_with_the_stacks_policy_every_attempt_is_denied(
    client: Any, stack: str
) -> None:
    line = try_policy(client, policy_of(stack), stack)
    assert line["attempts"] == dict.fromkeys(
        ("Decrypt", "GenerateDataKey", "ReEncrypt"), Outcome.DENIED
    )
    assert (line["UnattestedOpened"], line["UnattestedNotKnown"]) == (0, 0)


def weakened(*, without: str, allow: dict[str, Any]) -> dict[str, Any]:
    policy = copy.deepcopy(policy_of(STACK))
    policy["Statement"] = [
        one for one in policy["Statement"] if not one["Sid"].startswith(without)
    ]
    policy["Statement"].append({"Effect": "Allow", "Resource": "*", **allow})
    return policy


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    "allow",
    [
        {"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "kms:*"},
        {"Principal": {"AWS": "*"}, "Action": "kms:Decrypt"},
    ],
    ids=["delegated to IAM", "open to everybody"],
)
def test_a_weakened_policy_is_noticed(client: Any, allow: dict[str, Any]) -> None:
    # With the denies in place even such an Allow opens nothing.
    line = try_policy(client, weakened(without="…", allow=allow))
    assert line["UnattestedOpened"] == 0
    line = try_policy(client, weakened(without="NothingOpens", allow=allow))
    assert line["UnattestedOpened"] >= 1
    assert line["attempts"]["Decrypt"] is Outcome.OPENED


class FakeKms:
    """Fails as it is told; by default it denies."""

    def __init__(self, **errors: Exception | None) -> None:
        self.errors = errors

    def _do(self, name: str) -> dict[str, Any]:
        error = self.errors.get(name, client_error("AccessDeniedException"))
        if error is not None:
            raise error
        return {"CiphertextBlob": b"bait", "Plaintext": b"bait"}

    def encrypt(self, **_: Any) -> dict[str, Any]:
        return self._do("encrypt")

    def decrypt(self, **_: Any) -> dict[str, Any]:
        return self._do("decrypt")

    def generate_data_key(self, **_: Any) -> dict[str, Any]:
        return self._do("generate_data_key")

    def re_encrypt(self, **_: Any) -> dict[str, Any]:
        return self._do("re_encrypt")


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "m"}}, "op")


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (client_error("AccessDeniedException"), Outcome.DENIED),
        (None, Outcome.OPENED),
        (client_error("DryRunOperationException"), Outcome.OPENED),
        (client_error("InvalidCiphertextException"), Outcome.NOT_KNOWN),
        (client_error("ThrottlingException"), Outcome.NOT_KNOWN),
        (client_error("DisabledException"), Outcome.NOT_KNOWN),
        (EndpointConnectionError(endpoint_url="x"), Outcome.NOT_KNOWN),
    ],
)
@pytest.mark.parametrize("way", ["decrypt", "generate_data_key", "re_encrypt"])
def test_only_a_denial_is_safety(
    way: str, error: Exception | None, outcome: Outcome
) -> None:
    line = attestation_canary.run(
        FakeKms(encrypt=None, **{way: error}), environment("arn", STACK)
    )
    assert list(line["attempts"].values()).count(outcome) >= 1
    assert line["UnattestedOpened"] == (1 if outcome is Outcome.OPENED else 0)
    assert line["UnattestedNotKnown"] == (1 if outcome is Outcome.NOT_KNOWN else 0)


@pytest.mark.parametrize(
    "error",
    [client_error("AccessDeniedException"), EndpointConnectionError(endpoint_url="x")],
)
def test_without_bait_nothing_is_known(error: Exception) -> None:
    line = attestation_canary.run(FakeKms(encrypt=error), environment("arn", STACK))
    assert (line["UnattestedOpened"], line["UnattestedNotKnown"]) == (0, 1)


def test_the_line_is_a_metric_that_the_alarms_ask_for(tmp_path: Path) -> None:
    line = attestation_canary.run(FakeKms(encrypt=None), environment("arn", STACK))
    (metrics,) = line["_aws"]["CloudWatchMetrics"]
    assert metrics["Namespace"] == "nitrosigner"
    assert metrics["Dimensions"] == [["stack"]]
    assert line["stack"] == STACK
    for metric in metrics["Metrics"]:
        assert isinstance(line[metric["Name"]], int)
