"""
The validator job's share of the front: its keys, its counters, its bounds.

There is one if the manifest speaks of validators; without one its routes do not exist.
"""

from typing import Final

from nitrosigner.trusted.enclave.boot import HealthSource
from nitrosigner.trusted.enclave.ports import Clock
from nitrosigner.trusted.enclave.validators.duty_load import DutyLoad
from nitrosigner.trusted.enclave.validators.duty_metrics import DutyMetrics
from nitrosigner.trusted.enclave.validators.reloading import Reloading
from nitrosigner.trusted.enclave.validators.validator_keys_port import ValidatorKeys
from nitrosigner.trusted.signing.beacon_attestations import Attestations
from nitrosigner.wire import validator_api
from nitrosigner.wire.manifest import AcceptedManifest


class ValidatorJob:
    """What all calls of the validator job share."""

    def __init__(
        self,
        keys: ValidatorKeys,
        clock: Clock,
        high_watermark: validator_api.HighWatermark,
    ) -> None:
        """Serve *keys*. *high_watermark* is the manifest's ceiling, for showing."""
        self.keys: Final = keys
        self.clock: Final = clock
        self.high_watermark: Final = high_watermark
        self.load: Final = DutyLoad(clock)
        self.counted: Final = DutyMetrics()
        self.attestations: Final = Attestations(keys.network)
        self.reloading: Final = Reloading(keys.reload, clock)

    def metrics(
        self, health: HealthSource, certificate_not_after: int
    ) -> validator_api.Metrics:
        """Return the counters as they stand."""
        facts = self.keys.facts
        return self.counted.snapshot(
            now=self.clock.monotonic(),
            shed=self.load.shed,
            in_flight=self.load.in_flight,
            keys_loaded=facts.loaded,
            keys_enabled=facts.enabled,
            kms_calls=health.kms_calls,
            certificate_not_after=certificate_not_after,
            clock_offset=health.clock_offset,
        )


def job_of(
    keys: ValidatorKeys | None, accepted: AcceptedManifest, clock: Clock
) -> ValidatorJob | None:
    """Return the job, if the manifest speaks of validators."""
    told = accepted.manifest.validators
    if keys is None or told is None:
        return None
    ceiling = validator_api.HighWatermark(
        epoch=None if told.ceiling_epoch is None else str(told.ceiling_epoch),
        slot=None if told.ceiling_slot is None else str(told.ceiling_slot),
    )
    return ValidatorJob(keys, clock, ceiling)
