"""What DynamoDB can do to a caller, and that none of it becomes a yes."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from nitrosigner.untrusted.parent import dynamodb_client as dynamodb_client_module
from nitrosigner.untrusted.parent.dynamodb_client import dynamodb_client
from nitrosigner.untrusted.parent.dynamodb_store import DynamoDbStore
from nitrosigner.untrusted.parent.dynamodb_watermarks import DynamoDbWatermarks
from nitrosigner.verdicts import Code, Refused, Undecided
from nitrosigner.wire import services
from nitrosigner.wire.services import (
    Conflict,
    Stored,
    StoredRecord,
    StoredWatermark,
    WatermarkChange,
)

A, B = b"a" * 48, b"b" * 48
WAIT = 30.0


class Between:
    """
    A client with a fault before or after its next calls of one operation.

    `before` faults keep the call from being made; `after` faults lose its answer.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.before: dict[str, list[Any]] = {}
        self.after: dict[str, list[Any]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, operation: str) -> Any:
        def call(**arguments: Any) -> Any:
            self.calls.append((operation, arguments))
            self._strike(self.before, operation)
            answer = getattr(self.client, operation)(**arguments)
            changed = self._strike(self.after, operation, answer)
            return answer if changed is None else changed

        return call

    def _strike(self, faults: Any, operation: str, *given: Any) -> Any:
        if not faults.get(operation):
            return None
        fault = faults[operation].pop(0)
        if isinstance(fault, Exception):
            raise fault
        return fault(*given)

    def made(self, operation: str) -> list[dict[str, Any]]:
        return [arguments for one, arguments in self.calls if one == operation]


def aws_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "CANARY"}}, "X")


LOST = ReadTimeoutError(endpoint_url="CANARY")
FAILURES = [
    LOST,
    aws_error("InternalServerError"),
    aws_error("ProvisionedThroughputExceededException"),
    aws_error("ThrottlingException"),
    aws_error("TransactionConflictException"),
    aws_error("AccessDeniedException"),
    aws_error("ResourceNotFoundException"),
    aws_error("ValidationException"),
]


@pytest.fixture
def client(dynamodb: Any) -> Between:
    return Between(dynamodb)


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def watermarks(client: Between, pauses: list[float]) -> Iterator[DynamoDbWatermarks]:
    store = DynamoDbWatermarks(
        client, table="watermarks", deployment="prod", sleep=pauses.append
    )
    yield store
    store.close()


@pytest.fixture
def records(client: Between) -> DynamoDbStore:
    return DynamoDbStore(client, table="records", deployment="prod")


def advance(store: DynamoDbWatermarks, *changes: tuple[bytes, int, bytes]) -> list[bool]:  # fmt: skip
    return store.advance([WatermarkChange(*one) for one in changes]).result(WAIT)


def read(store: DynamoDbWatermarks, *keys: bytes) -> list[StoredWatermark]:
    found = store.read(keys).result(WAIT)
    return sorted(found, key=lambda item: item.public_key)


# --- watermarks ---


def test_items_have_names_that_a_person_can_read(
    watermarks: DynamoDbWatermarks, client: Between
) -> None:
    advance(watermarks, (A, 0, b"x"))
    (put,) = client.made("put_item")
    assert put["Item"] == {
        "validator": {"S": "prod#0x" + "61" * 48},
        "version": {"N": "1"},
        "data": {"B": b"x"},
    }


def test_deployments_in_one_table_do_not_see_one_another(
    watermarks: DynamoDbWatermarks, client: Between
) -> None:
    other = DynamoDbWatermarks(client, table="watermarks", deployment="prod2")
    assert advance(watermarks, (A, 0, b"x")) == [True]
    assert read(other, A) == []
    assert advance(other, (A, 0, b"y")) == [True]
    assert read(watermarks, A) == [StoredWatermark(A, 1, b"x")]
    other.close()


def test_a_page_has_the_deployments_own_items_and_nobody_elses(
    watermarks: DynamoDbWatermarks, client: Between
) -> None:
    other = DynamoDbWatermarks(client, table="watermarks", deployment="prod2")
    keys = [bytes([0x80 + n]) * 48 for n in range(30)]
    for key in keys:
        assert advance(watermarks, (key, 0, b"x")) == [True]
        assert advance(other, (key, 0, b"y")) == [True]
    # Whatever a person left there under a name like ours.
    for name in ("prod#0xnothing", "prod#0x" + "ab" * 47, "prod#0x" + "AB" * 48):
        client.put_item(TableName="watermarks", Item={"validator": {"S": name}})
    found, after, more = [], None, True
    while more:
        page = watermarks.page(after, 4).result(WAIT)
        assert page.items or not page.more
        found += page.items
        more = page.more
        after = page.items[-1].public_key if page.items else None
    assert sorted(item.public_key for item in found) == keys
    assert {item.data for item in found} == {b"x"}
    other.close()


def test_every_read_is_consistent_and_every_write_conditional(
    watermarks: DynamoDbWatermarks, client: Between
) -> None:
    advance(watermarks, (A, 0, b"x"))
    advance(watermarks, (A, 1, b"y"), (B, 0, b"x"))
    keys = [number.to_bytes(48, "big") for number in range(250)]
    read(watermarks, *keys)
    assert len(client.made("batch_get_item")) == 3
    for call in client.made("batch_get_item"):
        assert call["RequestItems"]["watermarks"]["ConsistentRead"] is True
        assert len(call["RequestItems"]["watermarks"]["Keys"]) <= 100
    assert all("ConditionExpression" in call for call in client.made("put_item"))


@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_a_write_without_an_answer_is_undecided_and_then_read(
    watermarks: DynamoDbWatermarks, client: Between, failure: Exception
) -> None:
    for faults, written in ((client.before, 0), (client.after, 1)):
        key = bytes([written]) * 48
        faults["put_item"] = [failure]
        with pytest.raises(Undecided) as caught:
            advance(watermarks, (key, 0, b"x"))
        assert caught.value.code is Code.STORAGE_UNAVAILABLE
        assert "CANARY" not in str(caught.value) + caught.value.hint
        assert len(read(watermarks, key)) == written


def test_one_lost_answer_makes_its_whole_request_undecided(
    watermarks: DynamoDbWatermarks, client: Between
) -> None:
    keys = [bytes([number]) * 48 for number in range(60)]
    client.after["put_item"] = [lambda _answer: None] * 30 + [LOST]
    with pytest.raises(Undecided):
        advance(watermarks, *((key, 0, b"x") for key in keys))
    # Whatever was written is whole, and nobody was told.
    for item in read(watermarks, *keys):
        assert (item.version, item.data) == (1, b"x")


def test_a_write_that_the_sdk_repeated_is_not_ours_to_claim(
    watermarks: DynamoDbWatermarks, client: Between
) -> None:
    # The SDK's first attempt writes and its answer is lost; its second finds the
    # condition broken, by itself.
    client.before["put_item"] = [lambda: client.client.put_item(**client.calls[-1][1])]
    assert advance(watermarks, (A, 0, b"x")) == [False]
    assert read(watermarks, A) == [StoredWatermark(A, 1, b"x")]


def test_what_a_batch_left_over_is_asked_for_again(
    watermarks: DynamoDbWatermarks, client: Between, pauses: list[float]
) -> None:
    advance(watermarks, (A, 0, b"a"), (B, 0, b"b"))

    def left_over(answer: Any) -> Any:
        found = answer["Responses"]["watermarks"]
        kept = [item for item in found if item["data"]["B"] == b"a"]
        rest = [{"validator": i["validator"]} for i in found if i not in kept]
        return {
            "Responses": {"watermarks": kept},
            "UnprocessedKeys": {"watermarks": {"Keys": rest, "ConsistentRead": True}},
        }

    client.after["batch_get_item"] = [left_over]
    assert len(read(watermarks, A, B)) == 2
    (again,) = client.made("batch_get_item")[1:]
    assert len(again["RequestItems"]["watermarks"]["Keys"]) == 1
    assert again["RequestItems"]["watermarks"]["ConsistentRead"] is True
    assert len(pauses) == 1


def test_a_batch_that_is_never_finished_is_undecided(
    watermarks: DynamoDbWatermarks, client: Between, pauses: list[float]
) -> None:
    def nothing(_answer: Any) -> Any:
        rest = client.calls[-1][1]["RequestItems"]
        return {"Responses": {}, "UnprocessedKeys": rest}

    client.after["batch_get_item"] = [nothing] * 100
    with pytest.raises(Undecided, match="capacity"):
        read(watermarks, A)
    assert 3 < len(pauses) < 20
    assert sum(pauses) < 3  # the enclave does not wait much longer


@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_a_failing_read_is_undecided(
    watermarks: DynamoDbWatermarks, client: Between, failure: Exception
) -> None:
    client.before["batch_get_item"] = [failure]
    with pytest.raises(Undecided) as caught:
        read(watermarks, A)
    assert "CANARY" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"Responses": None},
        {"Responses": {"watermarks": [{}]}},
        {"Responses": {"watermarks": [{"validator": {"S": "prod#0x" + "62" * 48}}]}},
        {"Responses": {"watermarks": [{"validator": {"S": "prod#0x" + "61" * 48}}] * 2}},
    ],
)  # fmt: skip
def test_an_answer_to_another_question_is_undecided(
    watermarks: DynamoDbWatermarks, client: Between, answer: Any
) -> None:
    client.after["batch_get_item"] = [lambda _answer: answer]
    with pytest.raises(Undecided):
        read(watermarks, A)


@pytest.mark.parametrize(
    "edited",
    [
        {},
        {"version": {"N": "1"}},
        {"data": {"B": b"x"}},
        {"version": {"S": "1"}, "data": {"B": b"x"}},
        {"version": {"N": "-1"}, "data": {"B": b"x"}},
        {"version": {"N": "0"}, "data": {"B": b"x"}},
        {"version": {"N": "1.5"}, "data": {"B": b"x"}},
        {"version": {"N": "1e30"}, "data": {"B": b"x"}},
        {"version": {"N": "1"}, "data": {"S": "x"}},
        {"version": {"N": "1"}, "data": {"B": bytes(1025)}},
    ],
)
def test_an_item_that_somebody_edited_harms_only_its_validator(
    watermarks: DynamoDbWatermarks, client: Between, edited: Any
) -> None:
    advance(watermarks, (B, 0, b"b"))
    item = {"validator": {"S": "prod#0x" + A.hex()}} | edited
    client.client.put_item(TableName="watermarks", Item=item)
    foreign, fine = read(watermarks, A, B)
    assert fine == StoredWatermark(B, 1, b"b")
    # It is there, and no enclave takes it for its own.
    assert foreign == StoredWatermark(A, 1, b"\0")
    assert advance(watermarks, (A, 0, b"x")) == [False]


def test_a_request_after_closing_is_undecided(client: Between) -> None:
    store = DynamoDbWatermarks(client, table="watermarks", deployment="prod")
    store.close()
    for answer in (store.read([A]), store.advance([WatermarkChange(A, 0, b"x")])):
        with pytest.raises(Undecided):
            answer.result(WAIT)


# --- tables ---


@pytest.fixture(params=["records", "watermarks"])
def use(request: pytest.FixtureRequest) -> Iterator[Callable[[Any, str], object]]:
    opened: list[DynamoDbWatermarks] = []

    def ask(client: Any, table: str) -> object:
        if request.param == "records":
            return DynamoDbStore(client, table=table, deployment="prod").get(
                "keys", "a"
            )
        opened.append(DynamoDbWatermarks(client, table=table, deployment="prod"))
        return opened[-1].advance([WatermarkChange(A, 0, b"x")]).result(WAIT)

    ask.table = request.param  # type: ignore[attr-defined] # whose right table it is
    yield ask
    for store in opened:
        store.close()


def test_a_table_with_other_keys_is_refused(client: Between, use: Any) -> None:
    other = {"records": "watermarks", "watermarks": "records"}[use.table]
    with pytest.raises(Refused, match="keys"):
        use(client, other)
    assert not client.made("put_item")


def test_a_table_that_two_regions_write_is_refused(client: Between, use: Any) -> None:
    def replicated(consistency: dict[str, str]) -> Callable[[Any], Any]:
        return lambda answer: {
            "Table": answer["Table"]
            | {"Replicas": [{"RegionName": "us-east-1"}]}
            | consistency
        }

    for consistency in ({}, {"MultiRegionConsistency": "EVENTUAL"}):
        client.after["describe_table"] = [replicated(consistency)]
        with pytest.raises(Refused, match="regions"):
            use(client, use.table)
    assert not client.made("put_item")
    client.after["describe_table"] = [replicated({"MultiRegionConsistency": "STRONG"})]
    use(client, use.table)


@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_a_table_that_cannot_be_looked_at_is_undecided_until_it_can(
    client: Between, use: Any, failure: Exception
) -> None:
    client.before["describe_table"] = [failure]
    with pytest.raises(Undecided):
        use(client, use.table)
    assert not client.made("put_item")
    use(client, use.table)


def test_a_table_is_looked_at_once(records: DynamoDbStore, client: Between) -> None:
    for _ in range(3):
        records.get("keys", "a")
    assert len(client.made("describe_table")) == 1


# --- records ---


def test_a_record_is_an_item_with_a_readable_name(
    records: DynamoDbStore, client: Between
) -> None:
    records.put("keys", "alice", 0, b"sealed")
    (put,) = client.made("put_item")
    assert put["Item"] == {
        "deployment": {"S": "prod"},
        "record": {"S": "keys#alice"},
        "version": {"N": "1"},
        "data": {"B": b"sealed"},
    }
    assert all(c["ConsistentRead"] for c in client.made("get_item"))


def test_a_page_follows_a_query_that_was_cut_short(
    records: DynamoDbStore, client: Between
) -> None:
    for number in range(9):
        records.put("keys", f"k{number}", 0, b"x")
    records.put("state", "current", 0, b"x")

    real = client.client

    class Short:
        def __getattr__(self, operation: str) -> Any:
            return getattr(real, operation)

        def query(self, **arguments: Any) -> Any:
            assert arguments["ConsistentRead"] is True
            return real.query(**arguments | {"Limit": min(2, arguments["Limit"])})

    store = DynamoDbStore(Short(), table="records", deployment="prod")
    page = store.page("keys", "", 8)
    assert [record.name for record in page.records] == [f"k{n}" for n in range(8)]
    assert page.more
    page = store.page("keys", "k7", 8)
    assert ([record.name for record in page.records], page.more) == (["k8"], False)


@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_a_record_whose_answer_is_lost_is_undecided_and_repeatable(
    records: DynamoDbStore, client: Between, failure: Exception
) -> None:
    client.after["put_item"] = [failure]
    with pytest.raises(Undecided) as caught:
        records.put("keys", "alice", 0, b"x")
    assert "CANARY" not in str(caught.value) + caught.value.hint
    assert records.put("keys", "alice", 0, b"x") == Stored(1)
    client.after["delete_item"] = [failure]
    with pytest.raises(Undecided):
        records.remove("keys", "alice", 1)
    assert records.remove("keys", "alice", 1) == Conflict(0)
    for operation in ("get_item", "query"):
        client.before[operation] = [failure]
    with pytest.raises(Undecided):
        records.get("keys", "alice")
    with pytest.raises(Undecided):
        records.page("keys", "", 5)


def test_a_record_that_changes_back_meanwhile_is_tried_again(
    records: DynamoDbStore, client: Between
) -> None:
    other = DynamoDbStore(client.client, table="records", deployment="prod")
    other.put("keys", "alice", 0, b"one")
    other.put("keys", "alice", 1, b"two")

    def back() -> None:
        other.remove("keys", "alice", 2)
        other.put("keys", "alice", 0, b"anew")

    client.before["get_item"] = [back]
    # The condition failed on version 2; when we look, it is version 1 again.
    assert records.put("keys", "alice", 1, b"mine") == Stored(2)


@pytest.mark.parametrize(
    "edited",
    [
        {},
        {"version": {"N": "1"}, "data": {"S": "typed in a console"}},
        {"version": {"N": "0"}, "data": {"B": b"x"}},
        {"version": {"N": "1"}, "data": {"B": bytes(services.MAX_RECORD + 1)}},
    ],
)
def test_a_record_that_somebody_edited_is_refused(
    records: DynamoDbStore, client: Between, edited: Any
) -> None:
    key = {"deployment": {"S": "prod"}, "record": {"S": "keys#alice"}}
    client.client.put_item(TableName="records", Item=key | edited)
    for call in (
        lambda: records.get("keys", "alice"),
        lambda: records.put("keys", "alice", 0, b"x"),
        lambda: records.page("keys", "", 10),
    ):
        with pytest.raises(Refused, match="keys#alice"):
            call()


def test_deployments_share_a_table(records: DynamoDbStore, client: Between) -> None:
    other = DynamoDbStore(client, table="records", deployment="prod2")
    records.put("keys", "alice", 0, b"x")
    assert other.get("keys", "alice") is None
    assert other.page("keys", "", 10).records == []
    assert other.put("keys", "alice", 0, b"y") == Stored(1)
    assert records.get("keys", "alice") == StoredRecord("alice", 1, b"x")


# --- over HTTP ---


class Endpoint:
    """A DynamoDB over real HTTP that answers what it is told to, or hangs up."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any] | None] = []
        self.requests: list[tuple[str, Any]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                target = self.headers["x-amz-target"].rpartition(".")[2]
                endpoint.requests.append((target, json.loads(body)))
                answer = endpoint.answers.pop(0)
                if answer is None:
                    self.close_connection = True
                    return
                status, content = answer
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "application/x-amz-json-1.0")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.thread.join()
    made.server.server_close()


def table(*keys: str) -> tuple[int, Any]:
    return 200, {
        "Table": {
            "KeySchema": [
                {"AttributeName": key, "KeyType": kind}
                for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)
            ],
            "AttributeDefinitions": [
                {"AttributeName": key, "AttributeType": "S"} for key in keys
            ],
        }
    }


THROTTLED = (400, {"__type": "ProvisionedThroughputExceededException"})


def test_a_throttled_or_lost_call_is_made_again_by_the_sdk(endpoint: Endpoint) -> None:
    client = dynamodb_client("eu-west-1", endpoint.url, parallel=2)
    store = DynamoDbWatermarks(client, table="watermarks", deployment="prod")
    endpoint.answers = [table("validator"), THROTTLED, None, (200, {})]
    assert advance(store, (A, 0, b"x")) == [True]
    names = [name for name, _ in endpoint.requests]
    assert names == ["DescribeTable"] + ["PutItem"] * 3
    sent = [body for name, body in endpoint.requests if name == "PutItem"]
    assert sent[0] == sent[1] == sent[2]
    assert base64.b64decode(sent[0]["Item"]["data"]["B"]) == b"x"
    assert "attribute_not_exists" in sent[0]["ConditionExpression"]
    endpoint.answers = [THROTTLED] * 3
    with pytest.raises(Undecided):
        advance(store, (A, 1, b"y"))
    assert endpoint.answers == []
    store.close()


def test_signers_that_are_throttled_together_do_not_come_back_together(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours and the SDK's pauses grow, differ each time, and stay within the patience."""
    slept: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time.sleep", slept.append)
    client = dynamodb_client("eu-west-1", endpoint.url, parallel=2)
    for _ in range(20):
        endpoint.answers = [THROTTLED] * 3
        with pytest.raises(ClientError):
            client.get_item(TableName="t", Key={"k": {"S": "x"}})
    client.close()
    first, second = slept[::2], slept[1::2]
    assert len(slept) == 40
    assert len(set(first)) > 10
    assert max(first) <= 1
    assert max(first) < max(second) <= 2

    ours = [list(dynamodb_client_module.pauses()) for _ in range(20)]
    assert len({one[0] for one in ours}) > 10
    assert all(one[-1] > 4 * one[0] for one in ours)
    assert all(sum(one) < 3 for one in ours)


def test_an_endpoint_that_is_not_there_is_undecided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    client = dynamodb_client("eu-west-1", "http://127.0.0.1:1", parallel=1, attempts=1)
    store = DynamoDbWatermarks(client, table="watermarks", deployment="prod")
    with pytest.raises(Undecided, match="reached"):
        read(store, A)
    store.close()
