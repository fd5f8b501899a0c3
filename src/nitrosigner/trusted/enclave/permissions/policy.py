"""
May this client have this key sign this? The one place that makes a `Permit`.

What the manifest does not allow is refused. The digest of a permit is computed here,
from the very value that was judged: nothing comes between the judgement and the hash.

What the ceilings cannot see: what a contract call or a typed-data permit moves is in
calldata, not in `value`. A client that may sign typed data is not bound by them.
"""

from collections.abc import Iterable
from typing import Final, Protocol

from nitrosigner.trusted.enclave.permissions.permit import DIGEST_SIZE, Permit
from nitrosigner.trusted.signing import (
    authorizations,
    ethereum_transactions,
    messages,
    typed_data,
)
from nitrosigner.trusted.signing.addresses import Address
from nitrosigner.trusted.signing.authorizations import EVERY_CHAIN, Authorization
from nitrosigner.trusted.signing.ethereum_transactions import Transaction
from nitrosigner.trusted.signing.typed_data import TypedData
from nitrosigner.verdicts import Code, Malformed, Refused
from nitrosigner.wire import api, manifest
from nitrosigner.wire.manifest import Client, Manifest, Operation

_NEW_MANIFEST: Final = "an administrator can allow it in a new signed manifest"


class NamedKey(Protocol):
    """Any key that exists."""

    @property
    def name(self) -> str:
        """What clients' patterns are matched with."""
        ...


class StatefulKey(NamedKey, Protocol):
    """A key, and whether it signs."""

    @property
    def state(self) -> api.KeyState:
        """Only an enabled key signs."""
        ...


class _Rules:
    """One client's permissions, in the form that is quick to ask."""

    __slots__ = ("chains", "destinations", "keys", "max_fee", "max_value", "operations")

    def __init__(self, client: Client, chains_by_network: dict[str, int]) -> None:
        names = chains_by_network if client.networks is None else client.networks
        limits = client.limits
        self.operations = frozenset(client.operations)
        self.chains = frozenset(chains_by_network[name] for name in names)
        self.max_value = _amount(limits.max_value_wei)
        self.max_fee = _amount(limits.max_fee_wei)
        self.destinations = (
            None
            if limits.destinations is None
            else frozenset(_addresses(limits.destinations))
        )
        # Patterns are matched once for each key, not once for each signature. Only
        # names of keys that exist are remembered, so callers cannot make it grow.
        self.keys: dict[str, bool] = {}


class Policy:
    """The manifest's rules."""

    def __init__(self, accepted: Manifest) -> None:
        chains = {network.name: network.chain_id for network in accepted.networks}
        self._all_chains = frozenset(chains.values())
        self._rules = {
            client.name: _Rules(client, chains) for client in accepted.clients
        }
        self._chains_in_order = tuple(chains.values())

    # --- everything but signatures --------------------------------------------------

    def demand(self, client: Client, operation: Operation) -> None:
        """
        Make sure that *client* may do *operation* at all.

        Raises:
            Refused: It may not (NOT_ALLOWED).
        """
        if operation not in self._rules[client.name].operations:
            raise Refused(
                Code.NOT_ALLOWED,
                f"client {client.name} is not allowed to {operation.value}",
                _NEW_MANIFEST,
            )

    def demand_name(self, client: Client, name: str) -> None:
        """
        Make sure that *client* may touch a key called *name*, if there is one.

        Raises:
            Refused: It may not (NOT_ALLOWED).
        """
        if not manifest.key_allowed(client, name):
            raise _not_this_key(client)

    def sees(self, client: Client, key: NamedKey) -> bool:
        """Return whether *client* may touch the existing *key* at all."""
        return self.sees_name(client, key.name)

    def sees_name(self, client: Client, name: str) -> bool:
        """As `sees`, by the name of a key that exists."""
        known = self._rules[client.name].keys
        allowed = known.get(name)
        if allowed is None:
            allowed = known[name] = manifest.key_allowed(client, name)
        return allowed

    def demand_key(self, client: Client, key: NamedKey) -> None:
        """
        Make sure that *client* may touch the existing *key*.

        Raises:
            Refused: It may not (NOT_ALLOWED).
        """
        if not self.sees(client, key):
            raise _not_this_key(client)

    def default_chain(self, client: Client) -> int:
        """
        Return the chain that is meant where JSON-RPC names none.

        It is the first network of the manifest that *client* may sign for.

        Raises:
            Refused: It may sign for none (WRONG_CHAIN).
        """
        allowed = self._rules[client.name].chains
        for chain_id in self._chains_in_order:
            if chain_id in allowed:
                return chain_id
        raise Refused(
            Code.WRONG_CHAIN,
            f"client {client.name} is not allowed to sign for any chain",
            _NEW_MANIFEST,
        )

    # --- signatures -------------------------------------------------------------------

    def transaction(
        self, client: Client, key: api.KeyDescription, transaction: Transaction
    ) -> Permit:
        """
        Judge a transaction.

        Raises:
            Refused: The client, the key, the chain, an amount or the destination does
                not fit.
        """
        self.demand_signature(client, key, Operation.SIGN_TRANSACTION)
        rules = self._rules[client.name]
        if transaction.chain_id is None:
            if not client.unprotected_legacy:
                raise Refused(
                    Code.NOT_ALLOWED,
                    "a transaction without a chain id is valid on every chain",
                    "give chainId, or have unprotected_legacy allowed",
                )
        else:
            self._demand_chain(client, transaction.chain_id)
        if rules.max_value is not None and transaction.value > rules.max_value:
            raise _over("the value", "limits.max_value_wei")
        if (
            rules.max_fee is not None
            and ethereum_transactions.max_fee_wei(transaction) > rules.max_fee
        ):
            raise _over("the highest fee (blobs included)", "limits.max_fee_wei")
        if rules.destinations is not None and transaction.to not in rules.destinations:
            raise _over("the destination", "limits.destinations")
        return Permit(key.name, ethereum_transactions.signing_hash(transaction))

    def authorization(
        self, client: Client, key: api.KeyDescription, authorization: Authorization
    ) -> Permit:
        """
        Judge an EIP-7702 authorization.

        One for every chain (chain id 0) is always refused: it would hand the account
        over on chains that the manifest does not name. The code's address counts as a
        destination.

        Raises:
            Refused: The client, the key, the chain or the code's address does not fit.
        """
        self.demand_signature(client, key, Operation.SIGN_AUTHORIZATION)
        if authorization.chain_id == EVERY_CHAIN:
            raise Refused(
                Code.WRONG_CHAIN,
                "an authorization for every chain (chain id 0) is never signed",
                "sign one for each chain",
            )
        self._demand_chain(client, authorization.chain_id)
        destinations = self._rules[client.name].destinations
        if destinations is not None and authorization.address not in destinations:
            raise _over("the code's address", "limits.destinations")
        return Permit(key.name, authorizations.signing_hash(authorization))

    def message(
        self, client: Client, key: api.KeyDescription, message: bytes
    ) -> Permit:
        """
        Judge a *message* of EIP-191, whose digest cannot be a transaction's.

        Raises:
            Malformed: It is too long.
            Refused: The client or the key does not fit.
        """
        self.demand_signature(client, key, Operation.SIGN_MESSAGE)
        return Permit(key.name, messages.personal_message_digest(message))

    def typed_data(
        self, client: Client, key: api.KeyDescription, document: TypedData
    ) -> Permit:
        """
        Judge typed data of EIP-712. A chain id in its domain must be an allowed one.

        Raises:
            Refused: The client, the key or the chain does not fit.
        """
        self.demand_signature(client, key, Operation.SIGN_TYPED_DATA)
        if document.domain.chain_id is not None:
            self._demand_chain(client, document.domain.chain_id)
        return Permit(key.name, typed_data.digest(document))

    def digest(self, client: Client, key: api.KeyDescription, digest: bytes) -> Permit:
        """
        Judge 32 bytes of unknown meaning: no limit holds, they can be a transaction.

        Raises:
            Refused: The client or the key does not fit.
        """
        self.demand_signature(client, key, Operation.SIGN_DIGEST)
        if len(digest) != DIGEST_SIZE:
            raise Malformed(Code.MALFORMED_REQUEST, f"a digest is {DIGEST_SIZE} bytes")
        return Permit(key.name, digest)

    def demand_signature(
        self, client: Client, key: StatefulKey, operation: Operation
    ) -> None:
        """
        Make sure that *client* may have *key* sign by *operation*, whatever it signs.

        Raises:
            Refused: The client or the key does not fit.
        """
        self.demand(client, operation)
        self.demand_key(client, key)
        if key.state == "enabled":
            return
        if key.state == "disabled":
            raise Refused(
                Code.KEY_DISABLED, "the key is disabled", "keys (or validators) enable"
            )
        raise Refused(
            Code.KEY_DELETED, "the key is deleted", "keys restore; validators import"
        )

    def _demand_chain(self, client: Client, chain_id: int) -> None:
        if chain_id in self._rules[client.name].chains:
            return
        if chain_id in self._all_chains:
            raise Refused(
                Code.WRONG_CHAIN,
                f"client {client.name} is not allowed to sign for this chain",
                _NEW_MANIFEST,
            )
        raise Refused(
            Code.WRONG_CHAIN,
            "the manifest has no network with this chain id",
            "check chainId; " + _NEW_MANIFEST,
        )


def _amount(text: str | None) -> int | None:
    return None if text is None else int(text)


def _addresses(texts: Iterable[str]) -> Iterable[Address]:
    # The manifest's check sees only their length; a wrong digit must not pass for a
    # destination, so boot ends here.
    for text in texts:
        try:
            yield Address(bytes.fromhex(text.removeprefix("0x")))
        except ValueError:
            raise Malformed(
                Code.MALFORMED_MANIFEST, "a destination is no address"
            ) from None


def _over(what: str, limit: str) -> Refused:
    return Refused(
        Code.OVER_LIMIT, f"{what} is more than this client may sign for", limit
    )


def _not_this_key(client: Client) -> Refused:
    return Refused(
        Code.NOT_ALLOWED, f"client {client.name} may not use this key", _NEW_MANIFEST
    )
