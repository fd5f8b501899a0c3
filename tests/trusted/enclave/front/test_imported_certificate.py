"""A certificate from elsewhere: what is taken, what it looks like, and the way back."""

import asyncio
import base64
import hashlib
import json
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from nitrosigner.trusted.enclave.https.imported_certificate import chain_of, identity_of
from nitrosigner.trusted.enclave.https.tls_keeping import TlsKeeping
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided, Verdict

SHOW, IMPORT, RESET = "/api/v1/tls", "/api/v1/tls/import", "/api/v1/tls/reset"
ATTEST = "/api/v1/attestation?nonce=" + "00" * 8
DAY = 24 * 3600


class Elsewhere:
    """A company and a front, and what the one hands to the other."""

    def __init__(self, pki: Any, front: Any, folder: Path, **options: Any) -> None:
        self.pki, self.front = pki, front
        self.company = pki.Company(**options)
        self.root = self.company.root_file(folder)

    def body(self, server: Any) -> dict[str, str]:
        key = self.front.keys.import_public_key
        made: dict[str, str] = self.pki.request(self.company, server, key)
        return made

    def bring(self, server: Any, **options: Any) -> tuple[int, Any]:
        answer: tuple[int, Any] = self.front.ask(
            "POST", IMPORT, self.body(server), **options
        )
        return answer

    def trust(self) -> None:
        """Have the front's clients trust the company from now on."""
        self.front.ca = self.root


@pytest.fixture
def front(patient_front: Any) -> Any:
    """Nothing in here is about how long a peer may take."""
    return patient_front


@pytest.fixture
def elsewhere(company_pki: Any, front: Any, tmp_path: Path) -> Elsewhere:
    return Elsewhere(company_pki, front, tmp_path)


def presented(front: Any) -> bytes:
    """Return what a client that checks nothing is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    raw = socket.create_connection(("127.0.0.1", front.port), timeout=30)
    with context.wrap_socket(raw) as connection:
        return connection.getpeercert(binary_form=True) or b""


def statement(front: Any) -> dict[str, Any]:
    status, answer = front.ask("GET", ATTEST)
    assert status == 200
    document = json.loads(base64.b64decode(answer["document"]))
    said: dict[str, Any] = json.loads(document[1])
    return said


def test_new_connections_are_shown_it_at_once_and_the_document_names_it(
    front: Any, elsewhere: Elsewhere
) -> None:
    before = presented(front)
    assert "tls_imported" not in statement(front)
    server = elsewhere.company.server()
    status, shown = elsewhere.bring(server)
    assert status == 200, shown
    assert presented(front) == server.der != before
    elsewhere.trust()
    said = statement(front)
    assert said["tls"] == server.sha256 == shown["sha256"]
    assert said["tls_imported"] is True
    ends = server.certificate.not_valid_after_utc.timestamp()
    root = hashlib.sha256(elsewhere.company.root.der).hexdigest()
    assert shown == {
        "origin": "imported",
        "sha256": server.sha256,
        "authority_sha256": root,
        "not_after": int(ends),
        "objection": "",
    }
    assert front.ask("GET", SHOW, certificate="reader") == (200, shown)


def test_the_authority_that_is_named_is_the_companys_from_the_root_down(
    front: Any, elsewhere: Elsewhere
) -> None:
    assert elsewhere.bring(elsewhere.company.server())[0] == 200
    elsewhere.trust()
    status, pem = front.ask("GET", "/api/v1/ca", certificate=None)
    company = elsewhere.company
    assert (status, pem.decode()) == (200, company.root.pem + company.below.pem)


@pytest.mark.parametrize("kind", ["p256", "p384", "ed25519", "rsa2048", "rsa4096"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_every_kind_of_key_serves_both_versions_of_tls(
    front: Any, elsewhere: Elsewhere, kind: str, version: Any
) -> None:
    status, answer = elsewhere.bring(elsewhere.company.server(kind=kind))
    assert status == 200, answer
    elsewhere.trust()
    context = front.context("default")
    context.minimum_version = context.maximum_version = version
    raw = socket.create_connection(("127.0.0.1", front.port), timeout=30)
    with context.wrap_socket(raw, server_hostname="localhost") as connection:
        connection.sendall(
            b"GET /api/v1/keys HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("tool", ["openssl", "node", "java"])
def test_other_programs_that_know_the_root_alone_accept_it(
    front: Any, elsewhere: Elsewhere, tool: str
) -> None:
    program = shutil.which(tool)
    if program is None:
        pytest.skip(f"{tool} is not installed")
    assert elsewhere.bring(elsewhere.company.server())[0] == 200
    url = f"https://localhost:{front.port}/upcheck"
    if tool == "openssl":
        command = [
            *(program, "s_client", "-connect", f"127.0.0.1:{front.port}"),
            *("-verify_return_error", "-verify_hostname", "localhost", "-x509_strict"),
            *("-CAfile", str(elsewhere.root), "-brief"),
        ]
    elif tool == "node":
        script = (
            f"require('https').get('{url}',{{ca:require('fs').readFileSync("
            f"'{elsewhere.root}')}},r=>r.on('data',d=>process.stdout.write(d)))"
        )
        command = [program, "-e", script]
    else:
        source = elsewhere.root.with_name("Ask.java")
        source.write_text(JAVA)
        command = [program, str(source), str(elsewhere.root), url]
    done = subprocess.run(
        command, capture_output=True, text=True, input="", timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stdout + done.stderr


JAVA = """
import java.io.*; import java.net.*; import java.net.http.*; import java.security.*;
import java.security.cert.*; import javax.net.ssl.*;
public class Ask { public static void main(String[] a) throws Exception {
  var ca = CertificateFactory.getInstance("X.509")
      .generateCertificate(new FileInputStream(a[0]));
  var store = KeyStore.getInstance(KeyStore.getDefaultType());
  store.load(null); store.setCertificateEntry("ca", ca);
  var trust = TrustManagerFactory.getInstance("PKIX"); trust.init(store);
  var tls = SSLContext.getInstance("TLS");
  tls.init(null, trust.getTrustManagers(), null);
  System.out.println(HttpClient.newBuilder().sslContext(tls).build().send(
      HttpRequest.newBuilder(URI.create(a[1])).build(),
      HttpResponse.BodyHandlers.ofString()).body());
}}
"""


def test_after_a_restart_and_in_every_other_enclave_it_is_the_same(
    front: Any, elsewhere: Elsewhere
) -> None:
    server = elsewhere.company.server()
    assert elsewhere.bring(server)[0] == 200
    keeping = TlsKeeping(
        front.singles, front.recipient, front.front.around.accepted, front.clock
    )
    opened = asyncio.run(keeping.open())
    assert (opened.certificate, opened.imported) == (server.der, True)


def test_another_enclaves_import_and_reset_are_taken_over(
    front: Any, elsewhere: Elsewhere, tmp_path: Path, company_pki: Any
) -> None:
    keeping = front.front.around.tls_keeping
    front.loop.run(keeping.refresh())
    own = presented(front)
    assert own == front.leaf  # nothing new: nothing changes
    server = elsewhere.company.server()
    record = elsewhere.company.chain(server).encode()
    front.singles.records["tls-imported"] = (1, record, server.secret)
    front.loop.run(keeping.refresh())
    assert presented(front) == server.der
    # A record that was only sealed anew is the same certificate.
    front.singles.records["tls-imported"] = (2, record, server.secret)
    around = front.front.around
    front.loop.run(keeping.refresh())
    assert front.front.around is around
    front.singles.records["tls-imported"] = (3, b"", b"\0")
    front.loop.run(keeping.refresh())
    assert front.front.around.tls.authority == front.authority
    assert not front.front.around.tls.imported


def test_the_way_back_leads_to_the_authority_that_clients_knew(
    front: Any, elsewhere: Elsewhere
) -> None:
    known = front.ca
    authority = front.authority
    assert elsewhere.bring(elsewhere.company.server())[0] == 200
    elsewhere.trust()
    status, shown = front.ask("POST", RESET)
    assert (status, shown["origin"]) == (200, "enclave")
    assert shown["authority_sha256"] == hashlib.sha256(authority).hexdigest()
    front.ca = known
    assert front.alive
    assert "tls_imported" not in statement(front)
    # Twice is no harm, and an import can follow.
    assert front.ask("POST", RESET)[0] == 200
    assert elsewhere.bring(elsewhere.company.server())[0] == 200


def test_a_connection_is_ended_after_its_answer_and_vouched_for_until_then(
    front: Any, elsewhere: Elsewhere
) -> None:
    before = hashlib.sha256(front.leaf).hexdigest()
    idle = front.http()
    idle.request("GET", SHOW)
    assert json.loads(idle.getresponse().read())["sha256"] == before
    # One whose request has begun to arrive, and one that does nothing.
    head = b"GET " + ATTEST.encode() + b" HTTP/1.1\r\nHost: a\r\n"
    with front.connect() as begun:
        begun.sendall(head)
        front.wait(lambda: front.front.connections == 2, 30)
        front.wait(
            lambda: any(
                protocol._reader.phase.name == "HEAD"
                for protocol in front.front._listener._protocols
            ),
            30,
        )
        assert elsewhere.bring(elsewhere.company.server())[0] == 200
        assert idle.sock.recv(1) == b""
        begun.sendall(b"\r\n")
        answer = b""
        while piece := begun.recv(65536):
            answer += piece
    headers, _, body = answer.partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.1 200 ")
    assert b"Connection: close" in headers
    document = json.loads(base64.b64decode(json.loads(body)["document"]))
    # What was proved is the certificate of that very connection.
    assert json.loads(document[1])["tls"] == before
    idle.close()


# --- who may ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [IMPORT, RESET])
def test_only_who_may_manage_tls_changes_it(
    front: Any, elsewhere: Elsewhere, path: str
) -> None:
    body = elsewhere.body(elsewhere.company.server()) if path == IMPORT else None
    status, answer = front.ask("POST", path, body, certificate="reader")
    assert (status, answer["error"]["code"]) == (403, "not_allowed")
    assert front.ask("POST", path, b"{", certificate="reader")[0] == 403
    assert front.ask("POST", path, body, certificate=None)[0] == 401
    assert front.ask("GET", SHOW, certificate=None)[0] == 401
    assert presented(front) == front.leaf
    assert "tls-imported" not in front.singles.records


def test_every_change_is_on_record_before_it_happens(
    front: Any, elsewhere: Elsewhere
) -> None:
    server = elsewhere.company.server()
    assert elsewhere.bring(server)[0] == 200
    elsewhere.trust()
    assert front.ask("POST", RESET)[0] == 200
    ours = [each for each in front.services.events if "tls" in each["operation"]]
    assert [(each["operation"], each["outcome"]) for each in ours] == [
        ("import_tls", "begun"),
        ("import_tls", "done"),
        ("reset_tls", "begun"),
        ("reset_tls", "done"),
    ]
    assert ours[1]["digest"] == server.sha256
    assert {each["client"] for each in ours} == {"default"}


def test_what_cannot_be_recorded_is_not_begun(front: Any, elsewhere: Elsewhere) -> None:
    front.services.failure = Undecided(Code.AUDIT_UNAVAILABLE, "full")
    assert elsewhere.bring(elsewhere.company.server())[0] == 503
    assert front.ask("POST", RESET)[0] == 503
    assert "tls-imported" not in front.singles.records


# --- what is not taken ------------------------------------------------------------------


def other_key(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server()
    return pki.Pair(server.certificate, pki.new_key()), company.chain(server)


def out_of_order(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server()
    return server, server.pem + company.root.pem + company.below.pem


def without_the_middle(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server()
    return server, server.pem + company.root.pem


def without_the_root(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server()
    return server, server.pem + company.below.pem


def with_a_stranger_at_its_end(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server()
    return server, server.pem + company.below.pem + pki.Company().root.pem


def issued_by_a_server(pki: Any, company: Any) -> tuple[Any, str]:
    between = company.server()
    server = pki.make("a", between, names=pki.LOCAL)
    return server, server.pem + between.pem + company.chain(between)[len(between.pem) :]


def too_deep(pki: Any, company: Any) -> tuple[Any, str]:
    root = pki.make("shallow", authority=True, path_length=0)
    below = pki.make("below", root, authority=True)
    server = pki.make("a", below, names=pki.LOCAL)
    return server, server.pem + below.pem + root.pem


def for_clients(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server(usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    return server, company.chain(server)


def an_authority(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server(authority=True)
    return server, company.chain(server)


def self_signed(pki: Any, company: Any) -> tuple[Any, str]:
    server = pki.make("signer", names=pki.LOCAL)
    return server, server.pem * 2


def one_name_missing(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server(["localhost"])
    return server, company.chain(server)


def other_names(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server(["signer.example", "10.0.0.1"])
    return server, company.chain(server)


def no_names_but_the_common_one(pki: Any, company: Any) -> tuple[Any, str]:
    server = pki.make("localhost", company.below)
    return server, company.chain(server)


def ended(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server(starts=-9, ends=-1)
    return server, company.chain(server)


def not_begun(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server(starts=2)
    return server, company.chain(server)


def of_a_root_that_has_ended(pki: Any, company: Any) -> tuple[Any, str]:
    company = pki.Company(ends=-1)
    server = company.server()
    return server, company.chain(server)


def weak(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server(kind="rsa1024")
    return server, company.chain(server)


def huge(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server(kind="rsa5120")
    return server, company.chain(server)


def of_bitcoins_curve(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server(kind="secp256k1")
    return server, company.chain(server)


def of_the_largest_curve(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server(kind="p521")
    return server, company.chain(server)


def alone(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server()
    return server, server.pem


def too_many(pki: Any, company: Any) -> tuple[Any, str]:
    server = company.server()
    return server, company.chain(server) + company.root.pem * 4


NOT_TAKEN = [
    (other_key, 403, "key_mismatch"),
    (out_of_order, 403, "certificate_untrusted"),
    (without_the_middle, 403, "certificate_untrusted"),
    (without_the_root, 403, "certificate_untrusted"),
    (with_a_stranger_at_its_end, 403, "certificate_untrusted"),
    (issued_by_a_server, 403, "certificate_untrusted"),
    (too_deep, 403, "certificate_untrusted"),
    (for_clients, 403, "certificate_untrusted"),
    (an_authority, 403, "certificate_untrusted"),
    (self_signed, 403, "certificate_untrusted"),
    (one_name_missing, 403, "certificate_untrusted"),
    (other_names, 403, "certificate_untrusted"),
    (no_names_but_the_common_one, 403, "certificate_untrusted"),
    (ended, 403, "certificate_untrusted"),
    (not_begun, 403, "certificate_untrusted"),
    (of_a_root_that_has_ended, 403, "certificate_untrusted"),
    (weak, 400, "malformed_key"),
    (huge, 400, "malformed_key"),
    (of_bitcoins_curve, 400, "malformed_key"),
    (of_the_largest_curve, 400, "malformed_key"),
    (alone, 400, "malformed_request"),
    (too_many, 400, "malformed_request"),
]


@pytest.mark.parametrize(
    ("make", "status", "code"), NOT_TAKEN, ids=[one[0].__name__ for one in NOT_TAKEN]
)
def test_what_clients_would_not_accept_is_not_served(
    front: Any, elsewhere: Elsewhere, make: Any, status: int, code: str
) -> None:
    pki = elsewhere.pki
    server, chain = make(pki, elsewhere.company)
    key = front.keys.import_public_key
    body = {
        "certificates": chain,
        "wrapped_key": pki.wrapped(server.secret, server.sha256, key, "test"),
    }
    answered, answer = front.ask("POST", IMPORT, body)
    assert (answered, answer["error"]["code"]) == (status, code), answer
    assert answer["error"]["message"]
    assert answer["error"]["hint"]
    assert presented(front) == front.leaf
    assert "tls-imported" not in front.singles.records
    assert front.alive


@pytest.mark.parametrize("names", [["*.signer.example"], ["signer.example"]])
def test_wildcards_are_taken_for_what_they_cover(
    start: Any, company_pki: Any, tmp_path: Path, names: list[str]
) -> None:
    def prepare(running: Any) -> None:
        running.tls_names = [*names, "localhost", "127.0.0.1"]

    front = start(prepare)
    elsewhere = Elsewhere(company_pki, front, tmp_path)
    local = list(company_pki.LOCAL)
    assert elsewhere.bring(elsewhere.company.server(local))[0] == 403
    others = elsewhere.company.server([*local, "*.other.example"])
    assert elsewhere.bring(others)[0] == 403
    assert elsewhere.bring(elsewhere.company.server([*local, *names]))[0] == 200


def test_a_wrap_that_does_not_fit_brings_nothing_in(
    front: Any, elsewhere: Elsewhere
) -> None:
    pki, server = elsewhere.pki, elsewhere.company.server()
    key = front.keys.import_public_key
    good = elsewhere.body(server)
    for wrapped in (
        pki.wrapped(server.secret, server.sha256, key, "another-deployment"),
        pki.wrapped(server.secret, "00" * 32, key, "test"),
        pki.wrapped(server.secret, server.sha256, bytes(range(32)), "test"),
        pki.wrapped(b"x" * 3100, server.sha256, key, "test"),
        pki.wrapped(b"", server.sha256, key, "test"),
        pki.wrapped(b"no key", server.sha256, key, "test"),
        pki.wrapped(server.pem.encode(), server.sha256, key, "test"),
        pki.wrapped(server.secret + b"\0", server.sha256, key, "test"),
        pki.wrapped(server.secret[:-1], server.sha256, key, "test"),
        good["wrapped_key"][:-8],
        "no base64!",
        "",
    ):
        status, answer = front.ask("POST", IMPORT, good | {"wrapped_key": wrapped})
        assert (status, answer["error"]["code"]) == (400, "malformed_key"), answer
    assert "tls-imported" not in front.singles.records
    assert front.ask("POST", IMPORT, good)[0] == 200


@pytest.mark.parametrize(
    "change",
    [
        {"certificates": 1},
        {"certificates": "A" * (24 * 1024 + 1)},
        {"certificates": "\u2603"},
        {"certificates": ""},
        {"password": "x"},
        {"wrapped_key": None},
    ],
)
def test_malformed_requests_are_400(
    front: Any, elsewhere: Elsewhere, change: Any
) -> None:
    body = elsewhere.body(elsewhere.company.server()) | change
    status, answer = front.ask("POST", IMPORT, body)
    assert (status, answer["error"]["code"]) == (400, "malformed_request")


# --- stores that fail ---------------------------------------------------------------------


def test_a_store_that_is_away_changes_nothing(front: Any, elsewhere: Elsewhere) -> None:
    front.singles.failure = Undecided(Code.STORAGE_UNAVAILABLE, "away")
    assert elsewhere.bring(elsewhere.company.server())[0] == 503
    assert front.ask("POST", RESET)[0] == 503
    assert presented(front) == front.leaf
    front.singles.failure = None
    assert elsewhere.bring(elsewhere.company.server())[0] == 200


def test_an_answer_that_got_lost_is_made_up_for(
    front: Any, elsewhere: Elsewhere
) -> None:
    front.singles.failure = Undecided(Code.STORAGE_UNAVAILABLE, "the answer got lost")
    front.singles.fail_after_writing = True
    server = elsewhere.company.server()
    assert elsewhere.bring(server)[0] == 503
    assert presented(front) == front.leaf
    front.singles.failure = None
    front.loop.run(front.front.around.tls_keeping.refresh())
    assert presented(front) == server.der


def test_who_is_second_hears_of_the_first(front: Any, elsewhere: Elsewhere) -> None:
    singles = front.singles
    write = singles.write

    async def rival(purpose: str, **options: Any) -> int:
        singles.records[purpose] = (1, b"", b"\0")
        written: int = await write(purpose, **options)
        return written

    singles.write = rival
    status, answer = elsewhere.bring(elsewhere.company.server())
    assert (status, answer["error"]["code"]) == (412, "version_conflict")
    assert presented(front) == front.leaf


def test_every_buffer_that_held_the_key_is_wiped(
    front: Any, elsewhere: Elsewhere
) -> None:
    server = elsewhere.company.server()
    assert elsewhere.bring(server)[0] == 200
    elsewhere.trust()
    tls = front.front.around.tls
    assert not any(tls.key.buffer)
    assert front.ask("POST", IMPORT, b"{}")[0] == 400
    front.loop.run(front.front.around.tls_keeping.refresh())
    assert len(front.singles.handed_out) >= 3
    assert all(not any(each.buffer) for each in front.singles.handed_out)


# --- certificates that end ---------------------------------------------------------------


def test_one_that_ends_is_said_and_served_and_does_not_ask_for_a_restart(
    front: Any, elsewhere: Elsewhere
) -> None:
    assert elsewhere.bring(elsewhere.company.server(ends=90))[0] == 200
    elsewhere.trust()

    def health() -> tuple[int, dict[str, bool], str]:
        status, body = front.ask("GET", "/healthcheck", certificate=None)
        return status, body["checks"], front.ask("GET", SHOW)[1]["objection"]

    status, checks, objection = health()
    assert (status, checks["imported_certificate"], objection) == (200, True, "")
    for days in (61, 200):
        front.clock.offset = days * DAY
        status, checks, objection = health()
        # The watchdog restarts for `certificate`: that would mend nothing here.
        assert (status, checks["certificate"]) == (200, True)
        assert checks["imported_certificate"] is False
        assert "ends at 20" in objection


def test_one_that_has_ended_or_lacks_a_new_manifests_name_is_presented_all_the_same(
    front: Any, elsewhere: Elsewhere
) -> None:
    server = elsewhere.company.server(["signer.example"])
    record = elsewhere.company.chain(server).encode()
    front.singles.records["tls-imported"] = (1, record, server.secret)
    front.loop.run(front.front.around.tls_keeping.refresh())
    assert presented(front) == server.der
    tls = front.front.around.tls
    assert "tls_names" in tls.trouble
    # Verification by attestation does not look at names or dates: that way in stays.
    assert tls.imported


def test_one_that_cannot_be_served_gives_way_to_the_enclaves_own_and_says_so(
    front: Any, elsewhere: Elsewhere
) -> None:
    server = elsewhere.company.server(kind="p521")
    record = elsewhere.company.chain(server).encode()
    front.singles.records["tls-imported"] = (1, record, server.secret)
    front.loop.run(front.front.around.tls_keeping.refresh())
    assert front.alive
    status, body = front.ask("GET", "/healthcheck", certificate=None)
    assert (status, body["checks"]["imported_certificate"]) == (200, False)
    shown = front.ask("GET", SHOW)[1]
    assert (shown["origin"], bool(shown["objection"])) == ("enclave", True)
    # And it is not opened again and again.
    around = front.front.around
    front.loop.run(front.front.around.tls_keeping.refresh())
    assert front.front.around is around


# --- any bytes ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def honest(company_pki: Any) -> tuple[str, bytes]:
    company = company_pki.Company()
    server = company.server()
    return company.chain(server), server.secret


# pyca says so of serial numbers that are not positive.
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_any_chain_and_any_key_are_taken_or_refused_in_words(
    data: Any, honest: Any
) -> None:
    pem, secret = honest
    ders = [bytearray(ssl.PEM_cert_to_DER_cert(one)) for one in split(pem)]
    key = bytearray(secret)
    for target in data.draw(st.lists(st.sampled_from([*ders, key]), max_size=4)):
        at = data.draw(st.integers(0, len(target) - 1))
        how = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if how == "set":
            target[at] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del target[at : at + data.draw(st.integers(1, 40))]
        else:
            target[at:at] = data.draw(st.binary(min_size=1, max_size=40))
        target.extend(b"" if target else b"\0")
    order = data.draw(st.permutations(ders))
    text = "".join(ssl.DER_cert_to_PEM_cert(bytes(one)) for one in order)
    try:
        chain = chain_of(text)
        with SecretBytes(key) as held:
            identity = identity_of(chain, held)
    except (Malformed, Refused):
        return
    with identity.key:
        assert chain[0].public_key() is not None


@settings(deadline=None, max_examples=300)
@given(text=st.text(max_size=300) | st.binary(max_size=300).map(str))
def test_any_text_is_a_chain_or_malformed(text: str) -> None:
    with pytest.raises(Verdict):
        chain_of(text)


def split(pem: str) -> list[str]:
    end = "-----END CERTIFICATE-----\n"
    return [one + end for one in pem.split(end) if one.strip()]
