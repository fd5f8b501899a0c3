"""The search finds what was planted, in every spelling and place: or proves nothing."""

import base64
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nitrosigner.emulator import plaintext_search
from nitrosigner.emulator.plaintext_search import search, spellings

SECRET = bytes.fromhex(
    "b25c7db31feed9122727bf0939dc769a96564b2de4c4726d035b36ecf1e5b364"
)


@pytest.mark.parametrize("before", range(6))
@pytest.mark.parametrize(
    "spell",
    [
        lambda text: text,
        lambda text: text.hex().encode(),
        lambda text: text.hex().upper().encode(),
        base64.b64encode,
        base64.urlsafe_b64encode,
    ],
)
def test_a_planted_secret_is_found(
    tmp_path: Path, spell: Callable[[bytes], bytes], before: int
) -> None:
    text = secrets.token_bytes(before) + SECRET + secrets.token_bytes(5)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"head" + spell(text) + b"tail")
    assert search([SECRET], folders=[tmp_path]).findings


def test_a_decimal_secret_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(f"d = {int.from_bytes(SECRET)};")
    assert [f.spelling for f in search([SECRET], folders=[tmp_path]).findings] == [
        "decimal"
    ]


def test_a_secret_across_a_border_of_chunks_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plaintext_search, "_CHUNK", 64)
    (tmp_path / "file").write_bytes(b"x" * 50 + SECRET + b"y" * 100)
    assert search([SECRET], folders=[tmp_path]).findings


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(secrets.token_bytes(1 << 16))
    searched = search([SECRET], folders=[tmp_path])
    assert (searched.findings, searched.places, searched.size) == ((), 1, 1 << 16)


def test_a_secret_in_a_process_is_found_by_argument_environment_and_memory() -> None:
    source = (
        "import sys; kept = bytes(b ^ 255 for b in bytes.fromhex(sys.stdin.readline()));"
        "print(flush=True); sys.stdin.readline()"
    )
    masked = bytes(b ^ 255 for b in SECRET).hex().encode()
    with subprocess.Popen(
        [sys.executable, "-c", source, SECRET.hex()],
        env={"KEY": SECRET.hex()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(masked + b"\n")
        process.stdin.flush()
        process.stdout.readline()
        searched = search([SECRET], processes=[process.pid], memories=[process.pid])
        process.stdin.close()
    places = {finding.place.rpartition("/")[2] for finding in searched.findings}
    if searched.closed:
        pytest.skip("the system does not let us read another process's memory")
    assert places == {"cmdline", "environ", "mem"}


def test_no_spelling_is_so_short_that_chance_could_find_it() -> None:
    assert min(len(needle) for needle in spellings(SECRET).values()) >= 32
