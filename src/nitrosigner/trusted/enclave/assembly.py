"""
Connects the parts and runs them. The one place where they meet.

`world` decides whether this is production: nothing in here asks. Emulation, tests and
the image call the same function.
"""

import asyncio
import contextlib
import gc
import os
from dataclasses import dataclass
from typing import Final

import ckzg

from nitrosigner.trusted.enclave.attested.aws_endpoint import (
    AwsEndpoint,
    amazon_roots,
    trusted_tls,
)
from nitrosigner.trusted.enclave.attested.clock_check import ClockCheck
from nitrosigner.trusted.enclave.attested.entropy import Entropy
from nitrosigner.trusted.enclave.attested.kms import Kms
from nitrosigner.trusted.enclave.attested.recipient import Recipient
from nitrosigner.trusted.enclave.boot import Boot, Pace
from nitrosigner.trusted.enclave.front import Front, start_front
from nitrosigner.trusted.enclave.https.tls_keeping import TlsKeeping
from nitrosigner.trusted.enclave.keys.key_changes import KeyChanges
from nitrosigner.trusted.enclave.keys.key_loading import KeyLoading
from nitrosigner.trusted.enclave.keys.key_news import KeyNews
from nitrosigner.trusted.enclave.keys.key_parts import KeyParts
from nitrosigner.trusted.enclave.keys.key_refresh import KeyRefresh
from nitrosigner.trusted.enclave.keys.key_writer import KeyWriter
from nitrosigner.trusted.enclave.keys.keyring import Keyring
from nitrosigner.trusted.enclave.memory import guard_memory
from nitrosigner.trusted.enclave.parent_link.parent_services import ParentServices
from nitrosigner.trusted.enclave.parent_link.parent_watermarks import ParentWatermarks
from nitrosigner.trusted.enclave.permissions.manifest_in_force import (
    ManifestInForce,
    admit_manifest,
    read_manifest,
)
from nitrosigner.trusted.enclave.ports import World
from nitrosigner.trusted.enclave.running import Running
from nitrosigner.trusted.enclave.validators.validator_boot import (
    OpenedGuard,
    open_guard,
    validators_of,
)
from nitrosigner.trusted.enclave.validators.validator_network import beacon_network
from nitrosigner.trusted.enclave.vault.sealed_singles import StoredSingles
from nitrosigner.trusted.enclave.vault.vault_store import VaultStore
from nitrosigner.trusted.signing.algorithms import Algorithms
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secp256k1 import RANDOMNESS_SIZE, Secp256k1
from nitrosigner.verdicts import Malformed, Refused

_RANDOM: Final = os.urandom
"""The kernel's generator: one of the sources that `Entropy` mixes."""
DEFAULT_PACE: Final = Pace()


async def run(world: World, pace: Pace = DEFAULT_PACE) -> None:
    """Boot through the states, then serve until cancelled."""
    guard_memory()
    services = ParentServices(world.vsock, world.clock)
    try:
        running = await start(world, services, pace)
        _look_for_less_garbage()
        _interrupt_nobody()
        try:
            await running.serve()
        finally:
            await running.close()
    finally:
        services.close()


def _look_for_less_garbage() -> None:
    """What the boot made stays: tens of thousands of keys are not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _interrupt_nobody() -> None:
    """
    Have the kernel run this thread when another's turn ends, not in the middle of it.

    The processes that sign share our processors. Woken for each request, we would
    interrupt them for a tenth of a millisecond, with cold caches on both sides; a few
    milliseconds later several requests wait, and one wake-up does for all. An idle
    processor still takes us at once.
    """
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@dataclass(frozen=True, slots=True)
class _Machine:
    """What does not depend on the manifest, and is made once."""

    algorithms: Algorithms
    bls: Bls12381
    clock: ClockCheck
    recipient: Recipient


async def start(world: World, services: ParentServices, pace: Pace) -> Running:
    """Boot; return when the listener takes connections. Never gives up."""
    boot = Boot(services, world.clock, pace)
    while True:
        try:
            machine = await _machine(world, boot)
            break
        except (Refused, Malformed) as verdict:
            await boot.pause_after(verdict)
    while True:
        try:
            return await _deployment(world, services, boot, machine)
        except (Refused, Malformed) as verdict:
            await boot.pause_after(verdict)


async def _machine(world: World, boot: Boot) -> _Machine:
    clock = ClockCheck(world.nsm, world.clock)

    async def nsm() -> tuple[Algorithms, Bls12381]:
        await clock.look()
        randomness = await asyncio.to_thread(world.nsm.random, RANDOMNESS_SIZE)
        # Its constructor runs the known answers of the library in this image.
        secp256k1 = Secp256k1(randomness)
        bls = Bls12381(ckzg.__file__)
        # Refuses, and so keeps us from booting: a blst that computes something else
        # must never see a key.
        bls.known_answers()
        return {secp256k1.name: secp256k1, bls.name: bls}, bls

    async def recipient_key() -> Recipient:
        recipient = await asyncio.to_thread(Recipient.generate, world.nsm, world.clock)
        await recipient.kms_document()
        return recipient

    algorithms, bls = await boot.step("nsm", nsm)
    return _Machine(
        algorithms, bls, clock, await boot.step("recipient_key", recipient_key)
    )


async def _deployment(
    world: World, services: ParentServices, boot: Boot, machine: _Machine
) -> Running:
    async def manifest() -> ManifestInForce:
        in_force = await read_manifest(services)
        if in_force.accepted.manifest.validators is not None:
            # Refused here, where a person looks for what is wrong with a manifest.
            beacon_network(in_force.accepted.manifest.validators)
        return in_force

    in_force = await boot.step("manifest", manifest)
    told = in_force.accepted.manifest.validators
    async with contextlib.AsyncExitStack() as undo:
        kms = _kms(world, services, machine, in_force)
        undo.callback(kms.close)
        await boot.step("kms", kms.reach)

        vault_store = VaultStore(services, kms, in_force.accepted, _RANDOM)
        vault = await boot.step("vault", vault_store.open)
        singles = StoredSingles(
            services, vault, in_force.accepted.manifest.deployment, _RANDOM
        )
        entropy = Entropy(world.nsm, _RANDOM)
        entropy.add_kms_seed(vault.current.derive("entropy", 32))
        writer = KeyWriter(
            services,
            vault,
            vault_store,
            in_force.accepted,
            machine.algorithms,
            _RANDOM,
        )

        async def records() -> tuple[KeyLoading, KeyParts, OpenedGuard | None]:
            # The first thing that the vault key is good for: was this manifest
            # already followed by another?
            await admit_manifest(singles, in_force.accepted)
            news = KeyNews(ParentWatermarks(services, world.clock))
            if told is not None:
                # Before the keys are read: what is told from here on is read again.
                await news.begin()
            loading = KeyLoading(writer, in_force.accepted.manifest.limits.max_keys)
            await loading.load()
            changes = KeyChanges(loading.index, writer, loading.rejected)
            parts = KeyParts(
                index=loading.index,
                changes=changes,
                refresh=KeyRefresh(loading.index, changes, writer),
                news=news,
                writer=writer,
                singles=singles,
                kms=kms,
                recipient=machine.recipient,
                entropy=entropy,
                clock=machine.clock,
            )
            return loading, parts, await open_guard(parts, told) if told else None

        loading, parts, opened = await boot.step("records", records)
        keyring = Keyring(parts)
        validators = None
        if told is not None and opened is not None:
            validators = validators_of(parts, told, opened, machine.bls)
            undo.push_async_callback(validators.close)
        running = Running(
            boot=boot,
            services=services,
            kms=kms,
            keyring=keyring,
            validators=validators,
            too_many=loading.too_many,
            clock=machine.clock,
        )

        async def listen() -> Front:
            return await start_front(
                world=world,
                accepted=in_force.accepted,
                payload=in_force.payload,
                keyring=keyring,
                services=services,
                tls=TlsKeeping(
                    singles, machine.recipient, in_force.accepted, machine.clock
                ),
                health_source=running,
                validator_keys=validators,
            )

        front = await boot.step("tls", listen)
        await running.begin(front)
        undo.pop_all()
        return running


def _kms(
    world: World,
    services: ParentServices,
    machine: _Machine,
    in_force: ManifestInForce,
) -> Kms:
    aws = in_force.accepted.manifest.aws
    authorities = "".join(aws.kms_certificate_authorities) or amazon_roots()
    # AWS's partition in China has a domain of its own; all others share one.
    domain = (
        "amazonaws.com.cn"
        if aws.kms_key_arn.startswith("arn:aws-cn:")
        else "amazonaws.com"
    )
    endpoint = AwsEndpoint(
        world.vsock, f"kms.{aws.region}.{domain}", trusted_tls(authorities)
    )
    return Kms(
        endpoint=endpoint,
        credentials=services,
        recipient=machine.recipient,
        clock=world.clock,
        aws=aws,
        on_date=machine.clock.heard,
    )
