"""A short run of `fuzz/image_files.py`; a long one is started by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "fuzz/image_files.py"


@pytest.mark.parametrize("target", ["eif", "ramdisk", "policy"])
def test_altered_files_get_a_verdict_and_nothing_worse(
    target: str, tmp_path: Path
) -> None:
    run = subprocess.run(
        [sys.executable, str(FUZZ), "--seconds", "3", "--seed", "4", target],
        check=False,
        capture_output=True,
        text=True,
        timeout=250,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.splitlines()[-1].split()[0]) > 50
