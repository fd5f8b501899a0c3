"""
`nitrosigner doctor`: which step between a person and a signature fails, why, what next.

The enclave says where its boot stands in `/healthcheck`. Before it has a TLS key nobody
can ask it; then the parent's note of what the enclave reported is read, where there is
a local stack's folder to read it from.
"""

import dataclasses
import os
import socket
import stat
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import click
import msgspec

from nitrosigner.cli.connection import (
    DEFAULT_DATA,
    Connection,
    Expected,
    expectation_options,
    signer_options,
    with_scheme,
)
from nitrosigner.client import local_stack
from nitrosigner.client.answers import printable
from nitrosigner.client.local_stack import LocalStack
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.verdicts import Code, Malformed, Undecided, Verdict
from nitrosigner.wire.api import BootStep

STATE_FILE: Final = Path("parent/state.json")
CONNECT_TIMEOUT: Final = 3.0
READ_TIMEOUT: Final = 10.0

_WHAT_TO_DO: Final = {
    "nsm": "the enclave does not get an answer of its NSM; locally: is the hypervisor "
    "process alive?",
    "recipient_key": "the enclave makes an RSA key; it should take a second at most",
    "manifest": "put a signed manifest in force: nitrosigner manifest check FILE; if "
    "that takes it, the image is older than this checkout: build it again (make image)",
    "kms": "does the KMS key's policy allow this PCR0 and this administrator, and has "
    "the parent credentials and a way to KMS?",
    "vault": "the sealed vault key does not open: is it this deployment's store?",
    "records": "the parent's store does not answer, or a record was altered",
    "tls": "the sealed TLS record does not open: is it this deployment's store?",
}

_IMPORTED: Final = (
    "nitrosigner tls show says what clients object to; nitrosigner tls import another "
    "one, or nitrosigner tls reset"
)


class _Reported(msgspec.Struct, frozen=True):
    """What the enclave told its parent. More may stand there."""

    state: str = ""
    code: str = ""
    message: str = ""
    hint: str = ""
    connections: int = 1
    """That it holds to the parent. 0: it was there, and is gone."""


class _State(msgspec.Struct, frozen=True):
    """The part of the parent's state that is about the enclave."""

    enclave: _Reported | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One check."""

    name: str
    verdict: Literal["ok", "failed", "skipped"]
    detail: str
    hint: str = ""


@dataclass(slots=True)
class _Findings:
    listed: list[Finding]
    boot: list[BootStep]
    state: str | None = None

    def check(self, name: str, attempt: Callable[[], str], *, needs: str = "") -> None:
        """Note what *attempt* says, unless the check called *needs* did not pass."""
        if needs and not self.passed(needs):
            self.listed.append(Finding(name, "skipped", f"needs: {needs}"))
            return
        try:
            self.listed.append(Finding(name, "ok", attempt()))
        except Verdict as verdict:
            self.listed.append(Finding(name, "failed", verdict.message, verdict.hint))

    def passed(self, name: str) -> bool:
        return any(f.name == name and f.verdict == "ok" for f in self.listed)

    @property
    def ok(self) -> bool:
        return all(finding.verdict == "ok" for finding in self.listed)


@click.command()
@expectation_options
@signer_options()
@click.pass_context
def doctor(context: click.Context, connection: Connection, expected: Expected) -> None:
    """
    Check every step between you and a signature; say which fails and what to do.

    Ends with 1 if one fails.
    """
    if connection.data is None and connection.url is None and DEFAULT_DATA.is_dir():
        connection = dataclasses.replace(connection, data=DEFAULT_DATA)
    if connection.data is None and connection.url is None:
        raise Malformed(
            Code.USAGE,
            "no signer is named",
            "give --url URL, or --data DIR of a local stack",
        )
    findings = _Findings([], [])
    if connection.data is not None:
        _check_folder(connection, findings)
    _check_signer(connection, expected, findings)
    _print(connection, findings)
    if not findings.ok:
        context.exit(1)


def _check_folder(connection: Connection, findings: _Findings) -> None:
    folder = (connection.data or DEFAULT_DATA).resolve()

    def exists() -> str:
        try:
            mode = folder.stat().st_mode
        except OSError:
            raise Undecided(
                Code.SIGNER_UNREACHABLE,
                f"there is no folder {folder}",
                f"start a stack: nitrosigner up --data {folder}",
            ) from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Undecided(
                Code.STORAGE_UNAVAILABLE,
                f"{folder} is open to other users",
                f"chmod 700 {folder}",
            )
        return str(folder)

    def described() -> str:
        return f"last ready at {local_stack.read(folder).url}"

    def alive() -> str:
        return _alive(local_stack.read(folder))

    def boot() -> str:
        findings.state, sentence = _reported(folder)
        return sentence

    findings.check("data folder", exists)
    findings.check("stack", described, needs="data folder")
    findings.check("processes", alive, needs="stack")
    findings.check("boot", boot, needs="data folder")


def _alive(stack: LocalStack) -> str:
    described = stack.described
    processes = {"supervisor": described.pid, **described.pids}
    dead = sorted(name for name, pid in processes.items() if not _is_alive(pid))
    if dead:
        raise Undecided(
            Code.SIGNER_UNREACHABLE,
            f"not running: {', '.join(dead)}",
            f"start the stack: nitrosigner up --data {stack.folder}",
        )
    return ", ".join(f"{name} {pid}" for name, pid in sorted(processes.items()))


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _reported(folder: Path) -> tuple[str, str]:
    try:
        noted = msgspec.json.decode((folder / STATE_FILE).read_bytes(), type=_State)
    except OSError:
        noted = _State()
    except ValueError:
        raise Undecided(
            Code.STORAGE_UNAVAILABLE,
            f"{folder / STATE_FILE} is damaged",
            "the parent writes it anew at the next report",
        ) from None
    state = noted.enclave
    if state is None or not state.state:
        raise Undecided(
            Code.NOT_READY,
            "the enclave has not reported anything to its parent yet",
            f"is the parent running? its log is in {folder / 'logs'}",
        )
    # It passed through the untrusted parent: fit for reading, not for believing.
    name = printable(state.state)
    if state.code:
        raise Undecided(
            Code.NOT_READY,
            f"{name}: {printable(state.message)} ({printable(state.code)})",
            printable(state.hint) or _WHAT_TO_DO.get(name, ""),
        )
    if name != "ready":
        raise Undecided(
            Code.NOT_READY,
            f"the enclave is at the step {name!r}",
            _WHAT_TO_DO.get(name, "wait, and ask again"),
        )
    if state.connections == 0:
        raise Undecided(
            Code.NOT_READY,
            "the enclave was ready and is gone",
            "whoever keeps it should start it again; see its log for why it ended",
        )
    return name, name


def _check_signer(
    connection: Connection, expected: Expected, findings: _Findings
) -> None:
    local = connection.data is not None
    url: list[str] = []

    def port() -> str:
        url.append(_url(connection))
        return _listens(url[0])

    findings.check("port", port, needs="stack" if local else "")
    if not findings.passed("port"):
        for name in ("tls", "attestation", "health", "credentials"):
            findings.listed.append(Finding(name, "skipped", "needs: port"))
        return
    unverified = SignerClient(url[0], read_timeout=READ_TIMEOUT)

    def tls() -> str:
        _, certificate = unverified.transport.request_unverified("/upcheck")
        return f"the enclave ends TLS ({len(certificate)} bytes of certificate)"

    def attestation() -> str:
        proof = connection.verify(unverified, expected)
        label = "EMULATED, " if proof.emulated else ""
        return f"{label}PCR0 {proof.attestation.pcrs.get(0, b'').hex()[:16]}…"

    def health() -> str:
        # Over the pinned connection: the answer is the attested enclave's.
        body = unverified.health()
        findings.boot, findings.state = body.steps, body.state
        failed = sorted(name for name, passed in body.checks.items() if not passed)
        if body.status != "UP" or failed:
            raise Undecided(
                Code.NOT_READY,
                f"the enclave says {body.state}"
                + (f": {printable(body.message)}" if body.message else "")
                + (f"; failing: {', '.join(failed)}" if failed else ""),
                printable(body.hint)
                or (_IMPORTED if failed == ["imported_certificate"] else "")
                or _WHAT_TO_DO.get(body.state, "its checks name what it waits for"),
            )
        return f"{body.state}, {body.keys_loaded} keys, {body.kms_calls} KMS calls"

    def credentials() -> str:
        with connection.client() as client:
            keys = client.page_of_keys(limit=1).keys
        return "accepted" + ("" if keys else "; there is no key yet")

    findings.check("tls", tls)
    findings.check("attestation", attestation, needs="tls")
    findings.check("health", health, needs="attestation")
    findings.check("credentials", credentials, needs="health")
    unverified.close()


def _url(connection: Connection) -> str:
    if connection.url is not None:
        return with_scheme(connection.url)
    stack = connection.stack()
    return stack.url if stack else ""


def _listens(url: str) -> str:
    parsed = urllib.parse.urlsplit(url)
    try:
        host, port = parsed.hostname or "", parsed.port or 443
    except ValueError:
        raise Malformed(Code.USAGE, "the signer's URL cannot be read") from None
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT).close()
    except OSError:
        raise Undecided(
            Code.SIGNER_UNREACHABLE,
            f"nothing listens at {host}:{port}",
            "is the parent's relay running, and does a firewall let you through?",
        ) from None
    return f"{host}:{port}"


def _print(connection: Connection, findings: _Findings) -> None:
    value: dict[str, Any] = {
        "ok": findings.ok,
        "state": findings.state,
        "checks": [
            {
                "name": f.name,
                "ok": f.verdict == "ok",
                "verdict": f.verdict,
                "detail": f.detail,
                "hint": f.hint,
            }
            for f in findings.listed
        ],
        "boot": findings.boot,
    }
    lines = []
    for finding in findings.listed:
        lines.append(f"{finding.verdict:<8} {finding.name:<12} {finding.detail}")
        if finding.hint:
            lines.append(f"{'':<21} -> {finding.hint}")
        if finding.name == "health":
            lines += [
                f"{'':<21} {'ok' if step.ok else 'failed':<7} {step.name}"
                f" ({step.milliseconds} ms)"
                for step in findings.boot
            ]
    connection.output.result(value, lines)
