"""
A company's certificate on a whole stack, by the commands that an operator types.

The stack is this file's own: a certificate is what all others trust it by.
"""

import json
import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator import plaintext_search
from nitrosigner.emulator.running_stack import RunningStack, wait_until
from nitrosigner.emulator.second_signer import second_signer
from nitrosigner.verdicts import Refused, Undecided

COMMAND = (sys.executable, "-I", "-m", "nitrosigner.cli.main")
PASSWORD = "canary-of-the-pkcs12-file"  # a canary

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    running = RunningStack.start(
        tmp_path_factory.mktemp("company") / "data", options=("--preset", "minimal")
    )
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def printed() -> list[bytes]:
    """All that commands said."""
    return []


@pytest.fixture(scope="module")
def run(stack: RunningStack, printed: list[bytes]) -> Run:
    def go(*arguments: object, code: int = 0, client: str = "operator") -> Any:
        done = subprocess.run(
            [
                *COMMAND,
                *map(str, arguments),
                *("--data", str(stack.folder.path), "--client", client, "--json"),
            ],
            capture_output=True,
            timeout=90,
            check=False,
        )
        printed.append(done.stdout + done.stderr)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout) | {"said": done.stderr.decode()}

    return go


@pytest.fixture(scope="module")
def company(company_pki: Any) -> Any:
    return company_pki.Company()


@pytest.fixture(scope="module")
def files(company: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the company's PKI department sent: not where the search looks."""
    folder = tmp_path_factory.mktemp("from-the-company")
    company.root_file(folder)
    (folder / "password").write_text(PASSWORD)
    os.chmod(folder / "password", 0o600)
    return folder


@pytest.fixture(scope="module")
def bring(run: Run, company: Any, files: Path) -> Run:
    def go(server: Any, **options: Any) -> Any:
        (files / "signer.p12").write_bytes(company.pkcs12(server, PASSWORD))
        os.chmod(files / "signer.p12", 0o600)
        return run(
            *("tls", "import", files / "signer.p12"),
            *("--password-file", files / "password"),
            *("--chain", files / "company-root.pem"),
            **options,
        )

    return go


def up(url: str, ca: Path) -> bool:
    """Ask as a program of somebody else's would."""
    context = ssl.create_default_context(cafile=str(ca))
    try:
        with urllib.request.urlopen(  # https
            f"{url}/upcheck", context=context, timeout=10
        ) as answer:
            return bool(answer.read() == b"OK")
    except OSError:
        return False


def test_an_operator_brings_one_in_restarts_and_goes_back(
    *, stack: RunningStack, run: Run, bring: Run, company: Any, files: Path
) -> None:
    root, url = files / "company-root.pem", stack.ready.url
    own = (stack.folder.path / "ca.pem").read_bytes()
    (files / "own.pem").write_bytes(own)
    server = company.server(kind="rsa2048")
    shown = bring(server)
    assert (shown["origin"], shown["sha256"]) == ("imported", server.sha256)
    assert "delete the file" in shown["said"]
    assert "IMPORTED TLS KEY" in shown["said"]
    # Who has the root needs nothing else; who has only the old authority is out.
    assert up(url, root)
    assert not up(url, files / "own.pem")

    # The binding is proved still, and what is not proved is said.
    verified = run("verify")
    assert verified["certificate"] == server.sha256
    assert any("IMPORTED TLS KEY" in one for one in verified["not_proved"])
    assert not any("TLS ends in the enclave" in one for one in verified["proved"])
    run("tls", "export", "--output", files / "exported.pem")
    assert (files / "exported.pem").read_text() == company.root.pem
    assert run("tls", "show")["objection"] == ""
    with SignerClient.from_data(stack.folder.path, "operator") as client:
        assert client.health().checks["imported_certificate"]

    stack.kill("hypervisor")
    wait_until(lambda: up(url, root), "the next boot shows the same")
    assert run("tls", "show")["sha256"] == server.sha256

    # A vault key that is replaced takes the imported key along.
    with SignerClient.from_data(stack.folder.path, "operator") as client:
        client.rotate_vault()
    stack.kill("hypervisor")
    wait_until(lambda: up(url, root), "and so does the one after a rotation")

    assert run("tls", "reset", "--yes")["origin"] == "enclave"
    assert (stack.folder.path / "ca.pem").read_bytes() == own
    assert up(url, files / "own.pem")
    assert not up(url, root)
    assert not any("IMPORTED" in one for one in run("verify")["not_proved"])


def test_every_signer_on_the_store_comes_to_show_it(
    *, stack: RunningStack, run: Run, bring: Run, company: Any, files: Path
) -> None:
    root = files / "company-root.pem"
    with second_signer(stack) as second:
        server = company.server()
        bring(server)
        assert up(stack.ready.url, root)
        context = ssl._create_unverified_context()  # it shows either
        entry = stack.ready.clients["operator"]
        context.load_cert_chain(entry.cert, entry.key)
        request = urllib.request.Request(f"{second.url}/reload", b"", method="POST")
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            assert answer.status == 202
        wait_until(lambda: up(second.url, root), "the second shows it too")
        run("tls", "reset", "--yes")
    assert up(stack.ready.url, stack.folder.path / "ca.pem")


def test_one_that_no_client_would_take_can_still_be_replaced(
    *, stack: RunningStack, run: Run, bring: Run, company: Any, files: Path
) -> None:
    # No client that looks at names or authorities gets in; attestation does.
    bring(company.server())
    (stack.folder.path / "ca.pem").write_bytes((files / "own.pem").read_bytes())
    with (
        pytest.raises((Refused, Undecided)),
        SignerClient.from_data(stack.folder.path, "operator") as client,
    ):
        client.server_tls()
    server = company.server(kind="ed25519")
    assert bring(server)["sha256"] == server.sha256
    (stack.folder.path / "ca.pem").write_bytes((files / "own.pem").read_bytes())
    assert run("tls", "reset", "--yes")["origin"] == "enclave"


@pytest.mark.parametrize("client", ["reader", "validator", "default"])
def test_nobody_but_the_operator_may(bring: Run, company: Any, client: str) -> None:
    refused = bring(company.server(), code=3, client=client)
    assert refused["error"]["code"] == "not_allowed"


def test_what_does_not_fit_is_refused_in_words(
    *, run: Run, bring: Run, company: Any, files: Path
) -> None:
    names = bring(company.server(["signer.example"]), code=3)
    assert "tls_names" in names["error"]["message"]
    ended = bring(company.server(starts=-9, ends=-1), code=3)
    assert "has ended" in ended["error"]["message"]
    secp = bring(company.server(kind="secp256k1"), code=2)
    assert secp["error"]["code"] == "malformed_key"
    given = files / "signer.p12"
    given.write_bytes(company.pkcs12(company.server(), PASSWORD))
    password = ("--password-file", files / "password")
    rootless = run("tls", "import", given, *password, code=2)
    assert "CN=Company Root" in rootless["error"]["message"]
    assert "--chain" in rootless["error"]["hint"]
    (files / "wrong").write_text("wrong")
    wrong = run("tls", "import", given, "--password-file", files / "wrong", code=3)
    assert wrong["error"]["code"] == "wrong_password"
    for damaged in (
        b"",
        b"0",
        given.read_bytes()[:-20],
        os.urandom(300),
        b"\0" * 70000,
    ):
        (files / "damaged").write_bytes(damaged)
        code = 2 if len(damaged) > 64 * 1024 else 3
        run("tls", "import", files / "damaged", *password, code=code)


def test_the_key_and_its_password_are_nowhere_but_in_the_companys_files(
    *,
    stack: RunningStack,
    run: Run,
    bring: Run,
    company: Any,
    printed: list[bytes],
) -> None:
    server = company.server()
    number = server.key.private_numbers().private_value
    canaries = [number.to_bytes(32, "big"), PASSWORD.encode()]
    bring(server)
    state = stack.now()
    searched = plaintext_search.search(
        canaries,
        folders=[stack.folder.path],
        processes=[state.pid, *state.pids.values()],
        memories=[state.pids["parent"], state.pid],
    )
    assert searched.findings == ()
    assert searched.size > 100_000
    said = b"\n".join(printed)
    assert server.sha256.encode() in said
    for canary in canaries:
        assert not plaintext_search.spellings_in(said, canary)
    # The search would have found it.
    control = plaintext_search.search(canaries[:1], folders=[stack.folder.path.parent])
    assert control.findings == ()
    (stack.folder.path.parent / "planted").write_bytes(server.secret)
    control = plaintext_search.search(canaries[:1], folders=[stack.folder.path.parent])
    assert {Path(one.place).name for one in control.findings} == {"planted"}
    run("tls", "reset", "--yes")
