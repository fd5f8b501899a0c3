"""The canary against the emulated KMS, with the templates' own key policies."""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import msgspec
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from nitrosigner.emulator.kms import RunningKms, Settings, start
from nitrosigner.emulator.kms.principals import Principal, load_or_create
from nitrosigner.image.key_policy import KeyPolicy
from nitrosigner.infrastructure.settings import parse, plans
from nitrosigner.untrusted.gateway import attestation_canary
from nitrosigner.untrusted.gateway.attestation_canary import Outcome

WAYS = ("Decrypt", "GenerateDataKey", "ReEncrypt", "Policy", "Grants")
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
        "EXPECTED_PCR0": "0" * 96 if "dev" in stack else "ab" * 48,
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
    assert line["attempts"] == dict.fromkeys(WAYS, Outcome.DENIED)
    assert line["wrong"] == []
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
    assert {line["attempts"][one] for one in WAYS[:3]} == {Outcome.DENIED}
    line = try_policy(client, weakened(without="NothingOpens", allow=allow))
    assert line["UnattestedOpened"] >= 1
    assert line["attempts"]["Decrypt"] is Outcome.OPENED


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "m"}}, "op")


def without_attestation(policy: dict[str, Any]) -> None:
    """The parent's role opens the vault; nobody else gets in, the canary least."""
    policy["Statement"] = [
        one
        for one in policy["Statement"]
        if one["Sid"]
        not in ("NothingOpensWithoutAttestation", "NothingOpensForAnotherImage")
    ]
    for statement in policy["Statement"]:
        statement.get("Condition", {}).pop("StringEqualsIgnoreCase", None)


def with_another_image(policy: dict[str, Any]) -> None:
    """Somebody admits an enclave of his own, everywhere and by the rules."""
    for statement in policy["Statement"]:
        for operator, keys in statement.get("Condition", {}).items():
            if "IgnoreCase" in operator:
                for measurements in keys.values():
                    measurements.append("ef" * 48)


def with_another(name: str) -> Callable[[dict[str, Any]], None]:
    def change(policy: dict[str, Any]) -> None:
        key = f"kms:EncryptionContext:{name}"
        for statement in policy["Statement"]:
            for keys in statement.get("Condition", {}).values():
                if key in keys:
                    keys[key] = [keys[key], "ef" * 32]

    return change


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (without_attestation, "no-attestation"),
        (with_another_image, "another-image"),
        (with_another("administrator"), "another-administrator"),
        (with_another("deployment"), "another-deployment"),
    ],
)
def test_a_policy_that_keeps_the_canary_out_and_lets_another_in_is_seen(
    client: Any, change: Callable[[dict[str, Any]], None], wrong: str
) -> None:
    policy = copy.deepcopy(policy_of(STACK))
    change(policy)
    line = try_policy(client, policy)
    # Trying alone would have said that all is well.
    assert {line["attempts"][one] for one in WAYS[:3]} == {Outcome.DENIED}
    assert line["attempts"]["Policy"] is Outcome.OPENED
    assert wrong in line["wrong"]
    assert line["UnattestedOpened"] == 1


@pytest.mark.usefixtures("node")
def test_a_production_key_that_opens_for_debug_enclaves_is_seen(client: Any) -> None:
    text = json.dumps(policy_of(STACK)).replace("ab" * 48, "0" * 96)
    line = try_policy(client, json.loads(text))
    assert "debug-enclave" in line["wrong"]


@pytest.mark.parametrize(
    ("answers", "way", "outcome"),
    [
        (
            {"get_key_policy": client_error("AccessDeniedException")},
            "Policy",
            Outcome.NOT_KNOWN,
        ),
        (
            {"list_grants": client_error("AccessDeniedException")},
            "Grants",
            Outcome.NOT_KNOWN,
        ),
        ({"policy": "{"}, "Policy", Outcome.OPENED),
        ({"grants": [{"GrantId": "1"}]}, "Grants", Outcome.OPENED),
    ],
    ids=["policy unread", "grants unread", "no policy", "a grant"],
)
def test_what_cannot_be_looked_at_is_not_known_and_what_is_wrong_is_open(
    answers: dict[str, Any], way: str, outcome: Outcome
) -> None:
    line = attestation_canary.run(
        FakeKms(encrypt=None, **answers), environment("arn", STACK)
    )
    assert line["attempts"][way] is outcome


class FakeKms:
    """Fails as it is told; by default it denies, and shows a good policy."""

    def __init__(
        self,
        *,
        policy: str | None = None,
        grants: Sequence[dict[str, str]] = (),
        **errors: Exception | None,
    ) -> None:
        self.errors = errors
        self.grants = list(grants)
        self.policy = good_policy() if policy is None else policy

    def get_key_policy(self, **_: Any) -> dict[str, Any]:
        if "get_key_policy" in self.errors:
            self._do("get_key_policy")
        return {"Policy": self.policy}

    def list_grants(self, **_: Any) -> dict[str, Any]:
        if "list_grants" in self.errors:
            self._do("list_grants")
        return {"Grants": self.grants}

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


def good_policy() -> str:
    roles = {
        f"{name}_role": f"arn:aws:iam::{ACCOUNT}:role/{name}"
        for name in ("enclave", "gateway")
    }
    return KeyPolicy(
        measurements=["ab" * 48],
        administrator="a1" * 32,
        deployment="prod-nitro-wallet-eth",
        key_administrator=f"arn:aws:iam::{ACCOUNT}:role/administrator",
        **roles,
    ).text


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
    assert line["attempts"] == {
        "Encrypt": "not_known",
        "Policy": "denied",
        "Grants": "denied",
    }


def test_the_line_is_a_metric_that_the_alarms_ask_for(tmp_path: Path) -> None:
    line = attestation_canary.run(FakeKms(encrypt=None), environment("arn", STACK))
    (metrics,) = line["_aws"]["CloudWatchMetrics"]
    assert metrics["Namespace"] == "nitrosigner"
    assert metrics["Dimensions"] == [["stack"]]
    assert line["stack"] == STACK
    for metric in metrics["Metrics"]:
        assert isinstance(line[metric["Name"]], int)
