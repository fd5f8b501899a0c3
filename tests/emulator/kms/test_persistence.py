"""What was answered survives restarts and kill -9; secrets lie in private files."""

import base64
import datetime as dt
import json
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.config
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from cryptography import x509

from nitrosigner.emulator.kms import Settings, start
from nitrosigner.emulator.kms.certificates import ensure_certificates
from nitrosigner.emulator.kms.store import Store
from nitrosigner.verdicts import Refused

Make = Callable[..., Any]


class Program:
    """The stand-alone emulator, as a supervisor runs it."""

    def __init__(self, data: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nitrosigner.emulator.kms", "--data", str(data)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        code = self.process.wait(timeout=20)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return code


@pytest.fixture
def run(data: Path) -> Iterator[Callable[[], Program]]:
    programs: list[Program] = []

    def make() -> Program:
        programs.append(Program(data))
        return programs[-1]

    yield make
    for one in programs:
        if one.process.returncode is None:
            one.end(signal.SIGKILL)


def _client(aws: Any, ready: dict[str, Any], role: str = "administrator") -> Any:
    stored = json.loads(Path(ready["principals"]).read_text())["principals"][role]
    return aws.client(
        "kms",
        region_name=ready["region"],
        endpoint_url=ready["url"],
        verify=ready["ca"],
        aws_access_key_id=stored["access_key_id"],
        aws_secret_access_key=stored["secret_access_key"],
        aws_session_token=stored["session_token"],
        config=botocore.config.Config(retries={"total_max_attempts": 1}),
    )


def test_whatever_was_answered_before_a_kill_9_is_there_after_it(
    run: Callable[[], Program], aws: Any
) -> None:
    program = run()
    client = _client(aws, program.ready)
    blobs: list[tuple[str, bytes]] = []
    enough = threading.Event()

    def hammer() -> None:
        with pytest.raises((BotoCoreError, ClientError)):
            while True:
                key = client.create_key()["KeyMetadata"]["KeyId"]
                answer = client.encrypt(KeyId=key, Plaintext=key.encode())
                blobs.append((key, answer["CiphertextBlob"]))
                if len(blobs) >= 10:
                    enough.set()

    worker = threading.Thread(target=hammer)
    worker.start()
    assert enough.wait(30)
    program.end(signal.SIGKILL)
    worker.join(30)
    client.close()
    again = run()
    assert again.ready["ca"] == program.ready["ca"]
    client = _client(aws, again.ready)
    for key, blob in blobs:
        assert client.decrypt(CiphertextBlob=blob)["Plaintext"] == key.encode()
    client.close()
    trail = Path(again.ready["ca"]).with_name("cloudtrail.jsonl")
    events = [json.loads(line) for line in trail.read_text().splitlines()]
    assert len([one for one in events if one["eventName"] == "Encrypt"]) >= len(blobs)


def test_the_store_waits_for_the_disk(tmp_path: Path) -> None:
    """A kill -9 cannot tell; a power cut would."""
    store = Store(tmp_path / "kms.db")
    assert store._db.execute("pragma synchronous").fetchone() == (2,)
    assert store._db.execute("pragma journal_mode").fetchone() == ("wal",)
    store.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_when_told_to_even_with_open_connections(
    run: Callable[[], Program], aws: Any, how: signal.Signals
) -> None:
    program = run()
    client = _client(aws, program.ready)
    client.create_key()
    assert program.end(how) == 0
    client.close()


def test_the_ready_line_says_everything_a_supervisor_needs(
    run: Callable[[], Program],
) -> None:
    ready = run().ready
    assert set(ready) == {
        "url",
        "port",
        "ca",
        "principals",
        "imds_url",
        "imds_port",
        "region",
        "account",
        "pid",
    }
    assert ready["url"] == f"https://127.0.0.1:{ready['port']}"


def test_the_stand_alone_program_has_no_option_that_makes_it_lie() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "nitrosigner.emulator.kms", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    options = {word.strip("[],") for word in shown.split() if word.startswith("[--")}
    assert options == {"--port", "--imds-port", "--region", "--account"}
    assert "fault" not in shown


def test_a_second_one_on_the_same_folder_gives_up(kms: Any, data: Path) -> None:
    with pytest.raises(Refused, match="another emulated KMS"):
        start(data)
    done = subprocess.run(
        [sys.executable, "-m", "nitrosigner.emulator.kms", "--data", str(data)],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 3
    assert b"another emulated KMS" in done.stderr


def test_a_folder_of_another_account_is_not_taken_over(data: Path) -> None:
    start(data).stop()
    with pytest.raises(Refused, match="belongs to account"):
        start(data, settings=Settings(account="999999999999"))


def test_stopping_twice_is_harmless_and_the_folder_is_free_again(data: Path) -> None:
    running = start(data)
    running.stop()
    running.stop()
    start(data).stop()


def test_everything_lies_in_private_files(kms: Any, data: Path) -> None:
    folder = data / "kms"
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path.name


def test_key_material_is_in_no_file_in_the_clear(
    kms: Any, data: Path, client: Make
) -> None:
    canary = b"canary-7f3a9c-plaintext"
    one = client("administrator")
    key = one.create_key()["KeyMetadata"]["KeyId"]
    one.encrypt(KeyId=key, Plaintext=canary, EncryptionContext={"a": "b"})
    made = one.generate_data_key(KeyId=key, KeySpec="AES_256")["Plaintext"]
    kms.stop()
    for path in (data / "kms").iterdir():
        content = path.read_bytes()
        for secret in (canary, made):
            for shape in (secret, secret.hex().encode(), base64.b64encode(secret)):
                assert shape not in content, path.name


def test_a_database_of_another_version_is_refused(data: Path) -> None:
    start(data).stop()
    database = sqlite3.connect(data / "kms" / "kms.db")
    database.execute("pragma user_version = 99")
    database.close()
    with pytest.raises(RuntimeError, match="another version"):
        start(data)
    # Nothing of the failed start holds the folder.
    database = sqlite3.connect(data / "kms" / "kms.db")
    database.execute("pragma user_version = 1")
    database.close()
    start(data).stop()


def test_a_line_that_a_crash_cut_short_does_not_swallow_the_next(
    data: Path,
) -> None:
    start(data).stop()
    trail = data / "kms" / "cloudtrail.jsonl"
    trail.write_bytes(b'{"eventName":"Decr')
    start(data).stop()
    assert trail.read_bytes().endswith(b"\n")


def test_the_endpoint_certificate_is_renewed_and_the_authority_is_not(
    tmp_path: Path,
) -> None:
    now = dt.datetime.now(dt.UTC)
    files = ensure_certificates(tmp_path, region="us-east-1", now=now)
    authority, first = files.authority.read_bytes(), files.certificate.read_bytes()
    soon = now + dt.timedelta(days=100)
    ensure_certificates(tmp_path, region="us-east-1", now=soon)
    assert files.certificate.read_bytes() == first
    late = now + dt.timedelta(days=370)
    ensure_certificates(tmp_path, region="us-east-1", now=late)
    assert files.authority.read_bytes() == authority
    second = files.certificate.read_bytes()
    assert second != first
    renewed = x509.load_pem_x509_certificate(second)
    renewed.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    ensure_certificates(tmp_path, region="eu-west-1", now=late)
    assert files.certificate.read_bytes() != second
    files.certificate.write_bytes(b"half a")
    ensure_certificates(tmp_path, region="eu-west-1", now=late)
    x509.load_pem_x509_certificate(files.certificate.read_bytes())


@pytest.mark.parametrize(
    "name", ["kms.us-east-1.amazonaws.com", "localhost", "127.0.0.1"]
)
def test_tls_names_the_endpoint_as_the_enclave_and_the_tools_call_it(
    kms: Any, name: str
) -> None:
    context = ssl.create_default_context(cafile=str(kms.ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        socket.create_connection(("127.0.0.1", kms.port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=name) as secured,
    ):
        assert secured.version() in ("TLSv1.2", "TLSv1.3")


def test_a_caller_that_trusts_amazon_only_does_not_trust_this(kms: Any) -> None:
    context = ssl.create_default_context()
    with (
        socket.create_connection(("127.0.0.1", kms.port), timeout=30) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(plain, server_hostname="kms.us-east-1.amazonaws.com")


def test_it_takes_nothing_from_the_environment(
    run: Callable[[], Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ambient AWS settings of a laptop must not change what the emulator does."""
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert run().ready["region"] == "us-east-1"
