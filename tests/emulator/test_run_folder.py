"""Sockets get short paths, and nothing of a run is left behind."""

import stat
from pathlib import Path

import pytest

from nitrosigner.emulator.data_folder import DataFolder, is_ours, make_private
from nitrosigner.emulator.run_folder import LONGEST_NAME, MAX_SOCKET_PATH, run_folder


def folder_of(path: Path) -> DataFolder:
    folder = DataFolder(path)
    make_private(folder.emulator)
    return folder


@pytest.mark.parametrize("depth", [1, 40])
def test_a_socket_fits_however_deep_the_data_folder_lies(
    tmp_path: Path, depth: int
) -> None:
    folder = folder_of(tmp_path.joinpath(*["deep"] * depth))
    with run_folder(folder) as run:
        assert len(str(run / LONGEST_NAME)) <= MAX_SOCKET_PATH
        assert stat.S_IMODE(run.stat().st_mode) == 0o700
        (run / "vsock").mkdir()
    assert not run.exists()


def test_what_a_killed_run_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    folder = folder_of(tmp_path.joinpath(*["deep"] * 40))
    killed = run_folder(folder)
    left = killed.__enter__()
    (left / "socket").touch()
    with run_folder(folder) as run:
        assert run != left
        assert not left.exists()


def test_only_folders_of_ours_are_ever_cleared(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data")
    precious = tmp_path / "precious"
    precious.mkdir()
    (folder.emulator / "run-folder").write_text(str(precious))
    with run_folder(folder):
        pass
    assert precious.exists()


def test_a_folder_with_somebodys_files_is_not_ours(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    assert is_ours(folder)
    folder.logs.mkdir()
    assert is_ours(folder)
    (tmp_path / "thesis.tex").touch()
    assert not is_ours(folder)
    (tmp_path / "lock").touch()
    assert is_ours(folder)
