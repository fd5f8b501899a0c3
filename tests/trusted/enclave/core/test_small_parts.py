"""NSM, entropy, memory, roots, names of keys: the parts that stand alone."""

import base64
import ctypes
import hashlib
import os
import random
import resource
import secrets
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.trusted.enclave import main, memory
from nitrosigner.trusted.enclave.attested import entropy, nsm
from nitrosigner.trusted.enclave.attested.aws_endpoint import amazon_roots
from nitrosigner.trusted.enclave.keys.key_index import KeyIndex, looks_like_address
from nitrosigner.trusted.enclave.keys.key_material import private_key
from nitrosigner.trusted.enclave.vault.sealed_records import Slot
from nitrosigner.trusted.enclave.vault.vault import Vault, VaultKey
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Malformed, Refused, Undecided

# --- NSM ---


def test_requests_are_the_device_s_cbor() -> None:
    sent = []

    def device(request: bytes) -> bytes:
        sent.append(cbor2.loads(request))
        if sent[-1] == "GetRandom":
            return cbor2.dumps({"GetRandom": {"random": b"r" * 256}})
        return cbor2.dumps({"Attestation": {"document": b"doc"}})

    client = nsm.NsmClient(device)
    assert client.attest(public_key=b"k", nonce=b"n") == b"doc"
    assert sent[-1] == {
        "Attestation": {"user_data": None, "nonce": b"n", "public_key": b"k"}
    }
    assert client.random(600) == b"r" * 600
    assert sent[1:] == ["GetRandom"] * 3
    assert client.random(0) == b""


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff",
        cbor2.dumps({"Error": "InternalError"}),
        cbor2.dumps({"GetRandom": {"random": b""}}),
        cbor2.dumps({"GetRandom": {"random": "text"}}),
        cbor2.dumps({"GetRandom": {}}),
        cbor2.dumps({"GetRandom": None}),
        cbor2.dumps({"GetRandom": {"random": b"x"}, "Attestation": {}}),
        cbor2.dumps({"Attestation": {"document": b"x"}}),
        cbor2.dumps("GetRandom"),
        cbor2.dumps([1]),
        b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
        b"x" * (nsm.MAX_RESPONSE + 1),
    ],
    ids=lambda answer: repr(answer)[:24],
)
def test_an_nsm_that_talks_nonsense_is_unavailable(answer: bytes) -> None:
    with pytest.raises(Undecided) as caught:
        nsm.NsmClient(lambda _request: answer).random(1)
    assert caught.value.code == "nsm_unavailable"


def test_no_device_is_unavailable_and_asked_again(tmp_path: Any) -> None:
    device = nsm.NsmDevice(str(tmp_path / "nsm"))
    client = nsm.NsmClient(device)
    with pytest.raises(Undecided):
        client.random(1)
    # A file is no device: the ioctl itself fails.
    (tmp_path / "nsm").write_bytes(b"")
    with pytest.raises(Undecided):
        client.random(1)
    os.close(device._descriptor)  # type: ignore[arg-type]


def test_the_ioctl_is_the_kernel_s() -> None:
    """linux/nsm.h: _IOWR(0x0A, 0x0, struct nsm_message), two iovecs of 16 bytes."""
    assert nsm._MESSAGE.size == 32
    assert nsm._IOCTL == 0xC0200A00


def test_a_request_that_the_device_cannot_take_is_not_sent() -> None:
    client = nsm.NsmClient(lambda _: pytest.fail("it was sent"))
    with pytest.raises(Undecided):
        client.attest(user_data=bytes(nsm.MAX_REQUEST))


# --- entropy ---


class Source:
    def __init__(self, fixed: bytes | None = None) -> None:
        self.fixed = fixed

    def random(self, size: int) -> bytes:
        return secrets.token_bytes(size) if self.fixed is None else self.fixed * size


def test_either_source_alone_makes_secrets_differ() -> None:
    broken_kernel = entropy.Entropy(Source(), bytes)
    made = {bytes(broken_kernel.secret(32, "x").buffer) for _ in range(50)}
    assert len(made) == 50

    # An adversary who knows what the NSM will say still does not know the kernel's.
    def known_nsm() -> entropy.Entropy:
        return entropy.Entropy(Source(b"n"), os.urandom)

    made = {bytes(known_nsm().secret(32, "x").buffer) for _ in range(50)}
    assert len(made) == 50


def test_the_purpose_and_the_kms_seed_change_everything() -> None:
    def fixed() -> entropy.Entropy:
        return entropy.Entropy(Source(b"n"), lambda size: b"k" * size)

    plain = fixed().secret(32, "x")
    assert plain.buffer == fixed().secret(32, "x").buffer
    assert plain.buffer != fixed().secret(32, "y").buffer
    seeded = fixed()
    seeded.add_kms_seed(SecretBytes(bytearray(32)))
    assert seeded.secret(32, "x").buffer != plain.buffer


@pytest.mark.parametrize("source", [Source(b"\0"), Source(b"")])
def test_an_nsm_that_gives_zeros_or_nothing_makes_no_key(source: Any) -> None:
    with pytest.raises(Undecided):
        entropy.Entropy(source, os.urandom).secret(32, "x")


def test_an_nsm_that_repeats_itself_makes_no_second_key() -> None:
    made = entropy.Entropy(Source(b"n"), os.urandom)
    made.secret(32, "x")
    with pytest.raises(Undecided):
        made.secret(32, "x")


# --- memory ---


def test_taken_bytes_are_overwritten() -> None:
    secret = os.urandom(48)
    address, copy = id(secret), bytes(bytearray(secret))
    taken = memory.take_bytes(secret)
    assert taken == copy
    left = ctypes.string_at(address + bytes.__basicsize__ - 1, 48)
    assert left == bytes(48)


def test_bytes_that_somebody_else_holds_are_not_overwritten() -> None:
    secret = os.urandom(48)
    also = [secret]
    with pytest.raises(ValueError, match="shared"):
        memory.take_bytes(secret)
    assert any(also[0])


def test_the_guards_hold_in_a_process_of_its_own() -> None:
    """Not in this one: an undumpable test process cannot be debugged."""
    program = (
        "import resource, ctypes\n"
        "from nitrosigner.trusted.enclave.memory import guard_memory\n"
        "g = guard_memory()\n"
        "assert g.core_dumps_off and g.undumpable\n"
        "assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)\n"
        "assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0\n"
        "locked = [l for l in open('/proc/self/status') if l.startswith('VmLck')]\n"
        "assert g.locked == (int(locked[0].split()[1]) > 0), (g, locked)\n"
        "x = [bytearray(1 << 20) for _ in range(64)]\n"
        "import threading; threading.Thread(target=print, args=('ok',)).start()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == "ok", done.stderr


def test_a_limited_allowance_is_not_locked_into_a_trap() -> None:
    program = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, 1 << 16))\n"
        "from nitrosigner.trusted.enclave import memory\n"
        "memory._has_capability = lambda _number: False\n"
        "assert not memory.guard_memory().locked\n"
        "print('ok')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == "ok", done.stderr


# --- Amazon's roots ---

PUBLISHED = {
    # https://www.amazontrust.com/repository/
    "Amazon Root CA 1": "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e",
    "Amazon Root CA 2": "1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4",
    "Amazon Root CA 3": "18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4",
    "Amazon Root CA 4": "e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092",
    "Starfield Services Root Certificate Authority - G2": (
        "568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5"
    ),
}


def certificates(pem: str) -> list[bytes]:
    end = "-----END CERTIFICATE-----"
    return [
        ssl.PEM_cert_to_DER_cert(part[part.index("-----BEGIN") :] + end)
        for part in pem.split(end)[:-1]
    ]


def test_the_roots_are_the_published_ones() -> None:
    ders = certificates(amazon_roots())
    assert [hashlib.sha256(der).hexdigest() for der in ders] == list(PUBLISHED.values())


def test_the_roots_load_and_are_authorities() -> None:
    for der in certificates(amazon_roots())[:4]:
        certificate = x509.load_der_x509_certificate(der)
        name = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        assert (
            certificate.fingerprint(hashes.SHA256()).hex() == PUBLISHED[name[0].value]
        )
        constraints = certificate.extensions.get_extension_for_class(
            x509.BasicConstraints
        )
        assert constraints.value.ca


# --- keys in memory ---


def slot(name: str, number: int, key: VaultKey) -> Slot:
    return Slot(
        name=name,
        algorithm="secp256k1",
        kind="vault",
        public_key=bytes(33),
        identity=f"0x{number:040X}",
        state="enabled",
        version=1,
        created=0,
        purge_after=0,
        header=b"",
        nonce=b"",
        ciphertext=b"",
        vault_key=key,
    )


def vault_key() -> VaultKey:
    return VaultKey(SecretBytes(bytearray(os.urandom(32))))


@given(st.lists(st.tuples(st.sampled_from("abcdefg"), st.booleans()), max_size=40))
def test_the_index_is_a_sorted_dictionary(steps: list[tuple[str, bool]]) -> None:
    key, index, model = vault_key(), KeyIndex(), {}
    for number, (name, add) in enumerate(steps):
        if add:
            model[name] = slot(name, number, key)
            index.put(model[name])
        elif name in model:
            del model[name]
            index.remove(name)
    assert len(index) == len(model)
    assert [one.name for one in index] == sorted(model)
    slots, more = index.page("b", 2)
    names = [name for name in sorted(model) if name > "b"]
    assert ([one.name for one in slots], more) == (names[:2], len(names) > 2)
    for name, one in model.items():
        assert index.find(name) is one
        assert index.find(one.identity.lower()) is one


def test_names_like_addresses_are_known() -> None:
    assert looks_like_address("0x" + "a" * 40)
    assert not looks_like_address("0x" + "a" * 39)


# --- the vault ---


def test_two_seals_of_one_thing_differ_and_both_open() -> None:
    key = vault_key()
    one = key.seal(b"secret", b"about", os.urandom)
    two = key.seal(b"secret", b"about", os.urandom)
    assert one.nonce != two.nonce
    for sealed in (one, two):
        with key.open(sealed.nonce, sealed.ciphertext, b"about") as opened:
            assert opened.buffer == b"secret"


def test_a_broken_random_source_repeats_no_nonce_for_different_records() -> None:
    key = vault_key()
    broken = bytes
    nonces = {
        key.seal(plaintext, associated, broken).nonce
        for plaintext in (b"a", b"b", b"ab")
        for associated in (b"", b"x", b"xa")
    }
    assert len(nonces) == 9


@pytest.mark.parametrize("size", [0, 15, 16, 47])
def test_what_was_not_sealed_does_not_open(size: int) -> None:
    with pytest.raises(Refused) as caught:
        vault_key().open(bytes(12), bytes(size), b"")
    assert caught.value.code == "record_untrusted"


def test_an_unknown_vault_key_is_a_refusal() -> None:
    vault = Vault([vault_key()], 1)
    with pytest.raises(Refused):
        vault.key(b"unknown!")
    assert vault.key(vault.current.identifier) is vault.current


def test_a_vault_key_does_not_print() -> None:
    secret = os.urandom(32)
    key = VaultKey(SecretBytes(bytearray(secret)))
    assert secret.hex() not in repr(key)
    assert base64.b64encode(secret).decode() not in repr(key)


# --- imported material ---


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"0x",
        b"x" * 31,
        b"x" * 33,
        b"g" * 64,
        b"0x" + b"a" * 62,
        b"a" * 65,
        b" " + b"a" * 63,
        b"a" * 64 + b"\n",
        b"0x0x" + b"a" * 62,
    ],
)
def test_what_is_neither_a_key_nor_its_hex_text_is_malformed(bad: bytes) -> None:
    with pytest.raises(Malformed):
        private_key(SecretBytes(bytearray(bad)), 32)


@given(st.binary(min_size=32, max_size=32), st.sampled_from(["", "0x", "0X"]))
def test_hex_text_is_read_as_python_reads_it(key: bytes, prefix: str) -> None:
    generator = random.Random(key)
    digits = "".join(generator.choice([c, c.upper()]) for c in key.hex())
    text = SecretBytes(bytearray((prefix + digits).encode()))
    assert private_key(text, 32).buffer == key


# --- production's own world ---


def test_production_s_entry_takes_no_options_and_reads_no_environment() -> None:
    source = Path(main.__file__).read_text(encoding="utf-8")
    assert "os.environ" not in source
    assert "getenv" not in source
    assert "argv" not in source


def test_the_kernel_s_clocks_are_clocks() -> None:
    clock = main.KernelClock()
    assert clock.monotonic() <= clock.monotonic()
    assert clock.now() > 1.7e9


def test_rlimits_of_this_process_are_untouched_by_imports() -> None:
    assert resource.getrlimit(resource.RLIMIT_CORE) is not None
