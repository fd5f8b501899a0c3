"""What is sound only if Secrets Manager's few guarantees are used as they must be."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from nitrosigner.untrusted.parent.secrets_manager_store import (
    LISTING_SECONDS,
    SecretsManagerStore,
    secret_name,
    secrets_manager_client,
)
from nitrosigner.verdicts import Code, Refused, Undecided
from nitrosigner.wire.services import Conflict, Stored, StoredRecord

PREFIX = "nitro/test/"


@pytest.fixture
def store(secrets_manager: Any) -> Iterator[SecretsManagerStore]:
    made = SecretsManagerStore(secrets_manager, prefix=PREFIX)
    yield made
    made._readers.shutdown()


@pytest.fixture
def other(secrets_manager: Any) -> Iterator[SecretsManagerStore]:
    made = SecretsManagerStore(secrets_manager, prefix=PREFIX)
    yield made
    made._readers.shutdown()


def test_each_record_is_a_secret_with_a_readable_name(
    store: SecretsManagerStore, secrets_manager: Any
) -> None:
    store.put("keys", "alice", 0, b"sealed")
    answer = secrets_manager.get_secret_value(SecretId="nitro/test/keys/alice")
    assert answer["SecretBinary"] == b"sealed"
    assert answer["VersionId"] == "nitrosigner-0000000000-0000000000000001"
    assert secret_name(PREFIX, "keys", "alice") == "nitro/test/keys/alice"


def test_a_writer_that_looked_and_then_waited_does_not_overwrite(
    store: SecretsManagerStore, other: SecretsManagerStore, secrets_manager: Any
) -> None:
    store.put("keys", "alice", 0, b"one")

    def overtake() -> None:
        assert other.put("keys", "alice", 1, b"theirs") == Stored(version=2)
        assert other.put("keys", "alice", 2, b"theirs again") == Stored(version=3)

    secrets_manager.before["put_secret_value"] = overtake
    assert store.put("keys", "alice", 1, b"mine") == Conflict(version=3)
    assert store.get("keys", "alice") == StoredRecord("alice", 3, b"theirs again")


def test_two_who_create_at_once_do_not_both_win(
    store: SecretsManagerStore, other: SecretsManagerStore, secrets_manager: Any
) -> None:
    secrets_manager.before["create_secret"] = lambda: other.put(
        "keys", "alice", 0, b"theirs"
    )
    assert store.put("keys", "alice", 0, b"mine") == Conflict(version=1)
    assert store.get("keys", "alice") == StoredRecord("alice", 1, b"theirs")


def test_a_remover_that_looked_and_then_waited_does_not_remove(
    store: SecretsManagerStore, other: SecretsManagerStore, secrets_manager: Any
) -> None:
    store.put("keys", "alice", 0, b"one")
    secrets_manager.before["put_secret_value"] = lambda: other.put(
        "keys", "alice", 1, b"two"
    )
    assert store.remove("keys", "alice", 1) == Conflict(version=2)
    assert store.get("keys", "alice") == StoredRecord("alice", 2, b"two")


def test_a_name_taken_anew_in_the_middle_of_a_removal_is_not_lost(
    store: SecretsManagerStore, other: SecretsManagerStore, secrets_manager: Any
) -> None:
    store.put("keys", "alice", 0, b"old")
    secrets_manager.before["delete_secret"] = lambda: other.put(
        "keys", "alice", 0, b"new"
    )
    assert store.remove("keys", "alice", 1) == Stored(version=0)
    assert store.get("keys", "alice") == StoredRecord("alice", 1, b"new")


def test_a_removal_that_died_halfway_is_a_removal(
    store: SecretsManagerStore, secrets_manager: Any
) -> None:
    store.put("keys", "alice", 0, b"old")

    def die() -> None:
        raise KeyboardInterrupt

    secrets_manager.before["delete_secret"] = die
    with pytest.raises(KeyboardInterrupt):
        store.remove("keys", "alice", 1)
    assert store.get("keys", "alice") is None
    assert store.page("keys", "", 10).records == []
    # Asked again it answers that nothing is there, and deletes what was left.
    assert store.remove("keys", "alice", 1) == Conflict(version=0)
    assert "DeletedDate" in secrets_manager.describe_secret(
        SecretId=PREFIX + "keys/alice"
    )
    assert store.put("keys", "alice", 0, b"new") == Stored(version=1)


def test_a_removed_secret_waits_in_its_recovery_window_with_its_last_content(
    store: SecretsManagerStore, secrets_manager: Any
) -> None:
    store.put("keys", "alice", 0, b"precious")
    store.remove("keys", "alice", 1)
    secrets_manager.restore_secret(SecretId=PREFIX + "keys/alice")
    assert store.get("keys", "alice") is None  # restored by hand it is still removed
    old = secrets_manager.get_secret_value(
        SecretId=PREFIX + "keys/alice", VersionStage="AWSPREVIOUS"
    )
    assert old["SecretBinary"] == b"precious"


def test_a_secret_deleted_by_hand_reads_as_unavailable_not_as_absent(
    store: SecretsManagerStore, secrets_manager: Any
) -> None:
    store.put("vault", "current", 0, b"sealed")
    secrets_manager.delete_secret(SecretId=PREFIX + "vault/current")
    for call in (
        lambda: store.get("vault", "current"),
        lambda: store.put("vault", "current", 0, b"another vault"),
        lambda: store.remove("vault", "current", 1),
    ):
        with pytest.raises(Undecided, match="deleted by someone else"):
            call()
    secrets_manager.restore_secret(SecretId=PREFIX + "vault/current")
    assert store.get("vault", "current") == StoredRecord("current", 1, b"sealed")


def test_a_secret_that_was_made_empty_is_filled(
    store: SecretsManagerStore, secrets_manager: Any
) -> None:
    secrets_manager.create_secret(Name=PREFIX + "vault/current")
    assert store.get("vault", "current") is None
    assert store.put("vault", "current", 0, b"sealed") == Stored(version=1)
    assert store.get("vault", "current") == StoredRecord("current", 1, b"sealed")


def test_a_secret_that_somebody_edited_is_refused(
    store: SecretsManagerStore, secrets_manager: Any
) -> None:
    store.put("keys", "alice", 0, b"sealed")
    secrets_manager.put_secret_value(
        SecretId=PREFIX + "keys/alice", SecretString="typed in a console"
    )
    for call in (
        lambda: store.get("keys", "alice"),
        lambda: store.put("keys", "alice", 1, b"x"),
        lambda: store.remove("keys", "alice", 1),
        lambda: store.page("keys", "", 10),
    ):
        with pytest.raises(Refused, match="nitro/test/keys/alice"):
            call()


def test_secrets_outside_the_prefix_are_not_seen(
    store: SecretsManagerStore, secrets_manager: Any
) -> None:
    secrets_manager.create_secret(Name="nitro/test2/keys/eve", SecretString="x")
    secrets_manager.create_secret(Name="nitro/test/keysafe/eve", SecretString="x")
    secrets_manager.create_secret(Name="other", SecretString="x")
    store.put("keys", "alice", 0, b"sealed")
    assert [r.name for r in store.page("keys", "", 10).records] == ["alice"]


def test_many_secrets_are_listed_once_and_fetched_in_batches(
    store: SecretsManagerStore, secrets_manager: Any
) -> None:
    names = [f"k{number:03}" for number in range(130)]
    for name in names:
        secrets_manager.create_secret(
            Name=PREFIX + "keys/" + name,
            SecretBinary=name.encode(),
            ClientRequestToken="nitrosigner-0000000000-0000000000000001",
        )
    secrets_manager.calls.clear()
    found: list[str] = []
    after, more = "", True
    while more:
        page = store.page("keys", after, 50)
        found += [record.name for record in page.records]
        after, more = page.records[-1].name, page.more
    assert found == names
    assert secrets_manager.calls.count("get_paginator") == 1
    assert secrets_manager.calls.count("batch_get_secret_value") <= 9
    assert "get_secret_value" not in secrets_manager.calls


def test_a_listing_is_made_anew_when_it_is_old(secrets_manager: Any) -> None:
    now = [0.0]
    store = SecretsManagerStore(
        secrets_manager, prefix=PREFIX, monotonic=lambda: now[0] + 1
    )
    for name in ("a", "b", "c"):
        store.put("keys", name, 0, b"x")
    store.page("keys", "", 1)
    secrets_manager.calls.clear()
    store.page("keys", "a", 1)
    assert "get_paginator" not in secrets_manager.calls
    now[0] += LISTING_SECONDS + 1
    store.page("keys", "a", 1)
    assert "get_paginator" in secrets_manager.calls
    store._readers.shutdown()


def test_what_was_removed_since_the_listing_is_left_out(
    store: SecretsManagerStore, other: SecretsManagerStore
) -> None:
    for name in ("a", "b", "c", "d"):
        store.put("keys", name, 0, b"x")
    assert [r.name for r in store.page("keys", "", 1).records] == ["a"]
    other.remove("keys", "b", 1)
    assert [r.name for r in store.page("keys", "a", 5).records] == ["c", "d"]


def test_our_own_new_record_is_found_though_the_listing_lags(
    store: SecretsManagerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_list", lambda folder: [])
    store.put("keys", "new", 0, b"x")
    assert [r.name for r in store.page("keys", "", 5).records] == ["new"]


class Faulty:
    """An endpoint that answers with what it is told to, over real HTTP."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.requests = 0
        faulty = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                faulty.requests += 1
                self.rfile.read(int(self.headers["content-length"]))
                status, body = (
                    faulty.answers.pop(0)
                    if len(faulty.answers) > 1
                    else faulty.answers[0]
                )
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/x-amz-json-1.1")
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
def faulty(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Faulty, Callable[[int], SecretsManagerStore]]]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    endpoint = Faulty()
    stores: list[SecretsManagerStore] = []

    def open_store(attempts: int) -> SecretsManagerStore:
        client = secrets_manager_client("eu-west-1", endpoint.url, attempts=attempts)
        stores.append(SecretsManagerStore(client, prefix=PREFIX))
        return stores[-1]

    yield endpoint, open_store
    for store in stores:
        store.close()
    endpoint.server.shutdown()
    endpoint.thread.join()
    endpoint.server.server_close()


THROTTLED = (400, {"__type": "ThrottlingException", "message": "Rate exceeded"})


def test_a_throttled_call_is_made_again(faulty: Any) -> None:
    endpoint, open_store = faulty
    endpoint.answers = [THROTTLED, (400, {"__type": "ResourceNotFoundException"})]
    assert open_store(2).get("keys", "alice") is None
    assert endpoint.requests == 2


@pytest.mark.parametrize(
    "answer",
    [
        THROTTLED,
        (500, {"__type": "InternalServiceError", "message": "secret detail"}),
        (400, {"__type": "AccessDeniedException", "message": "secret detail"}),
        (400, {"__type": "DecryptionFailure", "message": "secret detail"}),
        (200, {"nonsense": True}),
    ],
)
def test_whatever_goes_wrong_is_undecided_and_says_nothing_of_the_cause(
    faulty: Any, answer: Any
) -> None:
    endpoint, open_store = faulty
    endpoint.answers = [answer]
    store = open_store(1)
    for call in (
        lambda: store.get("keys", "alice"),
        lambda: store.page("keys", "", 10),
        lambda: store.put("keys", "alice", 0, b"x"),
        lambda: store.remove("keys", "alice", 1),
    ):
        with pytest.raises(Undecided) as caught:
            call()
        assert caught.value.code is Code.STORAGE_UNAVAILABLE
        assert "secret detail" not in str(caught.value) + caught.value.hint


def test_an_endpoint_that_is_not_there_is_undecided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    client = secrets_manager_client("eu-west-1", "http://127.0.0.1:1", attempts=1)
    store = SecretsManagerStore(client, prefix=PREFIX)
    with pytest.raises(Undecided, match="reached"):
        store.get("keys", "alice")
    store.close()
