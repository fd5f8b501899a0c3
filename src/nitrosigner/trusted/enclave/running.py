"""
An enclave that has booted: what it serves, how it feels, and what it does unasked.
"""

import asyncio
import contextlib
from typing import Final

from nitrosigner.trusted.enclave.attested.clock_check import LOOK_EVERY, ClockCheck
from nitrosigner.trusted.enclave.attested.kms import Kms
from nitrosigner.trusted.enclave.boot import Boot
from nitrosigner.trusted.enclave.front import Front
from nitrosigner.trusted.enclave.https.tls_keeping import objection
from nitrosigner.trusted.enclave.keys.keyring import Keyring
from nitrosigner.trusted.enclave.parent_link.parent_services import ParentServices
from nitrosigner.trusted.enclave.validators.validator_keys import Validators
from nitrosigner.verdicts import Code, Refused, Undecided, Verdict
from nitrosigner.wire import api

SETTLE_EVERY: Final = 1.0
"""Seconds between looks at changes whose answer was lost."""
STORE_EVERY: Final = 60
"""Rounds between looks whether the record store answers."""
REPORT_EVERY: Final = 15
"""Rounds of `SETTLE_EVERY` between reports: a new parent learns that we are ready."""
PURGE_EVERY: Final = 600
"""Rounds between purges of deleted keys, and attempts to finish a rotation."""
REFRESH_EVERY: Final = 300
"""Rounds between looks at what other enclaves changed in the store, told or not."""
LISTEN_EVERY: Final = 1.0
"""Seconds between looks at what other enclaves told of validators' keys. They are also
how a signer that is asked nothing learns that the watermark store is back."""
_NAMED: Final = 5
"""Rejected records that a report names."""


class Running:
    """The port `HealthSource`, and the upkeep."""

    def __init__(
        self,
        *,
        boot: Boot,
        services: ParentServices,
        kms: Kms,
        keyring: Keyring,
        validators: Validators | None,
        too_many: bool,
        clock: ClockCheck,
    ) -> None:
        self._boot = boot
        self._services = services
        self._kms = kms
        self.keyring: Final = keyring
        self.validators: Final = validators
        self._too_many = too_many
        self._clock = clock
        self._front: Front | None = None
        self._unasked: list[asyncio.Task[None]] = []

    # --- health ---

    @property
    def state(self) -> str:
        """The boot state reached."""
        return self._boot.state

    @property
    def steps(self) -> list[api.BootStep]:
        """The states passed."""
        return self._boot.steps

    @property
    def checks(self) -> dict[str, bool]:
        """What went well when it was last used."""
        rejected = bool(self.keyring.rejected)
        checks = {
            "storage": self._services.healthy,
            "kms": self._kms.healthy,
            # Some keys rejected: the others sign. All rejected: nothing does.
            "keys": not rejected or self.keyring.count > 0,
            "records": not rejected and not self._too_many,
            "clock": self.clock_objection is None,
        }
        if self.validators is not None:
            facts = self.validators.facts
            checks["expected_keys"] = facts.enabled >= (facts.expected or 0)
            checks["slashing_protection"] = not facts.unprotected
            checks["watermarks"] = self._services.watermarks_healthy
            checks["signing"] = self.validators.signs
        return checks

    @property
    def clock_objection(self) -> Undecided | None:
        """What is wrong with the clock."""
        return self._clock.objection

    @property
    def clock_offset(self) -> float:
        """Seconds by which the clock is ahead of the hypervisor's."""
        return self._clock.offset

    @property
    def keys_loaded(self) -> int:
        """Keys in memory."""
        return self.keyring.count

    @property
    def kms_calls(self) -> int:
        """KMS calls since boot."""
        return self._kms.calls

    # --- life ---

    async def begin(self, front: Front) -> None:
        """Say that we are ready, and begin the upkeep."""
        self._front = front

        async def ready() -> None:
            pass

        await self._boot.step("ready", ready)
        await self._boot.report(self._complaint())
        self._unasked.append(asyncio.create_task(self._keep_up()))
        self._unasked.append(asyncio.create_task(self._look_at_clock()))
        if self.validators is not None:
            self._unasked.append(asyncio.create_task(self._listen(self.validators)))

    async def serve(self) -> None:
        """Serve until cancelled."""
        if self._front is not None:
            await self._front.serve_forever()

    async def close(self) -> None:
        """Finish what was begun: requests, changes, the audit trail."""
        for task in self._unasked:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._front is not None:
            self._front.close()
            await self._front.wait_closed()
        await self.keyring.drain()
        if self.validators is not None:
            await self.validators.close()
        self._kms.close()

    async def _keep_up(self) -> None:
        """Each part may fail, and is tried again in its time."""
        rounds = 0
        while True:
            await self.keyring.settle()
            if rounds % STORE_EVERY == 0:
                with contextlib.suppress(Verdict):
                    # There is none such: what is asked is whether there is an answer.
                    await self._services.get("state", "reachable")
            if rounds % PURGE_EVERY == 0:
                with contextlib.suppress(Verdict):
                    await self.keyring.finish_rotation()
                with contextlib.suppress(Verdict):
                    await self.keyring.purge_expired()
            rounds += 1
            if rounds % REFRESH_EVERY == 0:
                with contextlib.suppress(Verdict):
                    await self.keyring.refresh()
                if self._front is not None:
                    with contextlib.suppress(Verdict):
                        await self._front.around.tls_keeping.refresh()
            if rounds % REPORT_EVERY == 0:
                await self._boot.report(self._complaint())
            await asyncio.sleep(SETTLE_EVERY)

    async def _look_at_clock(self) -> None:
        """Apart as well: an NSM that hangs stops nothing but this."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            with contextlib.suppress(Undecided):
                await self._clock.look()

    async def _listen(self, validators: Validators) -> None:
        """Apart from the upkeep, which KMS can keep waiting."""
        while True:
            with contextlib.suppress(Verdict):
                await validators.listen()
                await self._services.probe_watermark_writes()
            await asyncio.sleep(LISTEN_EVERY)

    def _complaint(self) -> Verdict | None:
        rejected = sorted(self.keyring.rejected.items())
        if rejected:
            names = ", ".join(name for name, _ in rejected[:_NAMED])
            more = ", …" if len(rejected) > _NAMED else ""
            first = rejected[0][1]
            return Refused(
                Code.RECORD_UNTRUSTED,
                f"{len(rejected)} stored keys cannot be used: {names}{more}; "
                f"the first because {first.message}",
                first.hint,
            )
        if self._too_many:
            return Refused(
                Code.OVER_LIMIT,
                "the store has more keys than the manifest allows; the rest are not "
                "loaded",
                "raise limits.max_keys in the manifest",
            )
        missing = None if self.validators is None else _missing(self.validators)
        return missing or self.clock_objection or self._objection()

    def _objection(self) -> Verdict | None:
        """Return what clients object to in an imported certificate."""
        if self._front is None:
            return None
        around = self._front.around
        sentence = objection(around.tls, around.world.clock.now())
        if not sentence:
            return None
        return Refused(
            Code.CERTIFICATE_UNTRUSTED,
            sentence,
            "nitrosigner tls import another one, or nitrosigner tls reset",
        )


def _missing(validators: Validators) -> Verdict | None:
    facts = validators.facts
    if facts.enabled < (facts.expected or 0):
        return Undecided(
            Code.NOT_READY,
            f"{facts.enabled} of {facts.expected} expected validators are enabled",
            "import the others, or correct validators.expected_keys in the manifest",
        )
    if facts.unprotected:
        return Refused(
            Code.NOT_REGISTERED,
            f"{facts.unprotected} validators have no slashing protection record that "
            "can be trusted, and do not vote",
            "import their EIP-3076 history: nitrosigner slashing-history import",
        )
    return None
