"""
The wallet's Lambda function: the reference's operations, and those it lacked.

It holds no key and decides nothing; what it may do, the enclave's manifest says. Before
anything is sent, the enclave is verified, once for each cold start and again whenever
its certificate changes. An event is never logged: `set_key` has a private key in it.

What comes back is the operation's result, or `{"error": {code, message, hint}}`.
Nothing is ever a sentence where a result is expected.
"""

import base64
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

import boto3
import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from nitrosigner.client.hexadecimal import bytes_of_hex
from nitrosigner.client.private_key import PrivateKey
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.client.verification import Proof
from nitrosigner.untrusted.gateway import configuration, events
from nitrosigner.untrusted.gateway.amounts import wei, wei_from_ether
from nitrosigner.untrusted.gateway.configuration import Configuration
from nitrosigner.untrusted.gateway.signer import AWS, VerifiedSigner, connect, now
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided, Verdict
from nitrosigner.wire import api
from nitrosigner.wire.manifest import key_encryption_context

ALGORITHM: Final = "secp256k1"
_REFUSALS: Final = frozenset(
    {
        "AccessDeniedException",
        "AccessDenied",
        "DisabledException",
        "InvalidKeyUsageException",
        "KMSInvalidStateException",
        "NotFoundException",
        "UnrecognizedClientException",
        "InvalidSignatureException",
    }
)


class Kms(Protocol):
    """The one call of KMS that the gateway makes."""

    def encrypt(
        self,
        *,
        KeyId: str,  # noqa: N803  # AWS's name
        Plaintext: bytes,  # noqa: N803  # AWS's name
        EncryptionContext: Mapping[str, str],  # noqa: N803  # AWS's name
    ) -> Mapping[str, Any]:
        """Encrypt; raises botocore's errors."""
        ...


@dataclass
class Wallet:
    """The operations, over one signer. Make one for each process."""

    configuration: Configuration
    client: SignerClient
    kms: Callable[[], Kms]
    """Makes the KMS client when the first `set_key` needs it."""
    now: Callable[[], datetime] = now
    _signer: VerifiedSigner = field(init=False)

    def __post_init__(self) -> None:
        """Verify before the first event, not yet."""
        self._signer = VerifiedSigner(self.configuration, self.client, self.now)

    def answer(self, event: object) -> Any:  # noqa: ANN401  # each operation has its own
        """
        Do what *event* asks and return the result as JSON values.

        Raises:
            Verdict: Nothing was signed or stored.
        """
        asked = events.read(event)
        return self._signer.ask(lambda proof: self._do(asked, proof))

    def _do(self, asked: events.Event, proof: Proof) -> Any:  # noqa: ANN401  # one line for each operation
        key = asked.key or self.configuration.default_key
        match asked:
            case events.SetKey():
                return self._set_key(proof, key, asked)
            case events.GetKey():
                return self.client.ciphertext(key).ciphertext
            case events.SignTransaction():
                return self._sign_transaction(key, asked)
            case events.CreateKey():
                return _json(self.client.create_key(key, asked.algorithm))
            case events.ListKeys():
                return {"keys": [_json(found) for found in self.client.list_keys()]}
            case events.SignMessage():
                return _json(self.client.sign_message(key, _message(asked)))
            case events.SignTypedData():
                return _json(self.client.sign_typed_data(key, asked.typed_data))
            case events.Status():
                return self._status(proof)
            case _:  # pragma: no cover  # `events.read` returns nothing else
                raise AssertionError

    def _set_key(self, proof: Proof, name: str, asked: events.SetKey) -> dict[str, Any]:
        # Everything that can be wrong with the key is found before it is encrypted:
        # a typing error must not become a ciphertext that fails at its first use.
        with PrivateKey.from_hex(asked.eth_key) as private_key:
            self._check_free(name, asked.version)
            ciphertext = self._encrypt(proof, name, private_key)
            address = private_key.address
        stored = self.client.import_kms_key(
            api.ImportKmsKey(
                name=name,
                algorithm=ALGORITHM,
                identity=address,
                ciphertext=base64.b64encode(ciphertext).decode(),
                reseal=asked.reseal,
                version=asked.version or 0,
            )
        )
        return _json(stored) | {"address": stored.identity}

    def _check_free(self, name: str, version: int | None) -> None:
        """Say no before KMS is asked; the enclave checks the same when it stores."""
        if version is not None:
            return
        try:
            existing = self.client.key(name)
        except Refused as refusal:
            if refusal.code is Code.UNKNOWN_KEY:
                return
            raise
        raise Refused(
            Code.VERSION_CONFLICT,
            f"there is a key called {name} already, with address {existing.identity}",
            f'to replace it for good, add "version": {existing.version}; or give '
            'another name with "key"',
        )

    def _encrypt(self, proof: Proof, name: str, private_key: PrivateKey) -> bytes:
        arn = self.configuration.kms_key_arn
        if arn is None:
            raise Malformed(
                Code.USAGE,
                "the environment variable KMS_KEY_ARN is not set",
                "set_key needs it; create_key makes a key without",
            )
        try:
            answer = self.kms().encrypt(
                KeyId=arn,
                Plaintext=bytes(private_key.buffer),
                EncryptionContext=key_encryption_context(
                    administrator=proof.statement.administrator,
                    deployment=proof.statement.deployment,
                    name=name,
                    algorithm=ALGORITHM,
                    identity=private_key.address,
                ),
            )
            ciphertext: bytes = answer["CiphertextBlob"]
        except ClientError as error:
            raise _kms_said_no(error.response.get("Error", {}).get("Code")) from None
        except (BotoCoreError, KeyError):
            raise _kms_said_no(None) from None
        return ciphertext

    def _sign_transaction(
        self, key: str, asked: events.SignTransaction
    ) -> dict[str, str]:
        fields = dict(asked.transaction_payload)
        if "value" in fields and "value_wei" in fields:
            raise Malformed(
                Code.MALFORMED_TRANSACTION,
                "`value` (ether) and `value_wei` are both given",
                "give one",
            )
        if "value_wei" in fields:
            fields["value"] = wei(fields.pop("value_wei"))
        elif "value" in fields:
            fields["value"] = wei_from_ether(fields["value"])
        signed = self.client.sign_transaction(key, fields)
        return {
            "transaction_signed": signed.raw,
            "transaction_hash": signed.hash,
            "from": signed.sender,
        }

    def _status(self, proof: Proof) -> dict[str, Any]:
        health = self.client.health()
        return {
            "status": health.status,
            "state": health.state,
            "keys_loaded": health.keys_loaded,
            "checks": health.checks,
            "version": health.version,
            "attestation": {
                "emulated": proof.emulated,
                "pcr0": proof.attestation.pcrs[0].hex(),
                "deployment": proof.statement.deployment,
                "manifest": proof.statement.manifest,
                "manifest_version": proof.statement.manifest_version,
                "administrator": proof.statement.administrator,
            },
        }


def handler(event: object, context: object) -> Any:  # noqa: ANN401, ARG001  # Lambda's
    """Answer one event. This is the function's entry point."""
    return answer(event, _wallet)


def answer(event: object, wallet: Callable[[], Wallet]) -> Any:  # noqa: ANN401  # as above
    """Return the result, or the error as JSON values. Raises only for our own bugs."""
    try:
        return wallet().answer(event)
    except Verdict as verdict:
        return msgspec.to_builtins(api.error_body(verdict))


def from_configuration(configured: Configuration) -> Wallet:
    """
    Connect the parts, as they are in AWS.

    Raises:
        Verdict: A file is unusable, or the token can't be fetched.
    """
    return Wallet(configured, connect(configured), kms=_kms)


@functools.cache
def _wallet() -> Wallet:
    # What raises is not cached: the next event tries again.
    return from_configuration(configuration.from_environment(os.environ))


def _kms() -> Kms:
    client: Kms = boto3.client("kms", config=AWS)
    return client


def _message(asked: events.SignMessage) -> str | bytes:
    if (asked.message is None) == (asked.data is None):
        raise Malformed(
            Code.MALFORMED_MESSAGE, "give `message` (text) or `data` (0x hex), not both"
        )
    if asked.message is not None:
        return asked.message
    data = bytes_of_hex(asked.data or "")
    if data is None:
        raise Malformed(
            Code.MALFORMED_MESSAGE, "`data` is not hexadecimal", "write 0x…"
        )
    return data


def _kms_said_no(code: object) -> Verdict:
    if code in _REFUSALS:
        return Refused(
            Code.KMS_REFUSED,
            f"KMS refuses to encrypt for this function ({code})",
            "the key's policy must allow its role kms:Encrypt with this deployment's "
            "encryption context",
        )
    return Undecided(
        Code.KMS_UNAVAILABLE, "KMS did not encrypt the key", "ask again later"
    )


def _json(value: msgspec.Struct) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(value)
    return built
