"""A short run of `fuzz/signing.py`; a long one is started by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[3] / "fuzz" / "signing.py"


@pytest.mark.parametrize("target", ["transaction", "typed-data", "address"])
def test_spoiled_input_gets_a_verdict_or_the_right_answer(target: str) -> None:
    run = subprocess.run(
        [
            *(sys.executable, str(FUZZ), "--target", target),
            *("--cases", "3000", "--seconds", "30", "--seed", "1"),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    name, count, _ = run.stdout.split()
    assert name == f"{target}:"
    assert int(count) > 100
