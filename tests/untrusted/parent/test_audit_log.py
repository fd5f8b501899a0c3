"""The audit log loses no whole line and shows no half one."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nitrosigner.untrusted.parent.audit_log import AuditLog
from nitrosigner.verdicts import Code, Refused, Undecided

WRITER = """
import json, sys
from pathlib import Path
from nitrosigner.untrusted.parent.audit_log import AuditLog
log = AuditLog(Path(sys.argv[1]))
number = int(sys.argv[2])
while True:
    log.append([json.dumps({"n": number + i, "pad": "x" * 500}).encode() for i in range(5)])
    number += 5
    print(number, flush=True)
"""

FILLER = """
import json, resource, sys
from pathlib import Path
from nitrosigner.untrusted.parent.audit_log import AuditLog
from nitrosigner.verdicts import Undecided
log = AuditLog(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
count = 0
try:
    while True:
        log.append([json.dumps({"n": count, "pad": "x" * 300}).encode()] * 3)
        count += 1
except Undecided as verdict:
    print(verdict.code, count)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "audit.jsonl"


def events(*numbers: int) -> list[bytes]:
    return [json.dumps({"n": number}).encode() for number in numbers]


def read(path: Path) -> list[int]:
    data = path.read_bytes()
    assert not data or data.endswith(b"\n")
    return [json.loads(line)["n"] for line in data.splitlines()]


def test_events_are_lines_in_their_order(path: Path) -> None:
    log = AuditLog(path)
    log.append(events(1, 2))
    log.append([])
    log.append(events(3))
    log.close()
    assert read(path) == [1, 2, 3]
    assert path.stat().st_mode & 0o777 == 0o600


def test_each_write_is_on_the_disk_when_it_returns(path: Path) -> None:
    log = AuditLog(path, rotate_bytes=1)
    for _ in range(2):  # the second time into a fresh file
        log.append(events(1))
        assert fcntl.fcntl(log._file, fcntl.F_GETFL) & os.O_DSYNC
    log.close()


def test_a_log_is_continued(path: Path) -> None:
    for number in range(3):
        log = AuditLog(path)
        log.append(events(number))
        log.close()
    assert read(path) == [0, 1, 2]


@pytest.mark.parametrize(
    "torn", [b"{", b'{"n": 3', b'{"n": 3, "pad": "' + b"x" * 200_000]
)
def test_a_torn_last_line_is_cut_off_and_whole_ones_stay(
    path: Path, torn: bytes
) -> None:
    log = AuditLog(path)
    log.append(events(1, 2))
    log.close()
    with path.open("ab") as file:
        file.write(torn)
    told: list[int] = []
    log = AuditLog(path, on_repaired=told.append)
    assert told == [len(torn)]
    log.append(events(3))
    log.close()
    assert read(path) == [1, 2, 3]


def test_a_whole_last_line_without_its_end_stays(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"n": 1}\n{"n": 2}')
    told: list[int] = []
    log = AuditLog(path, on_repaired=told.append)
    log.append(events(3))
    log.close()
    assert read(path) == [1, 2, 3]
    assert told == []


def test_a_file_that_is_one_torn_line_becomes_empty(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"garbage")
    AuditLog(path).close()
    assert path.read_bytes() == b""


def test_every_acknowledged_event_survives_kill_9(path: Path) -> None:
    start = 0
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(start)],
            stdout=subprocess.PIPE,
        ) as writer:
            assert writer.stdout is not None
            for _ in range(20):
                line = writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read()
        acknowledged = int((line + rest).split(b"\n")[-2])
        AuditLog(path).close()
        found = read(path)
        assert found == list(range(len(found)))
        assert len(found) >= acknowledged
        start = len(found)


def test_a_batch_that_does_not_fit_on_the_disk_leaves_no_part_of_itself(
    path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILLER, str(path)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    code, count = done.stdout.decode().split()
    assert code == "audit_unavailable"
    assert read(path) == [n for number in range(int(count)) for n in [number] * 3]
    log = AuditLog(path)
    log.append(events(99))  # with space again, it goes on
    log.close()
    assert read(path)[-1] == 99


def test_a_second_writer_is_refused(path: Path) -> None:
    log = AuditLog(path)
    with pytest.raises(Refused, match="another process"):
        AuditLog(path)
    log.close()
    AuditLog(path).close()


def test_a_full_file_is_set_aside_and_nothing_is_lost(path: Path) -> None:
    told: list[bool] = []
    log = AuditLog(path, rotate_bytes=100, on_rotated=lambda: told.append(True))
    for number in range(30):
        log.append(events(number))
    log.close()
    older = sorted(path.parent.glob("audit.jsonl.*"))
    assert older[0].name == "audit.jsonl.000001"
    assert len(older) == len(told) >= 2
    assert [n for file in [*older, path] for n in read(file)] == list(range(30))
    log = AuditLog(path, rotate_bytes=1)
    log.append(events(30))
    log.close()
    older = sorted(path.parent.glob("audit.jsonl.*"))
    assert [n for file in [*older, path] for n in read(file)] == list(range(31))


def test_a_log_that_cannot_be_opened_is_undecided(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Undecided) as caught:
        AuditLog(tmp_path / "file" / "audit.jsonl")
    assert caught.value.code is Code.AUDIT_UNAVAILABLE


def test_a_symbolic_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(Undecided):
        AuditLog(path)
    assert not (tmp_path / "elsewhere").exists()
