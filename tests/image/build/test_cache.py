"""A cache may be old, altered or gone; it never decides what is built."""

import hashlib
from pathlib import Path

import pytest

from nitrosigner.image.build.cache_folder import default_cache, put, taken, turn
from nitrosigner.image.build.commands import need_commands, run
from nitrosigner.image.build.not_built import NotBuilt

DATA = b"content"
HASH = hashlib.sha256(DATA).hexdigest()


def test_what_is_there_and_right_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "file"
    assert not taken(path, HASH)
    put(path, DATA)
    assert taken(path, HASH)
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_was_altered_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    put(path, DATA + b"!")
    assert not taken(path, HASH)
    assert not path.exists()


def test_the_folder_follows_xdg() -> None:
    assert default_cache({"XDG_CACHE_HOME": "/x"}) == Path("/x/nitrosigner")
    home = Path.home() / ".cache" / "nitrosigner"
    assert default_cache({}) == home
    assert default_cache({"XDG_CACHE_HOME": "relative"}) == home


def test_a_cache_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotBuilt, match="cache"), turn(tmp_path / "file", "x"):
        pass


def test_a_missing_program_names_what_to_install() -> None:
    with pytest.raises(NotBuilt) as told:
        need_commands(["sh", "no-such-program"], ["some-package"], "it is needed")
    assert "no-such-program" in told.value.message
    assert "apt-get install some-package" in told.value.hint


def test_a_program_that_fails_shows_its_last_lines() -> None:
    with pytest.raises(NotBuilt, match="line 40") as told:
        run(["sh", "-c", "seq -f 'line %g' 40; exit 3"], what="counting")
    assert "status 3" in told.value.message
    assert "line 9\n" not in told.value.message


def test_a_program_that_is_not_there_is_said_so() -> None:
    with pytest.raises(NotBuilt, match="No such file"):
        run(["no-such-program"], what="trying")
