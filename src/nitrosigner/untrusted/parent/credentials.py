"""
The instance role's credentials, for the enclave's calls of KMS.

They let their holder ask KMS, not be answered: the key policy demands the enclave's
measurement besides. They are kept in memory only, are in no log, and are fetched from
the instance metadata service, version 2 only: version 1 can be asked through any
proxy that fetches URLs for strangers.
"""

import asyncio
import datetime as dt
import time
from collections.abc import Callable
from typing import Final, Protocol

from botocore.exceptions import BotoCoreError
from botocore.utils import METADATA_BASE_URL, InstanceMetadataFetcher

from nitrosigner.untrusted.parent.event_log import Event, EventLog
from nitrosigner.verdicts import Code, Undecided
from nitrosigner.wire.services import Credentials

REFRESH_BEFORE: Final = 15 * 60.0
"""Seconds before they expire. AWS puts new ones out at least 5 minutes before."""
UNUSABLE_BEFORE: Final = 30.0
"""Seconds before they expire: KMS must still accept them when the call arrives."""
RETRY_AFTER: Final = 20.0
"""Seconds between attempts while those we hold still serve."""


class CredentialSource(Protocol):
    """Where credentials come from. Blocks. Untrusted, as everything outside is."""

    def fetch(self) -> Credentials:
        """
        Return fresh credentials.

        Raises:
            Undecided: credentials_unavailable.
        """
        ...


class InstanceMetadata:
    """IMDSv2, by botocore's own fetcher."""

    def __init__(self, endpoint: str = METADATA_BASE_URL, *, seconds: int = 2) -> None:
        """
        Make a source.

        Args:
            endpoint: Base URL of the metadata service.
            seconds: For each of its three requests, and as many attempts.
        """
        # env={}: the environment must not be able to switch it off or elsewhere.
        self._fetcher = InstanceMetadataFetcher(
            timeout=seconds,
            num_attempts=3,
            base_url=endpoint,
            env={},
            user_agent="nitrosigner-parent",
            config={"ec2_metadata_v1_disabled": True},
        )

    def fetch(self) -> Credentials:
        """Ask the metadata service."""
        try:
            found = self._fetcher.retrieve_iam_role_credentials()
            if not found:
                raise _unavailable()
            expires = dt.datetime.fromisoformat(found["expiry_time"])
            if expires.tzinfo is None:
                expires = expires.replace(tzinfo=dt.UTC)
            return Credentials(
                access_key_id=found["access_key"],
                secret_access_key=found["secret_key"],
                session_token=found["token"],
                expires=int(expires.timestamp()),
            )
        except (BotoCoreError, KeyError, TypeError, ValueError) as error:
            # The cause may quote what was answered; it is dropped.
            del error
        raise _unavailable()


class RoleCredentials:
    """Keeps credentials until shortly before they expire; fetches in a thread, once."""

    def __init__(
        self,
        source: CredentialSource,
        log: EventLog,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._log = log
        self._clock = clock
        self._held: Credentials | None = None
        self._fetching: asyncio.Task[Credentials] | None = None
        self._not_before = 0.0

    async def get(self) -> Credentials:
        """
        Return credentials that are good for at least `UNUSABLE_BEFORE` seconds.

        Raises:
            Undecided: credentials_unavailable.
        """
        now = self._clock()
        held = self._held
        usable = held is not None and now < held.expires - UNUSABLE_BEFORE
        if held is not None and usable:
            if now < held.expires - REFRESH_BEFORE or now < self._not_before:
                return held
            # Old but good: serve them, and fetch beside.
            self._fetch()
            return held
        # Many ask at once when the enclave starts: all wait for one fetch, and one
        # who gives up does not take it from the others.
        fetched = await asyncio.shield(self._fetch())
        if self._clock() >= fetched.expires - UNUSABLE_BEFORE:
            raise _unavailable()
        return fetched

    async def stop(self) -> None:
        """Let go of a fetch that still runs."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _fetch(self) -> "asyncio.Task[Credentials]":
        if self._fetching is None:
            self._not_before = self._clock() + RETRY_AFTER
            self._fetching = asyncio.get_running_loop().create_task(self._renew())
            self._fetching.add_done_callback(self._fetched)
        return self._fetching

    def _fetched(self, task: "asyncio.Task[Credentials]") -> None:
        self._fetching = None
        if not task.cancelled():
            task.exception()  # whoever waits has it; nobody may be waiting

    async def _renew(self) -> Credentials:
        try:
            fetched = await asyncio.to_thread(self._source.fetch)
        except Undecided as verdict:
            self._log(Event.CREDENTIALS_FAILED, code=verdict.code)
            raise
        self._held = fetched
        self._log(
            Event.CREDENTIALS_REFRESHED,
            seconds=round(fetched.expires - self._clock()),
        )
        return fetched


def _unavailable() -> Undecided:
    return Undecided(
        Code.CREDENTIALS_UNAVAILABLE,
        "the instance metadata service gave no credentials of a role",
        "attach an instance profile, and allow IMDSv2 with enough hops",
    )
