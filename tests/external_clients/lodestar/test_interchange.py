"""What we export, a validator client's own slashing protection takes and obeys."""

import json
import subprocess
from pathlib import Path

from nitrosigner.trusted.signing import interchange
from nitrosigner.trusted.signing.beacon_domains import GenesisValidatorsRoot
from nitrosigner.trusted.signing.slashing import (
    Epoch,
    Proposed,
    SigningRoot,
    Slot,
    Voted,
    Watermark,
)

HERE = Path(__file__).parent
CHAIN = GenesisValidatorsRoot(b"\x04" * 32)
KEYS = [b"\xa1" * 48, b"\xa2" * 48]


def test_lodestar_signs_nothing_behind_what_we_exported(tmp_path: Path) -> None:
    reached = Watermark(
        proposed=Proposed(slot=Slot(100), signing_root=SigningRoot(b"\x11" * 32)),
        voted=Voted(source=Epoch(20), target=Epoch(21), signing_root=None),
    )
    file, out = tmp_path / "history.json", tmp_path / "again.json"
    history = {KEYS[0]: reached, KEYS[1]: Watermark()}
    file.write_bytes(interchange.write(history, CHAIN))
    ran = subprocess.run(
        ["node", HERE / "import_history.mjs", file, tmp_path / "database", out],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert json.loads(ran.stdout.splitlines()[-1]) == ["block 101", "vote 21 22"]
    # And the way back.
    back = interchange.read(out.read_bytes(), CHAIN)[KEYS[0]]
    assert back.proposed is not None
    assert back.voted is not None
    assert back.proposed.slot == 101
    assert (back.voted.source, back.voted.target) == (21, 22)
