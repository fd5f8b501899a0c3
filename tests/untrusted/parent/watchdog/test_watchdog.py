"""The watchdog as a process: what it starts, what it notices, how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

Kennel = Any


@pytest.fixture
def serving(kennel: Kennel) -> Kennel:
    kennel.start()
    kennel.until_phase("serving")
    return kennel


def test_it_starts_the_enclave_and_waits_until_it_is_ready(kennel: Kennel) -> None:
    kennel.health("never")
    kennel.start()
    kennel.until_phase("booting")
    (call,) = kennel.calls("run-enclave")
    assert call[1:] == [
        *("--eif-path", "/opt/enclave.eif", "--enclave-name", "nitrosigner"),
        *("--enclave-cid", "16", "--cpu-count", "2", "--memory", "1024"),
    ]
    kennel.health("ready")
    kennel.until_phase("serving")
    assert kennel.tell("status")["health"] == "ready"


def test_an_enclave_that_ended_is_started_again(serving: Kennel) -> None:
    (enclave,) = serving.enclaves()
    os.kill(enclave["ProcessID"], signal.SIGKILL)
    serving.until(
        lambda: serving.status()["restarts"] == 1 and serving.phase() == "serving",
        "it serves again",
    )
    assert serving.status()["reason"] == "ended"
    assert len(serving.enclaves()) == 1


def test_a_state_that_is_not_running_is_not_health(serving: Kennel) -> None:
    """The AWS reference took any enclave with the right name for a healthy one."""
    serving.behave(state="TERMINATING")
    serving.until(lambda: serving.status()["reason"] == "ended", "it notices")
    serving.behave()
    serving.until_phase("serving")


@pytest.mark.parametrize("mode", ["silent", "garbage", "reset"])
def test_an_enclave_that_lives_and_does_not_answer_is_started_again(
    serving: Kennel, mode: str
) -> None:
    before = serving.enclaves()
    serving.health(mode)
    serving.until(lambda: serving.status()["reason"] == "silent", "it notices")
    serving.health("ready")
    serving.until_phase("serving")
    assert serving.enclaves() != before


def test_an_enclave_that_says_that_it_is_not_ready_is_left_alone(
    serving: Kennel,
) -> None:
    serving.health("not_ready")
    serving.until_phase("degraded")
    assert serving.tell("status")["health"] == "keys"
    serving.health("ready")
    serving.until_phase("serving")
    assert serving.status()["restarts"] == 0


def test_one_that_is_not_ready_for_too_long_is_started_again(kennel: Kennel) -> None:
    kennel.config["probe"]["degraded_seconds"] = 0.5
    kennel.health("not_ready")
    kennel.start()
    kennel.until(lambda: kennel.status().get("reason") == "degraded", "it is")


def test_a_boot_of_which_nothing_is_heard_is_started_again(kennel: Kennel) -> None:
    kennel.config["probe"]["boot_seconds"] = 0.5
    kennel.health("never")
    kennel.start()
    kennel.until(lambda: kennel.status().get("reason") == "no_boot", "it is")
    kennel.until(lambda: len(kennel.calls("run-enclave")) > 1, "it is started again")


def test_a_certificate_that_ends_soon_is_made_anew(serving: Kennel) -> None:
    serving.health("ready", certificate=False)
    serving.until(lambda: serving.status()["reason"] == "certificate", "it notices")
    serving.health("ready")
    serving.until_phase("serving")
    assert serving.status()["failures"] == 0


def test_an_enclave_that_lost_its_signing_processes_is_started_again(
    serving: Kennel,
) -> None:
    serving.health("not_ready", signing=False)
    serving.until(lambda: serving.status()["reason"] == "signing", "it is noticed")
    serving.health("ready")
    serving.until_phase("serving")


def test_a_clock_that_went_wrong_is_set_by_a_start(kennel: Kennel) -> None:
    kennel.config["probe"]["clock_seconds"] = 0.5
    kennel.start()
    kennel.until_phase("serving")
    kennel.health("not_ready", clock=False)
    kennel.until(lambda: kennel.status()["reason"] == "clock", "it is noticed")
    # Still wrong after the start: started again in vain is not started for ever.
    kennel.until_phase("degraded")
    calls = len(kennel.calls("describe-enclaves"))
    kennel.until(
        lambda: len(kennel.calls("describe-enclaves")) > calls + 10, "it looks on"
    )
    assert kennel.status()["restarts"] == 1
    kennel.health("ready")
    kennel.until_phase("serving")
    assert kennel.status()["failures"] == 0


@pytest.mark.parametrize("how", ["fail", "garbage", "lie"])
def test_a_start_that_fails_is_tried_again_and_later_each_time(
    kennel: Kennel, how: str
) -> None:
    kennel.behave(**{"run-enclave": how})
    kennel.start()
    kennel.until(lambda: kennel.status().get("failures", 0) >= 4, "it keeps trying")
    assert kennel.status()["reason"] == "start_failed"
    assert kennel.status()["message"]
    kennel.behave()
    kennel.until_phase("serving")


@pytest.mark.parametrize("how", ["fail", "garbage", "flood"])
def test_a_nitro_cli_that_cannot_tell_does_not_end_a_serving_enclave(
    serving: Kennel, how: str
) -> None:
    serving.behave(**{"describe-enclaves": how})
    seen = len(serving.calls("describe-enclaves"))
    serving.until(
        lambda: len(serving.calls("describe-enclaves")) > seen + 3, "it asks on"
    )
    serving.behave()
    assert serving.tell("status")["restarts"] == 0
    assert serving.phase() == "serving"
    assert any(line["event"] == "watchdog_unsure" for line in serving.log())


def test_a_killed_watchdog_finds_its_enclave_again_and_keeps_it(
    serving: Kennel,
) -> None:
    before = serving.enclaves()
    serving.process.kill()
    serving.process.wait()
    serving.start()
    serving.until(
        lambda: (
            serving.status()["pid"] == serving.process.pid
            and serving.phase() == "serving"
        ),
        "it serves",
    )
    assert serving.enclaves() == before
    assert len(serving.calls("run-enclave")) == 1


@pytest.mark.parametrize(
    "other",
    [{"pcr0": "cd" * 48}, {"cid": 17}, {"debug": True}, {"name": "nitrosigner2"}],
)
def test_an_enclave_that_is_not_as_told_is_replaced(
    serving: Kennel, other: dict[str, Any]
) -> None:
    (before,) = serving.enclaves()
    serving.process.kill()
    serving.process.wait()
    serving.config["enclave"] |= other
    if "pcr0" in other:
        serving.behave(pcr0=other["pcr0"])
    serving.start()
    serving.until(
        lambda: (
            serving.status()["pid"] == serving.process.pid
            and serving.phase() == "serving"
            and len(serving.calls("run-enclave")) == 2
        ),
        "another one runs",
    )
    if "cid" not in other and "name" not in other:
        assert before not in serving.enclaves()


def test_stop_and_start_are_an_operators(serving: Kennel) -> None:
    answer = serving.tell("stop")
    assert answer["wanted"] is False
    assert answer["phase"] == "stopped"
    # What it last said of itself holds no longer.
    assert answer["health"] == ""
    assert serving.enclaves() == []
    serving.tell("start")
    serving.until_phase("serving")
    assert serving.status()["restarts"] == 0


def test_an_order_to_stop_survives_a_kill_and_not_an_orderly_end(
    serving: Kennel,
) -> None:
    serving.tell("stop")
    serving.process.kill()
    serving.process.wait()
    serving.start()
    serving.until(
        lambda: serving.status()["pid"] == serving.process.pid, "the next one looks"
    )
    assert serving.phase() == "stopped"
    assert serving.tell("status")["wanted"] is False
    assert serving.enclaves() == []
    assert serving.end() == 0
    serving.start()
    serving.until_phase("serving")


def test_start_after_such_a_kill_starts_one(serving: Kennel) -> None:
    """One that was found running, and ended by the order, does not count as running."""
    serving.process.kill()
    serving.process.wait()
    (serving.folder / "status.json").write_text(
        json.dumps({**serving.status(), "wanted": False})
    )
    assert serving.enclaves()
    serving.start()
    serving.until(lambda: not serving.enclaves(), "the order is carried out")
    serving.until_phase("stopped")
    serving.tell("start")
    serving.until_phase("serving")
    assert len(serving.enclaves()) == 1


def test_a_relay_that_is_away_is_not_the_enclaves_fault(serving: Kennel) -> None:
    serving.config["probe"]["port"] = 1  # nobody's
    serving.write()
    serving.tell("reload")
    serving.until_phase("no_relay")
    seen = len(serving.calls("describe-enclaves"))
    serving.until(
        lambda: len(serving.calls("describe-enclaves")) > seen + 4, "it looks on"
    )
    assert serving.phase() == "no_relay"
    serving.config["probe"]["port"] = serving.port
    serving.write()
    serving.tell("reload")
    serving.until_phase("serving")
    assert serving.status()["restarts"] == 0


def test_restart_is_planned_and_does_not_back_off(serving: Kennel) -> None:
    before = serving.enclaves()
    assert serving.tell("restart")["reason"] == "asked"
    serving.until_phase("serving")
    assert serving.status()["failures"] == 0
    assert serving.enclaves() != before


def test_reload_takes_another_image(serving: Kennel) -> None:
    serving.config["enclave"]["image"] = "/opt/other.eif"
    serving.write()
    serving.tell("reload")
    serving.until_phase("serving")
    assert serving.calls("run-enclave")[-1][2] == "/opt/other.eif"
    assert len(serving.enclaves()) == 1


def test_reload_of_nonsense_changes_nothing(serving: Kennel) -> None:
    (serving.folder / "watchdog.json").write_text(
        json.dumps(serving.config | {"nonsense": 1})
    )
    serving.process.send_signal(signal.SIGHUP)
    serving.write()
    assert serving.tell("status")["phase"] == "serving"
    assert serving.status()["restarts"] == 0


def test_reload_of_the_same_does_not_restart(serving: Kennel) -> None:
    before = serving.enclaves()
    serving.tell("reload")
    assert serving.enclaves() == before


def test_sigterm_ends_the_enclave_and_the_watchdog(serving: Kennel) -> None:
    assert serving.end() == 0
    assert serving.enclaves() == []
    assert serving.status()["phase"] == "stopped"
    assert not (serving.folder / "control.sock").exists()


def test_sigterm_during_a_start_that_hangs_leaves_nothing(kennel: Kennel) -> None:
    kennel.behave(**{"run-enclave": "hang"})
    kennel.start()
    kennel.until(lambda: kennel.calls("run-enclave"), "it starts")
    assert kennel.end() == 0
    assert kennel.enclaves() == []


def test_two_watchdogs_do_not_fight_over_one_enclave(serving: Kennel) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "nitrosigner.untrusted.parent.watchdog"),
            *("--config", serving.folder / "watchdog.json"),
        ],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 4
    assert b"another process" in done.stderr
    assert len(serving.enclaves()) == 1


def test_the_control_socket_is_its_owners_alone(serving: Kennel) -> None:
    mode = (serving.folder / "control.sock").stat().st_mode
    assert mode & 0o777 == 0o600


@pytest.mark.parametrize("line", [b"\n", b"[]\n", b'{"command": 1}\n', b"[" * 9000])
def test_what_is_no_command_is_said_and_harms_nothing(
    serving: Kennel, line: bytes
) -> None:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(30)
        caller.connect(str(serving.folder / "control.sock"))
        caller.sendall(line)
        caller.shutdown(socket.SHUT_WR)
        assert b"malformed_request" in caller.recv(4096)
    assert serving.tell("status")["phase"] == "serving"


def test_a_parent_drains_before_the_enclave_ends(
    kennel: Kennel, tmp_path: Path
) -> None:
    """A fake parent that has two answers outstanding, then one, then none."""
    asked: list[str] = []
    import threading

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "p.sock"))
    listener.listen()

    def parent() -> None:
        left = 2
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                asked.append(json.loads(stream.readline())["command"])
                if asked[-1] != "resume":
                    assert kennel.enclaves(), "it is ended before its answers"
                    left -= 1
                stream.write(json.dumps({"unanswered": max(left, 0)}).encode() + b"\n")

    thread = threading.Thread(target=parent)
    thread.start()
    try:
        kennel.config["parent_control"] = str(tmp_path / "p.sock")
        kennel.start()
        kennel.until_phase("serving")
        assert kennel.end() == 0
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(30)
    assert asked == ["resume", "drain", "status"]


def test_a_program_runs_as_an_enclave_does(kennel: Kennel) -> None:
    fake = Path(__file__).with_name("fake_enclave.py")
    kennel.config["enclave"] = {
        "kind": "program",
        "command": [sys.executable, "-I", "-S", str(fake), str(kennel.folder)],
    }
    kennel.start()
    kennel.until_phase("serving")
    running = kennel.status()["enclave_pid"]
    os.kill(running, signal.SIGKILL)
    kennel.until(
        lambda: kennel.phase() == "serving" and kennel.status()["restarts"] == 1,
        "it runs again",
    )
    assert kennel.status()["enclave_pid"] not in {0, running}
    assert kennel.end() == 0
    assert kennel.status()["enclave_pid"] == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", kennel.port), 1)


def test_the_end_of_a_program_is_noticed_at_once(kennel: Kennel) -> None:
    fake = Path(__file__).with_name("fake_enclave.py")
    kennel.config["enclave"] = {
        "kind": "program",
        "command": [sys.executable, "-I", "-S", str(fake), str(kennel.folder)],
    }
    kennel.config["probe"]["every_seconds"] = 3600
    kennel.start()
    kennel.until(lambda: kennel.status().get("enclave_pid"), "it runs")
    os.kill(kennel.status()["enclave_pid"], signal.SIGKILL)
    kennel.until(lambda: kennel.status()["reason"] == "ended", "it is noticed")


def test_a_program_that_ends_at_once_is_started_with_back_off(kennel: Kennel) -> None:
    kennel.config["enclave"] = {"kind": "program", "command": ["/bin/false"]}
    kennel.start()
    kennel.until(lambda: kennel.status().get("failures", 0) >= 3, "it tries")
    assert kennel.status()["reason"] == "ended"
    assert kennel.end() == 0
