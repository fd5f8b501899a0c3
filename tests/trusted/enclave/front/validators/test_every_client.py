"""
What each validator client sends for each duty of each fork, over TLS, is signed.

The spellings are of `fuzz/beacon_duties.py`, read in the clients' sources; the roots are
of an oracle that builds every message a second time.
"""

import dataclasses
import http.client
import json
import random
from typing import Any

import pytest

from nitrosigner.trusted.signing.beacon_domains import ForkVersion
from nitrosigner.trusted.signing.beacon_networks import FORKS
from nitrosigner.wire.manifest import Limits

CLIENTS = (
    *("lighthouse", "lighthouse before the API", "teku", "prysm", "nimbus"),
    *("lodestar", "grandine", "vero"),
)


def posted(connection: Any, path: str, body: str, headers: dict[str, str]) -> Any:
    """As clients do: a connection that was idle for too long is opened again."""
    try:
        connection.request("POST", path, body, headers)
        return connection.getresponse()
    except (OSError, http.client.HTTPException):
        connection.close()
        connection.request("POST", path, body, headers)
        return connection.getresponse()


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_gets_every_duty_of_every_fork_signed(  # noqa: PLR0917
    duty_front: Any, names: Any, verify: Any, oracle: Any, spellings: Any, client: str
) -> None:
    known = duty_front.validators.network
    versions = known.fork_versions | {"gloas": ForkVersion(b"\x07\0\0\x01")}
    duty_front.validators.network = dataclasses.replace(known, fork_versions=versions)
    chain = oracle.Chain(known.genesis_validators_root, versions)
    spelled = spellings.CLIENTS[client]
    headers = {"Content-Type": "application/json"}
    if spelled.accept is not None:
        headers["Accept"] = spelled.accept
    source = random.Random(client)
    connection = duty_front.http()
    for fork in FORKS:
        for kind in sorted(spelled.sends & set(oracle.kinds_of(fork))):
            message = oracle.draw(
                kind,
                fork,
                known.preset.name,
                source,
                chain=chain,
                epoch_of_duty=spelled.epoch_of_duty,
            )
            body = json.dumps(spelled.request(message))
            path = f"/api/v1/eth2/sign/{names[0]}"
            response = posted(connection, path, body, headers)
            answer = response.read().decode()
            assert response.status == 200, (kind, fork, answer)
            if spelled.accept == "application/json":
                answer = json.loads(answer)["signature"]
            assert verify(0, message.signing_root, answer), (kind, fork)
    connection.close()


@pytest.mark.parametrize(("most", "status"), [(1 << 20, 413), (4 << 20, 200)])
def test_a_full_payload_is_signed_where_the_manifest_makes_room_for_it(  # noqa: PLR0917
    start: Any,
    prepare: Any,
    names: Any,
    verify: Any,
    oracle: Any,
    spellings: Any,
    most: int,
    status: int,
) -> None:
    """The API sends an envelope whole, its transactions twice as long in hex."""

    def with_room(running: Any) -> None:
        prepare(running)
        running.limits = Limits(max_connections=24, max_request_bytes=most)

    front = start(with_room)
    known = front.validators.network
    versions = known.fork_versions | {"gloas": b"\x07\0\0\x01"}
    chain = oracle.Chain(known.genesis_validators_root, versions)
    source = random.Random(8)
    message = oracle.draw(
        "EXECUTION_PAYLOAD_ENVELOPE",
        "gloas",
        known.preset.name,
        source,
        chain=chain,
        transactions=[source.randbytes(4000) for _ in range(200)],
    )
    body = spellings.CLIENTS["lighthouse"].request(message)
    said, answer = front.ask(
        "POST",
        f"/api/v1/eth2/sign/{names[0]}",
        body,
        headers={"Accept": "application/json"},
    )
    assert said == status
    if status == 200:
        assert verify(0, message.signing_root, answer["signature"])
    else:
        assert answer["error"]["code"] == "too_large"
