"""
An emulated Nitro Security Module: the device's requests and answers, one for one.

It runs in the hypervisor's process and speaks the CBOR of aws-nitro-enclaves-nsm-api
(`src/api/mod.rs`), so the enclave's own client cannot tell the difference. PCR0 to
PCR15 are locked from the start, as on AWS; 16 to 31 may be extended and locked. A
document reports all locked registers.
"""

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, final

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from nitrosigner.attestation.measurements import (
    CODE_REGISTERS,
    PCR_COUNT,
    ZERO,
    extended,
    measured,
)
from nitrosigner.emulator.nitro_pki import LEAF_LIFE, Leaf, NitroPki

MAX_REQUEST: Final = 0x1000
"""Bytes of one request (nsm-api, src/driver/mod.rs)."""
MAX_RESPONSE: Final = 0x3000
RANDOM_SIZE: Final = 256
"""Bytes that one GetRandom gives."""
MAX_FIELD: Final = 1024
"""Bytes of user_data, nonce and public_key: what the device's own test sends."""
BOOT_LOCKED: Final = 16
"""Registers that nobody in the enclave can extend."""

_VERSION: Final = (1, 0, 0)

Clock = Callable[[], datetime]


class _Failure(Exception):
    """An `ErrorCode` of the API."""


def initial_pcrs(
    code: Mapping[int, bytes],
    *,
    instance_id: str,
    role_arn: str | None = None,
    image_certificate: bytes | None = None,
    debug: bool = False,
) -> dict[int, bytes]:
    """
    Return the registers as the hypervisor sets them before the enclave starts.

    Args:
        code: PCR0 to PCR2, as measured.
        instance_id: Goes into PCR4, as it is: no inner hash (seen in real documents).
        role_arn: Of the instance's role; goes into PCR3 likewise.
        image_certificate: DER of the certificate that signed the image, for PCR8.
        debug: Leaves the registers that measure the image at zero.
    """
    pcrs = dict.fromkeys(range(PCR_COUNT), ZERO)
    if not debug:
        pcrs |= {index: code[index] for index in CODE_REGISTERS}
        if image_certificate is not None:
            pcrs[8] = measured(image_certificate)
    if role_arn is not None:
        pcrs[3] = extended(role_arn.encode())
    pcrs[4] = extended(instance_id.encode())
    return pcrs


@final
class EmulatedNsm:
    """One enclave's NSM. Requests and answers are CBOR, as on `/dev/nsm`."""

    def __init__(self, pki: NitroPki, pcrs: Mapping[int, bytes], clock: Clock) -> None:
        self._pki = pki
        self._clock = clock
        self._pcrs = dict.fromkeys(range(PCR_COUNT), ZERO) | dict(pcrs)
        self._locked = set(range(BOOT_LOCKED))
        self.module_id: Final = f"{pki.instance_id}-enc{secrets.token_hex(8)}"
        self._leaf: Leaf | None = None
        self._renew_at: datetime | None = None
        self._operations: Mapping[str, Callable[[Mapping[Any, Any]], object]] = {
            "DescribePCR": self._describe_pcr,
            "ExtendPCR": self._extend_pcr,
            "LockPCR": self._lock_pcr,
            "LockPCRs": self._lock_pcrs,
            "DescribeNSM": self._describe_nsm,
            "Attestation": self._attestation,
            "GetRandom": self._get_random,
        }

    @property
    def pcrs(self) -> Mapping[int, bytes]:
        """All registers as they are now."""
        return dict(self._pcrs)

    def handle(self, request: bytes) -> bytes:
        """Answer one request. Nonsense gets an `Error`, never an exception."""
        try:
            if len(request) > MAX_REQUEST:
                raise _Failure("InputTooLarge")  # noqa: TRY301  # one way out for all
            name, arguments = _read(request)
            operation = self._operations.get(name)
            if operation is None:
                raise _Failure("InvalidOperation")  # noqa: TRY301  # see above
            body = operation(arguments)
        except _Failure as failure:
            return cbor2.dumps({"Error": str(failure)})
        # serde writes a variant without fields as its bare name.
        return cbor2.dumps(name if body is None else {name: body})

    def attest(
        self,
        *,
        public_key: bytes | None = None,
        user_data: bytes | None = None,
        nonce: bytes | None = None,
    ) -> bytes:
        """Return a signed document that holds these values."""
        now = self._clock()
        if self._leaf is None or self._renew_at is None or now >= self._renew_at:
            self._leaf = self._pki.leaf(self.module_id, now)
            self._renew_at = now + LEAF_LIFE / 2
        # Explicit nulls, in this order: as real documents have them.
        payload = {
            "module_id": self.module_id,
            "digest": "SHA384",
            "timestamp": int(now.timestamp() * 1000),
            "pcrs": {index: self._pcrs[index] for index in sorted(self._locked)},
            "certificate": der(self._leaf.certificate),
            "cabundle": [der(certificate) for certificate in self._leaf.chain],
            "public_key": public_key,
            "user_data": user_data,
            "nonce": nonce,
        }
        return sign(cbor2.dumps(payload), self._leaf.key)

    def _describe_nsm(self, _: Mapping[Any, Any]) -> object:
        major, minor, patch = _VERSION
        return {
            "version_major": major,
            "version_minor": minor,
            "version_patch": patch,
            "module_id": self.module_id,
            "max_pcrs": PCR_COUNT,
            "locked_pcrs": sorted(self._locked),
            "digest": "SHA384",
        }

    def _describe_pcr(self, arguments: Mapping[Any, Any]) -> object:
        index = _index(arguments)
        return {"lock": index in self._locked, "data": self._pcrs[index]}

    def _extend_pcr(self, arguments: Mapping[Any, Any]) -> object:
        index = _index(arguments)
        data = arguments.get("data")
        if not isinstance(data, bytes) or not data:
            raise _Failure("InvalidArgument")
        if index in self._locked:
            raise _Failure("ReadOnlyIndex")
        self._pcrs[index] = extended(data, self._pcrs[index])
        return {"data": self._pcrs[index]}

    def _lock_pcr(self, arguments: Mapping[Any, Any]) -> None:
        index = _index(arguments)
        if index in self._locked:
            raise _Failure("ReadOnlyIndex")
        self._locked.add(index)

    def _lock_pcrs(self, arguments: Mapping[Any, Any]) -> None:
        self._locked |= set(range(_number(arguments, "range", PCR_COUNT + 1)))

    def _attestation(self, arguments: Mapping[Any, Any]) -> object:
        fields = {
            name: _optional(arguments, name)
            for name in ("public_key", "user_data", "nonce")
        }
        if fields["public_key"] == b"":
            # A document with an empty key would break its own specification.
            raise _Failure("InvalidArgument")
        return {"document": self.attest(**fields)}

    @staticmethod
    def _get_random(_: Mapping[Any, Any]) -> object:
        return {"random": secrets.token_bytes(RANDOM_SIZE)}


def sign(payload: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return *payload* as an untagged COSE_Sign1 with ES384."""
    protected = cbor2.dumps({1: -35})
    to_sign = cbor2.dumps(["Signature1", protected, b"", payload])
    r, s = decode_dss_signature(key.sign(to_sign, ec.ECDSA(hashes.SHA384())))
    signature = r.to_bytes(48, "big") + s.to_bytes(48, "big")
    return cbor2.dumps([protected, {}, payload, signature])


def der(certificate: x509.Certificate) -> bytes:
    """Return *certificate* as documents hold it."""
    return certificate.public_bytes(serialization.Encoding.DER)


def _read(request: bytes) -> tuple[str, Mapping[Any, Any]]:
    try:
        value = cbor2.loads(request)
    except (cbor2.CBORError, ValueError, RecursionError):
        raise _Failure("InvalidArgument") from None
    if isinstance(value, str):
        return value, {}
    if isinstance(value, dict) and len(value) == 1:
        ((name, arguments),) = value.items()
        if isinstance(name, str) and isinstance(arguments, dict | None):
            return name, arguments or {}
    raise _Failure("InvalidOperation")


def _number(arguments: Mapping[Any, Any], name: str, end: int) -> int:
    value = arguments.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Failure("InvalidArgument")
    if not 0 <= value < end:
        raise _Failure("InvalidIndex")
    return value


def _index(arguments: Mapping[Any, Any]) -> int:
    return _number(arguments, "index", PCR_COUNT)


def _optional(arguments: Mapping[Any, Any], name: str) -> bytes | None:
    value = arguments.get(name)
    if value is not None and not isinstance(value, bytes):
        raise _Failure("InvalidArgument")
    if value is not None and len(value) > MAX_FIELD:
        raise _Failure("InputTooLarge")
    return value
