"""
The signer's HTTPS API as Python methods.

Every method raises the enclave's own verdicts: `Malformed`, `Refused`, `Undecided`.
A client that was given no CA file can do nothing until `verification.verify` has
pinned the signer's certificate.
"""

import base64
import secrets
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlencode

import msgspec

from nitrosigner.client import answers, local_stack
from nitrosigner.client.json_values import transaction_json, typed_data_json
from nitrosigner.client.routes import Body, segment
from nitrosigner.client.transport import READ_TIMEOUT, Credentials, Token, Transport
from nitrosigner.client.validator_routes import ValidatorRoutes
from nitrosigner.verdicts import Code, Undecided
from nitrosigner.wire import api

PAGE: Final = 500
NONCE_SIZE: Final = 32


class SignerClient(ValidatorRoutes):
    """One signer, one identity. Safe to share between threads."""

    def __init__(
        self,
        url: str,
        *,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        token: str | None = None,
        read_timeout: float = READ_TIMEOUT,
    ) -> None:
        """
        Prepare a client; nothing is sent yet.

        Args:
            url: `https://host[:port]`.
            ca: PEM file of the signer's authority. None: `verify` first.
            certificate: PEM file of the client certificate; may hold the key too.
            key: PEM file of the client certificate's private key.
            token: The bearer token itself, not its file's name.
            read_timeout: Seconds to wait for an answer.

        Raises:
            Malformed: The URL or a file is unusable.
        """
        self.transport = Transport(
            url,
            ca=None if ca is None else Path(ca),
            credentials=Credentials(
                certificate=None if certificate is None else Path(certificate),
                key=None if key is None else Path(key),
                token=None if token is None else Token(token),
            ),
            read_timeout=read_timeout,
        )

    @classmethod
    def from_data(cls, folder: str | Path, client: str = "default") -> Self:
        """
        Return the client called *client* of the local stack in *folder*.

        Raises:
            Malformed: There is no such stack or client.
            Undecided: The stack was made but is not running.
        """
        stack = local_stack.read(Path(folder))
        entry = stack.client(client)
        return cls(stack.url, ca=stack.ca, certificate=entry.certificate, key=entry.key)

    @property
    def url(self) -> str:
        """Where the signer is."""
        return self.transport.url

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.transport.close()

    # --- keys ---------------------------------------------------------------------

    def create_key(self, name: str, algorithm: str = "secp256k1") -> api.KeyDescription:
        """Make a key inside the enclave."""
        return self._post(
            "/keys", api.CreateKey(name=name, algorithm=algorithm), api.KeyDescription
        )

    def import_wrapped_key(self, request: api.ImportKey) -> api.KeyDescription:
        """Import what `import_key.import_private_key` has wrapped. Use that."""
        return self._post("/keys/import", request, api.KeyDescription)

    def import_kms_key(self, request: api.ImportKmsKey) -> api.KeyDescription:
        """Import a KMS ciphertext that was made outside."""
        return self._post("/keys/import-kms", request, api.KeyDescription)

    def page_of_keys(self, after: str = "", limit: int = PAGE) -> api.KeyPage:
        """Return the keys behind the name *after*, at most *limit*."""
        query = urlencode({"after": after, "limit": limit})
        return self._get(f"/keys?{query}", api.KeyPage)

    def list_keys(self) -> Iterator[api.KeyDescription]:
        """Yield all keys that this client may see, in name order."""
        after = ""
        while True:
            page = self.page_of_keys(after)
            yield from page.keys
            if not page.more:
                return
            if not page.keys or page.keys[-1].name <= after:
                raise Undecided(
                    Code.INTERNAL,
                    "the list of keys does not come to an end",
                    "ask again later",
                )
            after = page.keys[-1].name

    def key(self, key: str) -> api.KeyDescription:
        """Return the key of that name or address."""
        return self._get(f"/keys/{segment(key)}", api.KeyDescription)

    def ciphertext(self, key: str) -> api.KeyCiphertext:
        """Return what is stored of a key outside the enclave."""
        return self._get(f"/keys/{segment(key)}/ciphertext", api.KeyCiphertext)

    def disable_key(self, key: str, version: int | None = None) -> api.KeyDescription:
        """Let a key sign nothing until it is enabled again."""
        return self._change(key, "disable", version)

    def enable_key(self, key: str, version: int | None = None) -> api.KeyDescription:
        """Let a disabled key sign again."""
        return self._change(key, "enable", version)

    def delete_key(self, key: str, version: int | None = None) -> api.KeyDescription:
        """Delete a key. Until `purge_after` it can be restored."""
        return self._change(key, "delete", version)

    def restore_key(self, key: str, version: int | None = None) -> api.KeyDescription:
        """Bring a deleted key back, disabled: `enable_key` lets it sign again."""
        return self._change(key, "restore", version)

    def rotate_vault(self) -> api.Rotated:
        """Seal every record under a new vault key. Addresses stay."""
        return self._post("/vault/rotate", None, api.Rotated)

    # --- signing ------------------------------------------------------------------

    def sign_transaction(
        self, key: str, transaction: Mapping[str, Any]
    ) -> api.SignedTransactionBody:
        """Sign a *transaction* in the field names of JSON-RPC; amounts in wei."""
        raw = msgspec.Raw(msgspec.json.encode(transaction_json(transaction)))
        return self._sign(
            key,
            "transaction",
            api.SignTransaction(transaction=raw),
            api.SignedTransactionBody,
        )

    def sign_message(self, key: str, message: str | bytes) -> api.SignedMessageBody:
        """Sign *message* as EIP-191 has it for persons (`personal_sign`)."""
        if isinstance(message, str):
            request = api.SignMessage(text=message)
        else:
            request = api.SignMessage(data="0x" + message.hex())
        return self._sign(key, "message", request, api.SignedMessageBody)

    def sign_typed_data(
        self, key: str, typed_data: Mapping[str, Any]
    ) -> api.SignedMessageBody:
        """Sign an EIP-712 message: `types`, `primaryType`, `domain`, `message`."""
        raw = msgspec.Raw(msgspec.json.encode(typed_data_json(typed_data)))
        request = api.SignTypedData(typed_data=raw)
        return self._sign(key, "typed-data", request, api.SignedMessageBody)

    def sign_digest(self, key: str, digest: bytes) -> api.SignedMessageBody:
        """Sign 32 bytes of unknown meaning. Few clients may."""
        request = api.SignDigest(digest="0x" + digest.hex())
        return self._sign(key, "digest", request, api.SignedMessageBody)

    def sign_authorization(
        self, key: str, *, chain_id: int, address: str, nonce: int
    ) -> api.SignedAuthorizationBody:
        """Sign an EIP-7702 authorization: hands the account to code at *address*."""
        request = api.SignAuthorization(
            chain_id=hex(chain_id), address=address, nonce=hex(nonce)
        )
        return self._sign(key, "authorization", request, api.SignedAuthorizationBody)

    # --- who am I talking to ------------------------------------------------------

    def upcheck(self) -> bool:
        """Return whether the signer is up and answers at all."""
        answer = self.transport.request("GET", "/upcheck")
        return answer.status == HTTPStatus.OK

    def health(self) -> api.HealthBody:
        """Return where the signer stands, ready or not."""
        answer = self.transport.request("GET", "/healthcheck")
        if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
            try:
                return msgspec.json.decode(answer.body, type=api.HealthBody)
            except ValueError:
                answers.raise_verdict(answer)
        return answers.read(answer, api.HealthBody)

    def attestation(self, nonce: bytes | None = None) -> api.AttestationBody:
        """Return a fresh attestation document. Unchecked: see `verification`."""
        nonce = nonce or secrets.token_bytes(NONCE_SIZE)
        return self._get(f"/attestation?nonce={nonce.hex()}", api.AttestationBody)

    def unverified_attestation(self, nonce: bytes) -> tuple[bytes, bytes]:
        """
        Return a document from whoever answers, and the certificate it came over.

        Sends no credential and trusts nobody: the pair is for `verification.verify`.
        The certificate is DER.
        """
        path = f"{api.PREFIX}/attestation?nonce={nonce.hex()}"
        answer, certificate = self.transport.request_unverified(path)
        body = answers.read(answer, api.AttestationBody)
        try:
            document = base64.b64decode(body.document, validate=True)
        except ValueError:
            raise Undecided(
                Code.INTERNAL,
                "the attestation document is not base64",
                "check that the URL is a nitrosigner's",
            ) from None
        return document, certificate

    def authority(self) -> bytes:
        """
        Return the PEM of the authority that issues the signer's certificates.

        With an imported certificate those between the two follow it.
        """
        answer = self.transport.request("GET", f"{api.PREFIX}/ca")
        if answer.status != HTTPStatus.OK:
            answers.raise_verdict(answer)
        return answer.body

    def server_tls(self) -> api.ServerTls:
        """Return what the signer shows to new connections."""
        return self._get("/tls", api.ServerTls)

    def import_wrapped_tls(self, request: api.ImportTls) -> api.ServerTls:
        """Import what `import_tls.import_certificate` has wrapped. Use that."""
        return self._post("/tls/import", request, api.ServerTls)

    def reset_tls(self) -> api.ServerTls:
        """Have the signer show the certificate that the enclave makes itself."""
        return self._post("/tls/reset", None, api.ServerTls)

    # --- the wire -----------------------------------------------------------------

    def _change(self, key: str, what: str, version: int | None) -> api.KeyDescription:
        return self._post(
            f"/keys/{segment(key)}/{what}",
            api.ChangeKey(version=version),
            api.KeyDescription,
        )

    def _sign(
        self, key: str, what: str, body: msgspec.Struct, kind: type[Body]
    ) -> Body:
        return self._post(f"/keys/{segment(key)}/sign/{what}", body, kind)
