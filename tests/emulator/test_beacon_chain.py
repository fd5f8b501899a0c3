"""Which beacon chain a local stack is told, from what its user has at hand."""

import json
from pathlib import Path

import msgspec
import pytest

from nitrosigner.emulator.beacon_chain import (
    INTEROP_GENESIS_VALIDATORS_ROOT,
    Preset,
    validators,
)
from nitrosigner.trusted.signing.beacon_networks import PUBLIC_NETWORKS
from nitrosigner.verdicts import Malformed
from nitrosigner.wire.manifest_validators import Validators

ROOT = "0x" + "ab" * 32
CONFIG = """\
# Extends the mainnet preset
PRESET_BASE: 'minimal'  # "minimal"
CONFIG_NAME: "kurtosis-1"
GENESIS_FORK_VERSION: 0x10000038
ALTAIR_FORK_VERSION: 0x20000038
BELLATRIX_FORK_VERSION: 0x30000038
CAPELLA_FORK_VERSION: 0x40000038
EIP7594_FORK_VERSION: 0x99000038
BLOB_SCHEDULE:
  - EPOCH: 0
    MAX_BLOBS_PER_BLOCK: 6
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def test_mainnet_alone_is_ethereums_chain() -> None:
    assert validators("mainnet", None, None) == Validators(network="mainnet")


@pytest.mark.parametrize("name", PUBLIC_NETWORKS)
def test_a_public_chain_is_known_by_its_genesis(name: str) -> None:
    root = PUBLIC_NETWORKS[name].genesis_validators_root.hex()
    assert validators("mainnet", None, root.upper()) == Validators(network=name)


def test_minimal_alone_is_the_chain_of_the_interop_keys() -> None:
    made = validators("minimal", None, None)
    assert made.custom is not None
    assert made.custom.preset == "minimal"
    assert made.custom.genesis_validators_root == INTEROP_GENESIS_VALIDATORS_ROOT
    assert made.custom.fork_versions["phase0"] == "00000001"
    assert made.custom.fork_versions["capella"] == "03000001"


def test_another_chain_is_read_from_its_configuration(config: Path) -> None:
    made = validators("minimal", config, ROOT)
    assert made.network == "kurtosis-1"
    assert made.custom is not None
    assert made.custom.genesis_validators_root == "ab" * 32
    assert made.custom.fork_versions == {
        "phase0": "10000038",
        "altair": "20000038",
        "bellatrix": "30000038",
        "capella": "40000038",
    }


def test_what_a_beacon_node_answers_is_taken_too(config: Path) -> None:
    same = validators("minimal", config, ROOT)
    spec = dict(line.split(": ") for line in CONFIG.splitlines()[3:7])
    spec |= {"PRESET_BASE": "minimal", "CONFIG_NAME": "kurtosis-1"}
    config.write_text(json.dumps({"data": {**spec, "BLOB_SCHEDULE": []}}))
    assert validators("minimal", config, ROOT) == same


@pytest.mark.parametrize(
    ("preset", "text", "root"),
    [
        ("mainnet", None, ROOT),
        ("minimal", None, "0x12"),
        ("minimal", CONFIG, None),
        ("mainnet", CONFIG, ROOT),
        ("minimal", CONFIG.replace("CAPELLA_F", "F"), ROOT),
        ("minimal", CONFIG.replace("0x20000038", "2"), ROOT),
        ("minimal", "{", ROOT),
        ("minimal", "{" * 10_000, ROOT),
        ("minimal", '{"data": []}', ROOT),
        ("minimal", "\ud800", ROOT),
        ("minimal", "#" * 300_000, ROOT),
    ],
)
def test_what_is_no_chain_is_refused(
    tmp_path: Path, preset: Preset, text: str | None, root: str | None
) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(Malformed):
        validators(preset, path if text is not None else None, root)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match=r"absent\.yaml"):
        validators("minimal", tmp_path / "absent.yaml", ROOT)


def test_what_is_made_fits_in_a_manifest(config: Path) -> None:
    made = validators("minimal", config, ROOT)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Validators) == made
