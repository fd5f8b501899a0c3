"""A real validator client lives on our signer; a second one gets nothing slashable."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.emulator.beacon_chain import INTEROP_GENESIS_VALIDATORS_ROOT

JUSTIFIED = 2
"""Epochs. More than two thirds of all voted twice, and their votes are in blocks."""
RIVALRY_SECONDS = 60
pytestmark = pytest.mark.timeout(290)


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


def test_a_chain_lives_on_our_signatures_and_a_rival_gets_none(
    setting: Any, start_client: Any, until: Any
) -> None:
    ours, rivals = setting.nodes
    genesis = ours.get("/eth/v1/beacon/genesis")
    assert genesis["genesis_validators_root"] == "0x" + INTEROP_GENESIS_VALIDATORS_ROOT

    # 1. A chain whose every signature is ours.
    first = start_client("client-a", ours, setting.witness.url)
    until(lambda: ours.justified >= JUSTIFIED, "an epoch is justified", 140)
    head = ours.head
    check_blocks(setting, ours.blocks(head), head)

    # 2. A second client with the same keys, on another chain of the same genesis. It
    # needs the signer's URL with the token, and the CA file; nothing else.
    files = setting.stack.ready.clients["validator"]
    token = Path(files.token_file).read_text().strip()
    url = setting.stack.ready.url.replace("https://", f"https://validator:{token}@")
    before = len(setting.audit())
    rival = start_client(
        "client-b", rivals, url, NODE_EXTRA_CA_CERTS=setting.stack.ready.ca
    )
    until(lambda: refused(setting, before) >= {"ATTESTATION", "BLOCK_V2"}, "412s", 90)
    until(lambda: ours.head >= head + 10, "our chain goes on", RIVALRY_SECONDS)
    first.check()
    rival.check()

    # 3. What left the signer, whoever asked.
    events = setting.audit()
    signed = [event for event in events if event["outcome"] == "signed"]
    assert slashable_pairs(signed) == []
    refusals = [e for e in events if e["outcome"] != "signed" and e["code"]]
    assert {e["code"] for e in refusals} <= {"slashable"}
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
    answers_agree_with_the_audit_log(setting, signed)
    print(json.dumps({"signed": duties, "refused": len(refusals), "head": ours.head}))


def check_blocks(setting: Any, blocks: list[dict[str, Any]], head: int) -> None:
    """Each block of the chain, and each vote in it, was signed by our enclave."""
    assert len(blocks) >= head - 2, "the chain has gaps"
    witness = setting.witness
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
    assert len(included) > head // 2
    assert {json.dumps(data, sort_keys=True) for data in included} <= votes


def refused(setting: Any, after: int) -> set[str]:
    return {
        event["duty"]
        for event in setting.audit()[after:]
        if event.get("code") == "slashable"
    }


def answers_agree_with_the_audit_log(
    setting: Any, signed: list[dict[str, Any]]
) -> None:
    """No signature left unrecorded, and nobody got two for one slot or target."""
    recorded = {(event["key"], event["digest"]) for event in signed}
    roots: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for one in setting.witness.asked:
        if one.status != 200:
            assert one.status == 412, one.answer
            assert "signature" not in json.loads(one.answer)
            continue
        root = one.body["signingRoot"].removeprefix("0x")
        assert (one.public_key, root) in recorded
        if one.body["type"] == "BLOCK_V2":
            block = one.body["beacon_block"]
            slot = (block.get("block") or block["block_header"])["slot"]
            roots[one.public_key, "slot", slot].add(root)
        elif one.body["type"] == "ATTESTATION":
            target = one.body["attestation"]["target"]["epoch"]
            roots[one.public_key, "target", target].add(root)
    assert roots
    assert all(len(some) == 1 for some in roots.values())
