"""A real validator client lives on our signer; a second one gets nothing slashable."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.emulator.beacon_chain import INTEROP_GENESIS_VALIDATORS_ROOT

SLOTS_PER_EPOCH = 8
CONTESTED = 9
"""Slots in which two clients ask."""
BEHIND = 5
"""Slots in a row without a block. Behind by more than 8, a node of this Lodestar waits for
peers and answers its clients no more; so by then the rival has won often enough."""
pytestmark = pytest.mark.timeout(500)


def slashable_pairs(signed: list[dict[str, Any]]) -> list[str]:
    """
    Find what a slasher would (consensus-specs, phase0: is_slashable_attestation_data
    and process_proposer_slashing), in the audit log's events.
    """
    found = []
    proposals: dict[tuple[str, int], set[str]] = defaultdict(set)
    votes: dict[str, dict[tuple[int, int], set[str]]] = defaultdict(dict)
    for one in signed:
        if "slot" in one:
            proposals[one["key"], one["slot"]].add(one["digest"])
        elif "target" in one:
            edge = (one["source"], one["target"])
            votes[one["key"]].setdefault(edge, set()).add(one["digest"])
    found += [f"two blocks: {at}" for at, roots in proposals.items() if len(roots) > 1]
    for key, edges in votes.items():
        roots = Counter(target for (_, target), some in edges.items() for _ in some)
        found += [f"two votes: {key} {at}" for at, many in roots.items() if many > 1]
        for source, target in edges:
            found += [
                f"surrounded: {key} {source}-{target} {other}"
                for other in edges
                if source < other[0] and other[1] < target
            ]
    return found


def test_the_judge_sees_what_is_slashable() -> None:
    block = {"key": "a", "slot": 5, "digest": "1"}
    vote = {"key": "a", "source": 1, "target": 4, "digest": "1"}
    assert slashable_pairs([block, block, vote, vote]) == []
    assert slashable_pairs([block, block | {"key": "b", "digest": "2"}]) == []
    assert slashable_pairs([block, block | {"digest": "2"}])
    assert slashable_pairs([vote, vote | {"digest": "2"}])
    assert slashable_pairs([vote, vote | {"source": 0, "digest": "2"}])
    assert slashable_pairs([vote, {**vote, "source": 2, "target": 3, "digest": "2"}])


def test_rivals_get_nothing_slashable_and_a_chain_lives_on_our_signatures(
    setting: Any, start_client: Any, until: Any
) -> None:
    ours, theirs = setting.nodes
    genesis = ours.get("/eth/v1/beacon/genesis")
    assert genesis["genesis_validators_root"] == "0x" + INTEROP_GENESIS_VALIDATORS_ROOT

    # 1. Two clients with the same keys on two chains that do not know each other: each
    # asks for what would be slashed together with what the other asks for. The second
    # needs the signer's URL with its token, and the CA file; nothing else.
    files = setting.stack.ready.clients["validator"]
    token = Path(files.token_file).read_text().strip()
    url = setting.stack.ready.url.replace("https://", f"https://validator:{token}@")
    client = start_client("client-a", ours, setting.witness.url)
    rival = start_client(
        "client-b", theirs, url, NODE_EXTRA_CA_CERTS=setting.stack.ready.ca
    )

    def running() -> None:
        client.check()
        rival.check()

    def contested() -> bool:
        running()
        enough = ours.slot > CONTESTED or ours.slot - ours.head >= BEHIND
        return refused(setting) >= {"ATTESTATION", "BLOCK_V2"} and enough

    told = lambda: story(setting, client)  # noqa: E731
    until(contested, "both clients ask for everything", 150, told)
    rival.kill()
    alone = ours.slot + 1

    # 2. One client is left, and its chain recovers: every block and vote is ours.
    def justified() -> bool:
        client.check()
        return bool(ours.justified * SLOTS_PER_EPOCH > alone)

    until(justified, "an epoch is justified", 180, told)
    check_blocks(setting, ours.blocks(ours.head), alone)

    # 3. What left the signer, whoever asked.
    client.kill()
    until(lambda: not unrecorded(setting), "every signature is in the audit log", 30)
    events = setting.audit()
    signed = [event for event in events if event["outcome"] == "signed"]
    assert slashable_pairs(signed) == []
    refusals = Counter(e["code"] for e in events if e["outcome"] != "signed")
    assert refusals.keys() == {"slashable"}
    duties = Counter(event["duty"] for event in signed)
    assert duties.keys() >= {
        "AGGREGATION_SLOT",
        "AGGREGATE_AND_PROOF",
        "ATTESTATION",
        "BLOCK_V2",
        "RANDAO_REVEAL",
        "SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF",
        "SYNC_COMMITTEE_MESSAGE",
        "SYNC_COMMITTEE_SELECTION_PROOF",
    }
    check_answers(setting)
    print(json.dumps({"head": ours.head, "signed": duties, "refused": refusals}))


def story(setting: Any, client: Any) -> str:
    """What there is to look at when a chain does not recover."""
    asked = Counter((one.body["type"], one.status) for one in setting.witness.asked)
    ours = setting.nodes[0]
    return (
        f"slot {ours.slot}, head {ours.head}, justified {ours.justified}, "
        f"asked {dict(asked)}\n{client.log[-5000:]}\n{ours.log[-5000:]}"
    )


def check_blocks(setting: Any, blocks: list[dict[str, Any]], alone: int) -> None:
    """Each block of the chain, and each vote in it, was signed by our enclave."""
    slots = [int(block["message"]["slot"]) for block in blocks]
    uncontested = [slot for slot in slots if slot > alone]
    witness = setting.witness
    # A busy machine may be too late for a slot. We are not what a block fails by.
    asked = range(alone + 1, slots[-1] + 1)
    gaps = set(asked) - set(uncontested)
    assert len(gaps) <= len(asked) // 4, "the chain has gaps"
    assert not gaps & {slot_of(one) for one in witness.asked if one.status != 200}
    block_signatures = {
        json.loads(one.answer)["signature"] for one in witness.signed("BLOCK_V2")
    }
    assert {block["signature"] for block in blocks} <= block_signatures
    votes = {
        json.dumps(one.body["attestation"], sort_keys=True)
        for one in witness.signed("ATTESTATION")
    }
    included = [
        vote["data"]
        for block in blocks
        for vote in block["message"]["body"]["attestations"]
    ]
    assert len(included) > len(uncontested) // 2
    assert {json.dumps(data, sort_keys=True) for data in included} <= votes


def slot_of(one: Any) -> int | None:
    """The slot of the block that was asked for."""
    if one.body["type"] != "BLOCK_V2":
        return None
    block = one.body["beacon_block"]
    return int((block.get("block") or block["block_header"])["slot"])


def refused(setting: Any) -> set[str]:
    return {e["duty"] for e in setting.audit() if e.get("code") == "slashable"}


def signatures(setting: Any) -> set[tuple[str, str]]:
    """The keys and signing roots of what the witness saw signed."""
    return {
        (one.public_key, one.body["signingRoot"].removeprefix("0x"))
        for one in setting.witness.asked
        if one.status == 200
    }


def unrecorded(setting: Any) -> set[tuple[str, str]]:
    """What was signed, and the audit log does not know."""
    return signatures(setting) - {
        (event["key"], event["digest"])
        for event in setting.audit()
        if event["outcome"] == "signed"
    }


def check_answers(setting: Any) -> None:
    """A refusal has no signature, and nobody got two for one slot or target."""
    roots: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for one in setting.witness.asked:
        if one.status != 200:
            assert one.status == 412, one.answer
            assert "signature" not in json.loads(one.answer)
            continue
        root = one.body["signingRoot"]
        if one.body["type"] == "BLOCK_V2":
            roots[one.public_key, "slot", str(slot_of(one))].add(root)
        elif one.body["type"] == "ATTESTATION":
            target = one.body["attestation"]["target"]["epoch"]
            roots[one.public_key, "target", target].add(root)
    assert roots
    assert all(len(some) == 1 for some in roots.values())
