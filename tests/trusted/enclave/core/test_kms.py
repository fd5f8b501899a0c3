"""The attested KMS client against the emulated KMS, which fails on demand."""

import asyncio
import base64
import contextlib
import json
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization

from nitrosigner.emulator.kms import FORGED_SECRET, Fault
from nitrosigner.emulator.kms import envelope as emulated
from nitrosigner.trusted.enclave.attested import aws_endpoint, aws_errors
from nitrosigner.trusted.enclave.attested.aws_endpoint import AwsEndpoint, trusted_tls
from nitrosigner.trusted.enclave.attested.kms import Kms, Patience
from nitrosigner.trusted.enclave.attested.recipient import Recipient
from nitrosigner.trusted.enclave.parent_link.parent_services import ParentServices
from nitrosigner.verdicts import Code, Refused, Undecided, Verdict
from nitrosigner.wire import manifest, services

SHORT = Patience(deadline=0.4, first_pause=0.01, longest_pause=0.05)
LONG = Patience(deadline=15, first_pause=0.01, longest_pause=0.05)


class Scene:
    """A client and what it talks to."""

    def __init__(self, lab: Any, parent: Any, **changes: Any) -> None:
        self.lab, self.parent = lab, parent
        aws = lab.aws()
        self.services = ParentServices(parent, lab.clock)
        tls = changes.get("tls") or trusted_tls(
            "".join(aws.kms_certificate_authorities)
        )
        host = changes.get("host", f"kms.{aws.region}.amazonaws.com")
        self.endpoint = AwsEndpoint(parent, host, tls)
        self.recipient = Recipient.generate(lab.nsm(), lab.clock)
        self.kms = Kms(
            endpoint=self.endpoint,
            credentials=self.services,
            recipient=self.recipient,
            clock=lab.clock,
            aws=changes.get("aws", aws),
            patience=changes.get("patience", LONG),
        )
        self.context = manifest.encryption_context(lab.accepted(), "vault")

    def close(self) -> None:
        self.kms.close()
        self.services.close()


@pytest.fixture
def scene(lab: Any, parent: Any) -> Callable[..., Any]:
    @contextlib.asynccontextmanager
    async def make(**changes: Any) -> AsyncIterator[Scene]:
        made = Scene(lab, parent, **changes)
        try:
            yield made
        finally:
            made.close()

    return make


def test_a_data_key_opens_again_under_its_context_only(scene: Any) -> None:
    async def whole() -> None:
        async with scene() as at:
            made = await at.kms.generate_data_key(at.context)
            assert len(made.secret) == 32
            with await at.kms.decrypt(made.ciphertext, at.context) as opened:
                assert opened.buffer == made.secret.buffer
            for context in (
                at.context | {"purpose": "key"},
                at.context | {"more": "x"},
                at.context | {"deployment": "other"},
                at.context | {"administrator": "0" * 64},
            ):
                with pytest.raises(Refused) as caught:
                    await at.kms.decrypt(made.ciphertext, context)
                assert caught.value.code == "kms_refused"
            assert at.kms.calls == 6

    asyncio.run(whole())


def test_calls_share_a_kept_connection_and_a_document(
    scene: Any, parent: Any, lab: Any
) -> None:
    tunnels = []
    honest = parent.connect
    parent.connect = lambda port: tunnels.append(port) or honest(port)

    async def whole() -> None:
        async with scene() as at:
            documents = []
            attest = at.recipient._nsm.attest
            at.recipient._nsm.attest = lambda **k: documents.append(1) or attest(**k)
            await at.kms.reach()
            for _ in range(5):
                await at.kms.generate_data_key(at.context)
            assert len(documents) == 1

    asyncio.run(whole())
    assert sorted(tunnels) == [7001, 7002]


def test_an_old_document_is_made_anew(scene: Any, lab: Any) -> None:
    async def whole() -> None:
        async with scene() as at:
            first = await at.recipient.kms_document()
            assert await at.recipient.kms_document() is first
            at.recipient._made -= 121
            assert await at.recipient.kms_document() is not first

    asyncio.run(whole())


def test_the_parent_sees_neither_plaintext_nor_ciphertext_of_the_answer(
    scene: Any, parent: Any
) -> None:
    async def whole() -> None:
        async with scene() as at:
            made = await at.kms.generate_data_key(at.context)
            assert bytes(made.secret.buffer) not in parent.seen
            assert base64.b64encode(made.ciphertext) not in parent.seen
            assert b"AttestationDocument" not in parent.seen

    asyncio.run(whole())


@pytest.mark.parametrize(
    "fault",
    [
        Fault.PLAINTEXT,
        Fault.ONLY_PLAINTEXT,
        Fault.WRONG_KEY_ID,
        Fault.BROKEN_ENVELOPE,
        Fault.NO_ENVELOPE,
        Fault.GARBAGE,
        Fault.NOT_AN_OBJECT,
    ],
)
@pytest.mark.parametrize("operation", ["Decrypt", "GenerateDataKey"])
def test_an_answer_that_is_not_kms_s_is_refused(
    scene: Any, lab: Any, fault: Fault, operation: str
) -> None:
    async def whole() -> None:
        async with scene() as at:
            made = await at.kms.generate_data_key(at.context)
            lab.faults.next(operation, fault)
            with pytest.raises(Refused) as caught:
                if operation == "Decrypt":
                    await at.kms.decrypt(made.ciphertext, at.context)
                else:
                    await at.kms.generate_data_key(at.context)
            assert caught.value.code == "kms_untrusted"

    asyncio.run(whole())


def test_a_forged_envelope_inside_kms_s_own_tls_cannot_be_told(
    scene: Any, lab: Any
) -> None:
    """What the envelope cannot prove, TLS must: this is the limit, and it is known."""

    async def whole() -> None:
        async with scene() as at:
            made = await at.kms.generate_data_key(at.context)
            lab.faults.next("Decrypt", Fault.FORGED_ENVELOPE)
            with await at.kms.decrypt(made.ciphertext, at.context) as opened:
                assert opened.buffer == FORGED_SECRET

    asyncio.run(whole())


@pytest.mark.parametrize(
    "fault",
    [
        Fault.THROTTLE,
        Fault.INTERNAL,
        Fault.DEPENDENCY_TIMEOUT,
        Fault.DROP,
        Fault.TRUNCATE,
        Fault.HUGE,
        Fault.HTML_ERROR,
    ],
)
def test_trouble_that_passes_is_waited_out_and_trouble_that_stays_is_undecided(
    scene: Any, lab: Any, fault: Fault
) -> None:
    async def whole() -> None:
        async with scene() as at:
            lab.faults.next("GenerateDataKey", fault, times=2)
            assert await at.kms.generate_data_key(at.context)
            assert at.kms.healthy
        async with scene(patience=SHORT) as at:
            lab.faults.always("GenerateDataKey", fault)
            with pytest.raises(Undecided) as caught:
                await at.kms.generate_data_key(at.context)
            assert caught.value.code == "kms_unavailable"
            assert not at.kms.healthy

    asyncio.run(whole())


def test_a_slow_kms_is_undecided(
    scene: Any, lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws_endpoint, "EXCHANGE_TIMEOUT", 0.05)

    async def whole() -> None:
        async with scene(patience=SHORT) as at:
            lab.faults.always("GenerateDataKey", Fault.SLOW, seconds=0.3)
            with pytest.raises(Undecided):
                await at.kms.generate_data_key(at.context)

    asyncio.run(whole())


def test_expired_credentials_are_fetched_again_once(
    scene: Any, lab: Any, parent: Any
) -> None:
    good = parent.given
    parent.given = msgspec.structs.replace(good, session_token="expired-token-text")

    def mend(request: Any, answer: Any) -> Any:
        if isinstance(request, services.GetCredentials):
            parent.given = good
        return answer

    parent.after = mend

    async def whole() -> None:
        async with scene() as at:
            assert await at.kms.generate_data_key(at.context)
            assert parent.count(services.GetCredentials) == 2

    asyncio.run(whole())


def test_credentials_that_stay_bad_are_a_refusal_with_a_hint(
    scene: Any, parent: Any
) -> None:
    parent.given = msgspec.structs.replace(parent.given, access_key_id="ASIAWRONG")

    async def whole() -> None:
        async with scene() as at:
            with pytest.raises(Refused) as caught:
                await at.kms.generate_data_key(at.context)
            assert caught.value.code == "kms_refused"
            assert "role" in caught.value.hint
            assert parent.count(services.GetCredentials) == 2

    asyncio.run(whole())


def test_credentials_about_to_expire_are_renewed(
    scene: Any, lab: Any, parent: Any
) -> None:
    async def whole() -> None:
        parent.given = msgspec.structs.replace(
            parent.given, expires=int(lab.clock.now()) + 60
        )
        async with scene() as at:
            await at.kms.generate_data_key(at.context)
            await at.kms.generate_data_key(at.context)
            assert parent.count(services.GetCredentials) == 2

    asyncio.run(whole())


def test_a_wrong_clock_is_undecided_and_says_so(scene: Any, lab: Any) -> None:
    async def whole() -> None:
        lab.clock.ahead = 3600.0
        async with scene(patience=SHORT) as at:
            with pytest.raises(Undecided) as caught:
                await at.kms.generate_data_key(at.context)
            assert "clock" in caught.value.hint

    asyncio.run(whole())


def test_another_root_s_document_is_a_refusal_with_a_hint(scene: Any, lab: Any) -> None:
    import datetime as dt

    from nitrosigner.emulator.nitro_pki import NitroPki

    async def whole() -> None:
        own = lab.pki
        lab.pki = NitroPki.new(dt.datetime.now(dt.UTC))
        try:
            async with scene() as at:
                with pytest.raises(Refused) as caught:
                    await at.kms.generate_data_key(at.context)
                assert caught.value.code == "kms_refused"
                assert "emulated" in caught.value.hint
        finally:
            lab.pki = own

    asyncio.run(whole())


def test_a_ciphertext_of_another_key_is_refused(scene: Any, lab: Any) -> None:
    async def whole() -> None:
        async with scene() as at:
            for blob in (b"", b"x" * 7000, b"garbage" * 9):
                with pytest.raises(Refused):
                    await at.kms.decrypt(blob, at.context)

    asyncio.run(whole())


def test_a_key_that_the_manifest_does_not_name_is_not_used(
    scene: Any, lab: Any
) -> None:
    async def whole() -> None:
        other = msgspec.structs.replace(
            lab.aws(),
            kms_key_arn=f"arn:aws:kms:{lab.kms.region}:123456789012:key/"
            "00000000-0000-0000-0000-000000000000",
        )
        async with scene(aws=other) as at:
            with pytest.raises(Refused) as caught:
                await at.kms.generate_data_key(at.context)
            assert caught.value.code == "kms_refused"

    asyncio.run(whole())


# --- the way there ---


def test_a_certificate_of_nobody_we_trust_is_not_talked_to(scene: Any) -> None:
    async def whole() -> None:
        tls = trusted_tls(aws_endpoint.amazon_roots())
        async with scene(tls=tls, patience=SHORT) as at:
            with pytest.raises(Undecided) as caught:
                await at.kms.reach()
            assert "certificate" in caught.value.message

    asyncio.run(whole())


def test_a_certificate_for_another_host_is_not_talked_to(scene: Any) -> None:
    async def whole() -> None:
        async with scene(host="kms.eu-west-9.amazonaws.com", patience=SHORT) as at:
            with pytest.raises(Undecided) as caught:
                await at.kms.reach()
            assert "certificate" in caught.value.message

    asyncio.run(whole())


def test_tls_below_1_2_is_not_offered() -> None:
    context = trusted_tls(aws_endpoint.amazon_roots())
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.parametrize(
    "greeting",
    [
        b"HTTP/1.1 403 Forbidden\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"SSH-2.0\r\n\r\n",
        b"x" * 5000,
        b"",
    ],
)
def test_a_proxy_that_says_anything_but_yes_is_undecided(
    scene: Any, parent: Any, greeting: bytes
) -> None:
    parent.greeting = greeting

    async def whole() -> None:
        async with scene(patience=SHORT) as at:
            with pytest.raises(Undecided):
                await at.kms.reach()

    asyncio.run(whole())


def test_a_kept_connection_that_died_is_replaced_without_a_pause(
    scene: Any, parent: Any, lab: Any
) -> None:
    async def whole() -> None:
        async with scene(patience=Patience(0.0, 0.0, 0.0)) as at:
            await at.kms.generate_data_key(at.context)
            parent.hang_up()
            await at.kms.generate_data_key(at.context)

    asyncio.run(whole())


def test_many_calls_at_once_are_answered(scene: Any) -> None:
    async def whole() -> None:
        async with scene() as at:
            made = await asyncio.gather(
                *(at.kms.generate_data_key(at.context) for _ in range(20))
            )
            assert len({bytes(one.secret.buffer) for one in made}) == 20
            assert len(at.endpoint._idle) <= aws_endpoint.MAX_CONNECTIONS

    asyncio.run(whole())


# --- what errors mean ---


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, b'{"__type":"AccessDeniedException"}', Refused, "PCR0"),
        (400, b'{"__type":"com.amazonaws.kms#AccessDeniedException"}', Refused, "PCR0"),
        (400, b'{"__type":"NotFoundException"}', Refused, "kms_key_arn"),
        (400, b'{"__type":"DisabledException"}', Refused, "describe-key"),
        (400, b'{"__type":"KMSInvalidStateException"}', Refused, "describe-key"),
        (400, b'{"__type":"InvalidCiphertextException"}', Refused, "another"),
        (400, b'{"__type":"ValidationException"}', Refused, "emulated"),
        (400, b'{"__type":"InvalidSignatureException"}', Undecided, "clock"),
        (400, b'{"__type":"ThrottlingException"}', Undecided, "again"),
        (429, b"", Undecided, "again"),
        (500, b"<html>", Undecided, "again"),
        (503, b"\xff", Undecided, "again"),
        (400, b'{"__type":"NewException"}', Refused, "CloudTrail"),
        (400, b'{"__type":7}', Refused, "CloudTrail"),
        (418, b"[]", Refused, "CloudTrail"),
        (302, b"", Refused, "CloudTrail"),
    ],
)
def test_errors_become_verdicts_with_a_next_step(
    status: int, body: bytes, kind: type[Verdict], words: str
) -> None:
    verdict = aws_errors.meaning(status, body).verdict()
    assert type(verdict) is kind
    assert words in verdict.hint


def test_no_word_of_kms_s_own_is_passed_on() -> None:
    body = json.dumps({"__type": "AccessDeniedException", "message": "CANARY"}).encode()
    verdict = aws_errors.meaning(400, body).verdict()
    assert "CANARY" not in verdict.message + verdict.hint


def test_an_envelope_for_the_right_key_from_the_parent_never_arrives(
    scene: Any, lab: Any, parent: Any
) -> None:
    """The parent knows our public key and answers for KMS: TLS says no."""
    import socket

    from nitrosigner.wire.addresses import EGRESS_PORT

    async def whole() -> None:
        async with scene(patience=SHORT) as at:
            spki = at.recipient.kms_key.public_key().public_bytes(
                serialization.Encoding.DER,
                serialization.PublicFormat.SubjectPublicKeyInfo,
            )
            body = json.dumps(
                {
                    "KeyId": lab.arn,
                    "CiphertextForRecipient": base64.b64encode(
                        emulated.seal(b"f" * 32, spki)
                    ).decode(),
                }
            ).encode()
            answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body

            def connect(port: int) -> socket.socket:
                if port != EGRESS_PORT:
                    return honest(port)
                ours, theirs = socket.socketpair()

                def pretend() -> None:
                    with ours, contextlib.suppress(OSError):
                        ours.recv(1 << 16)
                        ours.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                        ours.recv(1 << 16)
                        ours.sendall(answer)
                        ours.recv(1 << 16)

                threading.Thread(target=pretend, daemon=True).start()
                return theirs

            honest, parent.connect = parent.connect, connect
            with pytest.raises(Undecided):
                await at.kms.decrypt(b"c" * 100, at.context)

    asyncio.run(whole())


def test_the_codes_of_both_kinds_are_in_the_closed_list() -> None:
    for known in aws_errors._TABLE.values():
        assert known.verdict().code in set(Code)
