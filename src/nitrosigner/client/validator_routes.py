"""
The validator job's routes as Python methods, a part of `SignerClient`.

Public keys are 48 bytes in hex, with or without `0x`. A slashing history is the whole
document or none of it on the signer's side; here nothing is read out of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from nitrosigner.client import answers
from nitrosigner.client.routes import Body, Routes, segment
from nitrosigner.verdicts import Code, Undecided
from nitrosigner.wire import api
from nitrosigner.wire import validator_api as wire

VALIDATORS: Final = "/validators"
KEYMANAGER: Final = "/eth/v1"
PAGE: Final = 500
HISTORY_KEYS: Final = wire.HISTORY_NAMED
"""Public keys that one request names: they ride in the URL, 99 bytes each."""


class ValidatorRoutes(Routes):
    """Validators' keys, duties and histories."""

    # --- keys ---------------------------------------------------------------------

    def page_of_validators(self, after: str = "", limit: int = PAGE) -> api.KeyPage:
        """Return the validators behind the public key *after*, at most *limit*."""
        query = urlencode({"after": after, "limit": limit})
        return self._get(f"{VALIDATORS}?{query}", api.KeyPage)

    def list_validators(self) -> Iterator[api.KeyDescription]:
        """Yield all validators that this client may see, in the order of their keys."""
        after = ""
        while True:
            page = self.page_of_validators(after)
            yield from page.keys
            if not page.more:
                return
            after = _further(page.keys[-1].name if page.keys else "", after)

    def validator(self, public_key: str) -> api.KeyDescription:
        """Return one validator."""
        return self._get(f"{VALIDATORS}/{segment(public_key)}", api.KeyDescription)

    def create_validator(self) -> api.KeyDescription:
        """Make a key inside the enclave. Nobody else ever has it."""
        return self._post(VALIDATORS, wire.CreateValidator(), api.KeyDescription)

    def import_wrapped_validator(
        self, request: wire.ImportValidator
    ) -> api.KeyDescription:
        """Import what `import_validator.import_validator` has wrapped. Use that."""
        return self._post(f"{VALIDATORS}/import", request, api.KeyDescription)

    def import_reference_validator(
        self, request: wire.ImportReference
    ) -> api.KeyDescription:
        """Import an item that the AWS reference's loader wrote, as it lies there."""
        return self._post(f"{VALIDATORS}/import-reference", request, api.KeyDescription)

    def derive_wrapped_validators(
        self, request: wire.DeriveValidators
    ) -> wire.DerivedValidators:
        """Derive from what `import_validator.derive_validators` has wrapped."""
        return self._post(f"{VALIDATORS}/derive", request, wire.DerivedValidators)

    def disable_validator(
        self, public_key: str, version: int | None = None
    ) -> api.KeyDescription:
        """Let a validator sign nothing until it is enabled again."""
        return self._change_validator(public_key, "disable", version)

    def enable_validator(
        self, public_key: str, version: int | None = None
    ) -> api.KeyDescription:
        """Let a disabled validator sign again."""
        return self._change_validator(public_key, "enable", version)

    def delete_validator(
        self, public_key: str, version: int | None = None
    ) -> api.KeyDescription:
        """Delete a validator's key. What it has signed is remembered for ever."""
        return self._change_validator(public_key, "delete", version)

    # --- statements that an administrator asks for --------------------------------

    def deposit_data(
        self, public_key: str, request: wire.DepositDataRequest
    ) -> wire.DepositData:
        """Return one entry of a deposit_data.json."""
        return self._of(public_key, "deposit-data", request, wire.DepositData)

    def voluntary_exit(
        self, public_key: str, request: wire.VoluntaryExitRequest
    ) -> wire.SignedVoluntaryExit:
        """Sign a voluntary exit. Whoever has it can end the validator for good."""
        return self._of(public_key, "voluntary-exit", request, wire.SignedVoluntaryExit)

    def bls_to_execution_change(
        self, public_key: str, request: wire.BlsToExecutionChangeRequest
    ) -> wire.SignedBlsToExecutionChange:
        """Sign where withdrawals go, for good. *public_key* is the withdrawal key."""
        return self._of(
            public_key,
            "bls-to-execution-change",
            request,
            wire.SignedBlsToExecutionChange,
        )

    # --- slashing histories -------------------------------------------------------

    def page_of_history(
        self, after: str = "", limit: int = wire.HISTORY_PAGE
    ) -> wire.SlashingHistory:
        """Return the histories behind the public key *after*, at most *limit*."""
        query = urlencode({"after": after, "limit": limit})
        return self._get(f"/slashing-history?{query}", wire.SlashingHistory)

    def slashing_history(
        self, public_keys: Sequence[str] = (), page: int = wire.HISTORY_PAGE
    ) -> Iterator[wire.SlashingHistory]:
        """
        Yield the minimal interchange documents of *public_keys*, or of all, in parts.

        At least one document is yielded: its metadata says which chain it is.
        """
        if public_keys:
            for first in range(0, len(public_keys), HISTORY_KEYS):
                named = ",".join(public_keys[first : first + HISTORY_KEYS])
                query = urlencode({"keys": named}, safe=",")
                yield self._get(f"/slashing-history?{query}", wire.SlashingHistory)
            return
        after = ""
        while True:
            part = self.page_of_history(after, page)
            yield part
            if len(part.data) < page:
                return
            after = _further(part.data[-1].pubkey, after)

    def history_records(
        self, page: int = wire.RECORDS_PAGE
    ) -> Iterator[wire.HistoryRecords]:
        """
        Yield every record in the watermark store, in parts; at least one part.

        Also of keys that are gone, and of histories without a key. What cannot be
        trusted stands apart.
        """
        following: str | None = ""
        seen = {following}
        while following is not None:
            query = urlencode({"after": following, "limit": page})
            part = self._get(f"/slashing-history/records?{query}", wire.HistoryRecords)
            yield part
            following = part.next
            if following in seen:
                raise _no_end()
            seen.add(following)

    def repair_history(
        self, public_key: str, history: wire.SlashingHistory
    ) -> wire.HistoryRepaired:
        """Replace a record that cannot be trusted by *history*, of that validator."""
        request = wire.RepairHistory(pubkey=public_key, history=history)
        return self._post("/slashing-history/repair", request, wire.HistoryRepaired)

    def import_slashing_history(
        self, history: wire.SlashingHistory
    ) -> wire.HistoryImported:
        """Move validators forward, all of *history* or none. Never moves one back."""
        return self._post("/slashing-history", history, wire.HistoryImported)

    # --- duties (Web3Signer) ------------------------------------------------------

    def validator_public_keys(self) -> list[str]:
        """Return the public keys that sign now."""
        return self._get("/eth2/publicKeys", list[str])

    def sign_duty(self, public_key: str, request: Mapping[str, Any]) -> str:
        """Sign one duty, in the JSON of Web3Signer; return the signature in hex."""
        answer = self.transport.request(
            "POST",
            f"{api.PREFIX}/eth2/sign/{segment(public_key)}",
            msgspec.json.encode(request),
        )
        return answers.read(answer, wire.DutySignature).signature

    def sign_batch(
        self, parts: Sequence[tuple[Sequence[str], Mapping[str, Any]]]
    ) -> list[wire.BatchResult]:
        """
        Sign many duties in one request.

        Args:
            parts: Each one duty, with the public keys that are to sign it.

        Returns:
            For each key of each part, in order, its signature or why there is none.
        """
        body = [
            wire.BatchSign(
                identifiers=list(public_keys),
                signing_request=msgspec.Raw(msgspec.json.encode(duty)),
            )
            for public_keys, duty in parts
        ]
        answer = self.transport.request(
            "POST", f"{api.PREFIX}/eth2/sign", msgspec.json.encode(body)
        )
        results = answers.read(answer, list[wire.BatchResult])
        asked = [key for public_keys, _ in parts for key in public_keys]
        if [result.identifier for result in results] != asked:
            raise Undecided(
                Code.INTERNAL,
                "the signer's answer to a batch names other keys than were asked for",
                "check that the signer's version fits this client",
            )
        return results

    def high_watermark(self) -> wire.HighWatermark:
        """Return where signing ends for everybody, if the manifest says so."""
        return self._get("/eth2/highWatermark", wire.HighWatermark)

    def reload(self) -> wire.ReloadStatus:
        """
        Have the signer take over what its store holds. It goes on meanwhile.

        If a reload runs already, that one's status is returned: see `running`.
        """
        answer = self.transport.request("POST", "/reload", b"{}")
        if answer.status == HTTPStatus.CONFLICT:
            try:
                return msgspec.json.decode(answer.body, type=wire.ReloadStatus)
            except ValueError:
                answers.raise_verdict(answer)
        return answers.read(answer, wire.ReloadStatus)

    def reload_status(self) -> wire.ReloadStatus:
        """Return how the last reload went."""
        return self._ask("GET", "/reload", None, wire.ReloadStatus)

    # --- Keymanager API -----------------------------------------------------------

    def keystores(self) -> wire.KeystoreList:
        """List keys as the Keymanager API does."""
        return self._ask("GET", f"{KEYMANAGER}/keystores", None, wire.KeystoreList)

    def import_keystores(self, request: wire.ImportKeystores) -> wire.KeystoresImported:
        """
        Send keystores *with their passwords*, to be opened inside.

        The passwords are read by the enclave alone only if this client is pinned to an
        attested certificate; `import_validator.import_validator` makes sure of that.
        """
        return self._ask(
            "POST", f"{KEYMANAGER}/keystores", request, wire.KeystoresImported
        )

    def delete_keystores(self, public_keys: Sequence[str]) -> wire.KeystoresDeleted:
        """Delete keys; the answer holds their final slashing history."""
        return self._ask(
            "DELETE",
            f"{KEYMANAGER}/keystores",
            wire.DeleteKeystores(pubkeys=list(public_keys)),
            wire.KeystoresDeleted,
        )

    def remote_keys(self) -> wire.RemoteKeyList:
        """List keys that another signer holds: none."""
        return self._ask("GET", f"{KEYMANAGER}/remotekeys", None, wire.RemoteKeyList)

    def import_remote_keys(
        self, request: wire.ImportRemoteKeys
    ) -> wire.KeystoresImported:
        """Ask for remote keys; each is answered with an error."""
        return self._ask(
            "POST", f"{KEYMANAGER}/remotekeys", request, wire.KeystoresImported
        )

    def delete_remote_keys(self, public_keys: Sequence[str]) -> wire.KeystoresImported:
        """Ask to forget remote keys; each is answered with an error."""
        return self._ask(
            "DELETE",
            f"{KEYMANAGER}/remotekeys",
            wire.DeleteKeystores(pubkeys=list(public_keys)),
            wire.KeystoresImported,
        )

    def keymanager_exit(
        self, public_key: str, *, epoch: int, validator_index: int
    ) -> wire.SignedVoluntaryExit:
        """Sign a voluntary exit through the Keymanager API."""
        query = "?" + urlencode({"epoch": epoch, "validator_index": validator_index})
        path = f"{KEYMANAGER}/validator/{segment(public_key)}/voluntary_exit{query}"
        return self._ask("POST", path, None, wire.KeymanagerExit).data

    # --- the wire -----------------------------------------------------------------

    def _change_validator(
        self, public_key: str, what: str, version: int | None
    ) -> api.KeyDescription:
        request = wire.ChangeValidator(version=version)
        return self._of(public_key, what, request, api.KeyDescription)

    def _of(
        self, public_key: str, what: str, body: msgspec.Struct, kind: type[Body]
    ) -> Body:
        return self._post(f"{VALIDATORS}/{segment(public_key)}/{what}", body, kind)


def _further(last: str, after: str) -> str:
    if last <= after:
        raise _no_end()
    return last


def _no_end() -> Undecided:
    return Undecided(
        Code.INTERNAL,
        "the list of validators does not come to an end",
        "ask again later",
    )
