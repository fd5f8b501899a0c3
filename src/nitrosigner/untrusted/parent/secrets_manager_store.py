"""
Sealed records in AWS Secrets Manager, one secret for each.

Secrets Manager has no conditional write. It has this: the id of a version that exists
cannot be written again with other content (`PutSecretValue` with a
`ClientRequestToken`), and a name cannot be created twice. So the id of each version is
made from the version that it follows, and of two writers that saw the same one, one
finds the id taken.

A version's id is `nitrosigner-<incarnation>-<version>`: the record's version, and how
many records of this name were removed before. A removal is a version too, labelled
`REMOVED`, before the secret is deleted; so it is as conditional as a write, and its
last content can be restored by hand while the recovery window is open.

What this guarantees, and what not:

- Two writers never both write different content over one version.
- Before it writes, a writer looks whether its version is still the current one. The id
  alone would not stop a writer that looked and then stood still for a day: Secrets
  Manager forgets the ids of old versions, never within 24 hours. Our calls give up
  within a minute.
- `get` sees what was acknowledged. `page` begins with `ListSecrets`, which may lag by
  five minutes: records written by another parent meanwhile can be absent from it.
- `DeleteSecret` is not conditional. If a name is taken anew between a removal's two
  steps, the second step would delete the new record; the remover looks, and restores
  it. If it dies just then, the record reads as unavailable, not as absent, and
  `RestoreSecret` brings it back.
- One secret bears one write in ten minutes for long, and bursts (versions of less than
  a day are kept, and their number has a quota). Records are written seldom.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from nitrosigner.untrusted.parent.record_store import (
    HEADROOM,
    check_expected,
    check_page,
    check_read,
    check_write,
    cut_page,
)
from nitrosigner.verdicts import Code, Refused, Undecided
from nitrosigner.wire.services import (
    MAX_PAGE_BYTES,
    Conflict,
    Page,
    Stored,
    StoredRecord,
)

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

REMOVED: Final = "NITROSIGNER-REMOVED"
"""Staging label of a version that says: there is no record any more."""
BATCH: Final = 20
"""Secrets in one BatchGetSecretValue: the service's limit."""
PARALLEL: Final = 8
ATTEMPTS: Final = 5
"""Of one call that is throttled or gets no answer, farther and farther apart."""
LISTING_SECONDS: Final = 300.0
"""How long the pages that follow a first one may use its listing."""
_TOMBSTONE: Final = b"removed by nitrosigner"
_VERSION_ID: Final = re.compile(r"nitrosigner-([0-9]{10})-([0-9]{16})\Z")


def secrets_manager_client(
    region: str, endpoint: str | None = None, *, attempts: int = ATTEMPTS
) -> "SecretsManagerClient":
    """Return a client whose throttled calls are repeated, with jitter."""
    client: SecretsManagerClient = boto3.client(
        "secretsmanager",
        region_name=region,
        endpoint_url=endpoint,
        config=Config(
            connect_timeout=3,
            read_timeout=5,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=2 * PARALLEL,
            user_agent_extra="nitrosigner-parent",
        ),
    )
    return client


def secret_name(prefix: str, collection: str, name: str) -> str:
    """Return the secret that holds a record, as a policy or a person would name it."""
    return f"{prefix}{collection}/{name}"


class _Version(NamedTuple):
    incarnation: int
    version: int

    def __str__(self) -> str:
        return f"nitrosigner-{self.incarnation:010}-{self.version:016}"


class _Current(NamedTuple):
    """A secret's current version. *data* is None when it cannot be read: deleted."""

    at: _Version
    removed: bool
    data: bytes | None

    @property
    def version(self) -> int:
        return 0 if self.removed else self.at.version


class SecretsManagerStore:
    """A `RecordStore` of secrets below a prefix."""

    threads = PARALLEL

    def __init__(
        self,
        client: "SecretsManagerClient",
        *,
        prefix: str,
        recovery_days: int = 7,
        kms_key_id: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Use the secrets called *prefix* + collection + "/" + name.

        Args:
            client: Of Secrets Manager. Needs CreateSecret, PutSecretValue,
                GetSecretValue, BatchGetSecretValue, DescribeSecret, DeleteSecret,
                RestoreSecret on the prefix and ListSecrets.
            prefix: Ends with a slash.
            recovery_days: 7 to 30; how long AWS keeps a removed secret.
            kms_key_id: What Secrets Manager encrypts new secrets with.
            monotonic: A clock.
        """
        self._client = client
        self._prefix = prefix
        self._recovery_days = recovery_days
        self._kms: dict[str, Any] = {"KmsKeyId": kms_key_id} if kms_key_id else {}
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._listings: dict[str, tuple[float, list[str]]] = {}
        # Names that we wrote: the listing may not show them for minutes.
        self._written: dict[str, set[str]] = {}
        self._readers = ThreadPoolExecutor(PARALLEL, "secrets")

    def get(self, collection: str, name: str) -> StoredRecord | None:
        """Return a record, or None."""
        check_read(collection, name)
        with _errors_named():
            current = self._current(self._secret(collection, name))
        if current is None or current.removed:
            return None
        if current.data is None:
            raise _deleted_by_hand()
        return StoredRecord(name=name, version=current.version, data=current.data)

    def page(self, collection: str, after: str, limit: int) -> Page:
        """Return a page in name order."""
        check_page(collection, after, limit)
        with _errors_named():
            names = [name for name in self._names(collection, after) if name > after]
            records: list[StoredRecord] = []
            size = 0
            step = min(limit + HEADROOM, BATCH * PARALLEL)
            while names and len(records) <= limit and size <= MAX_PAGE_BYTES:
                fetched = self._fetch(collection, names[:step])
                names = names[step:]
                records += fetched
                size += sum(len(record.data) for record in fetched)
        page = cut_page(records, limit)
        return Page(records=page.records, more=page.more or bool(names))

    def put(
        self, collection: str, name: str, expected: int, data: bytes
    ) -> Stored | Conflict:
        """Write a record if its version is the expected one."""
        check_write(collection, name, expected, data)
        secret = self._secret(collection, name)
        with _errors_named():
            done = self._put(secret, expected, data)
        if isinstance(done, Stored):
            with self._lock:
                self._written.setdefault(collection, set()).add(name)
        return done

    def remove(self, collection: str, name: str, expected: int) -> Stored | Conflict:
        """Remove a record if its version is the expected one."""
        check_read(collection, name)
        check_expected(expected)
        secret = self._secret(collection, name)
        with _errors_named():
            current = self._current(secret)
            if current is None or current.removed:
                if current is not None and current.data is not None:
                    self._bury(secret, current.at)  # an earlier removal died halfway
                return Stored(version=0) if expected == 0 else Conflict(version=0)
            if current.data is None:
                raise _deleted_by_hand()
            if current.version != expected:
                return Conflict(version=current.version)
            tombstone = _Version(current.at.incarnation, expected + 1)
            done = self._write(secret, tombstone, _TOMBSTONE, REMOVED)
            if isinstance(done, Conflict):
                return done
            self._bury(secret, tombstone)
            return Stored(version=0)

    def close(self) -> None:
        """Let go of threads and connections."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _secret(self, collection: str, name: str) -> str:
        return secret_name(self._prefix, collection, name)

    def _put(self, secret: str, expected: int, data: bytes) -> Stored | Conflict:
        current = self._current(secret)
        if current is None:
            return self._create(secret, data) if expected == 0 else Conflict(version=0)
        if current.removed:
            if expected != 0:
                return Conflict(version=0)
            if current.data is None:
                self._restore(secret)
            return self._write(secret, _Version(current.at.incarnation + 1, 1), data)
        if current.data is None:
            raise _deleted_by_hand()
        if current.version == expected + 1 and current.data == data:
            return Stored(version=current.version)
        if current.version != expected or expected == 0:
            return Conflict(version=current.version)
        follower = _Version(current.at.incarnation, expected + 1)
        return self._write(secret, follower, data)

    def _create(self, secret: str, data: bytes) -> Stored | Conflict:
        first = _Version(0, 1)
        try:
            self._client.create_secret(
                Name=secret,
                ClientRequestToken=str(first),
                SecretBinary=data,
                Description="nitrosigner: a sealed record; do not edit",
                **self._kms,
            )
        except ClientError as error:
            if _code(error) != "ResourceExistsException":
                raise
            current = self._current(secret)
            if current is not None:
                return Conflict(version=current.version)
            # Made empty, by whoever set the policies up. Then it is ours to fill.
            return self._write(secret, first, data)
        return Stored(version=1)

    def _write(
        self, secret: str, at: _Version, data: bytes, *labels: str
    ) -> Stored | Conflict:
        """Write version *at*, unless another writer has."""
        try:
            answer = self._client.put_secret_value(
                SecretId=secret,
                ClientRequestToken=str(at),
                SecretBinary=data,
                VersionStages=["AWSCURRENT", *labels],
            )
            # A repeated request is ignored, and tells where its version is by now.
            if "AWSCURRENT" in answer["VersionStages"]:
                return Stored(version=at.version)
        except ClientError as error:
            if _code(error) != "ResourceExistsException":
                raise
        current = self._current(secret)
        if current is None or current.at < at:
            raise _unavailable("gives answers that contradict each other")
        return Conflict(version=current.version)

    def _bury(self, secret: str, tombstone: _Version) -> None:
        """Delete a secret whose current version is *tombstone*."""
        try:
            self._client.delete_secret(
                SecretId=secret, RecoveryWindowInDays=self._recovery_days
            )
        except ClientError as error:
            if _code(error) not in {
                "ResourceNotFoundException",
                "InvalidRequestException",
            }:
                raise
        current = self._current(secret)
        if current is not None and current.at != tombstone and current.data is None:
            self._restore(secret)

    def _restore(self, secret: str) -> None:
        try:
            self._client.restore_secret(SecretId=secret)
        except ClientError as error:
            # Somebody else restored it already; the write that follows tells who won.
            if _code(error) != "InvalidRequestException":
                raise

    def _current(self, secret: str) -> _Current | None:
        try:
            answer = self._client.get_secret_value(
                SecretId=secret, VersionStage="AWSCURRENT"
            )
        except ClientError as error:
            match _code(error):
                case "ResourceNotFoundException":
                    return None
                case "InvalidRequestException":
                    return self._deleted(secret)
                case _:
                    raise
        return _Current(
            _version(secret, answer["VersionId"]),
            REMOVED in answer["VersionStages"],
            _data(secret, answer),
        )

    def _deleted(self, secret: str) -> _Current | None:
        """Return what a secret that waits for its deletion held."""
        try:
            answer = self._client.describe_secret(SecretId=secret)
        except ClientError as error:
            if _code(error) == "ResourceNotFoundException":
                return None
            raise
        if "DeletedDate" not in answer:
            raise _unavailable("gives answers that contradict each other")
        for version, labels in answer.get("VersionIdsToStages", {}).items():
            if "AWSCURRENT" in labels:
                return _Current(_version(secret, version), REMOVED in labels, None)
        raise _foreign(secret)

    def _names(self, collection: str, after: str) -> list[str]:
        """Return every name of *collection* in order; the first page lists anew."""
        with self._lock:
            made, names = self._listings.get(collection, (0.0, []))
            written = set(self._written.get(collection, ()))
        now = self._monotonic()
        if not after or not made or now - made > LISTING_SECONDS:
            names = self._list(self._secret(collection, ""))
            with self._lock:
                self._listings[collection] = (now, names)
        return sorted(written.union(names))

    def _list(self, folder: str) -> list[str]:
        pages = self._client.get_paginator("list_secrets").paginate(
            Filters=[{"Key": "name", "Values": [folder]}],
            PaginationConfig={"PageSize": 100},
        )
        return [
            secret["Name"].removeprefix(folder)
            for page in pages
            for secret in page["SecretList"]
            if secret["Name"].startswith(folder)
        ]

    def _fetch(self, collection: str, names: list[str]) -> list[StoredRecord]:
        batches = [names[i : i + BATCH] for i in range(0, len(names), BATCH)]
        found = self._readers.map(
            lambda batch: self._fetch_batch(collection, batch), batches
        )
        return [record for batch in found for record in batch]

    def _fetch_batch(self, collection: str, names: list[str]) -> list[StoredRecord]:
        secrets = {self._secret(collection, name): name for name in names}
        answer = self._client.batch_get_secret_value(SecretIdList=list(secrets))
        for failure in answer.get("Errors", []):
            secrets.pop(failure.get("SecretId", ""), None)
            if failure.get("ErrorCode") not in {
                "ResourceNotFoundException",  # removed since it was listed
                "InvalidRequestException",
            }:
                raise _unavailable("did not give every record of a page")
        records = {}
        for value in answer["SecretValues"]:
            secret = value["Name"]
            name = secrets.pop(secret)
            if REMOVED in value["VersionStages"]:
                continue
            records[name] = StoredRecord(
                name=name,
                version=_version(secret, value["VersionId"]).version,
                data=_data(secret, value),
            )
        if secrets:
            raise _unavailable("did not give every record of a page")
        return [records[name] for name in names if name in records]


def _version(secret: str, version_id: str) -> _Version:
    found = _VERSION_ID.match(version_id)
    if found is None:
        raise _foreign(secret)
    return _Version(int(found[1]), int(found[2]))


def _data(secret: str, answer: Mapping[str, Any]) -> bytes:
    data = answer.get("SecretBinary")
    if not isinstance(data, bytes):
        raise _foreign(secret)
    return data


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _errors_named() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if _code(error) in {"AccessDeniedException", "UnrecognizedClientException"}:
            raise Undecided(
                Code.STORAGE_UNAVAILABLE,
                "Secrets Manager refuses the parent's role",
                "allow it the operations on the record prefix, and the KMS key",
            ) from error
        raise _unavailable("did not do what it was asked") from error
    except BotoCoreError as error:
        raise _unavailable("cannot be reached") from error
    except KeyError as error:
        raise _unavailable("answers without what the answer is for") from error


def _unavailable(what: str) -> Undecided:
    return Undecided(
        Code.STORAGE_UNAVAILABLE,
        f"Secrets Manager {what}",
        "check its endpoint, the network and the quotas, and ask again",
    )


def _deleted_by_hand() -> Undecided:
    return Undecided(
        Code.STORAGE_UNAVAILABLE,
        "the record's secret was deleted by someone else and waits for its end",
        "restore it with: aws secretsmanager restore-secret",
    )


def _foreign(secret: str) -> Refused:
    return Refused(
        Code.RECORD_UNTRUSTED,
        f"the secret {secret} was not written by nitrosigner, or edited since",
        "put its last nitrosigner-… version back in place, or give the store a "
        "prefix of its own",
    )
