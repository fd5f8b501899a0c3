"""
The enclave as nitro-cli runs it (AWS Nitro Enclaves user guide, nitro-cli reference).

A running enclave is one in state `RUNNING`, in these letters, with our name and our
CID. The AWS reference's watchdog looked for `Running`, found it never, and took every
enclave for a healthy one.
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final, final

import msgspec

from nitrosigner.untrusted.parent.enclave_runner import RunnerFailed, run_command

RUNNING: Final = "RUNNING"
DEBUG: Final = "DEBUG_MODE"
ASK_SECONDS: Final = 10.0
START_SECONDS: Final = 120.0
"""Memory is handed over page by page; nitro-cli itself waits for the heartbeat."""
STOP_SECONDS: Final = 60.0


class NitroCliEnclave(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag_field="kind",
    tag="nitro_cli",
):
    """What to run, and how large."""

    image: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    """The EIF file."""
    pcr0: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{96}\Z")] | None = None
    """Of the image. One that runs with another is replaced, not adopted."""
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")] = (
        "nitrosigner"
    )
    cid: Annotated[int, msgspec.Meta(ge=4, lt=(1 << 32) - 1)] = 16
    cpu_count: Annotated[int, msgspec.Meta(ge=1, le=512)] = 2
    memory_mib: Annotated[int, msgspec.Meta(ge=64, le=1 << 22)] = 1024
    debug: bool = False
    """PCRs are zero then, and KMS opens nothing. For looking at a failing boot."""
    command: Annotated[list[str], msgspec.Meta(min_length=1, max_length=8)] = (
        msgspec.field(default_factory=lambda: ["/usr/bin/nitro-cli"])
    )


class _Measurements(msgspec.Struct, frozen=True):
    pcr0: str = msgspec.field(name="PCR0", default="")


class _Described(msgspec.Struct, frozen=True, rename="pascal"):
    """One entry of `nitro-cli describe-enclaves`, as far as we need it."""

    enclave_id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{1,128}\Z")] = (
        msgspec.field(name="EnclaveID")
    )
    state: str
    enclave_cid: int = msgspec.field(name="EnclaveCID", default=0)
    enclave_name: str | None = None
    flags: str = "NONE"
    measurements: _Measurements | None = None


@final
class NitroCli:
    """The port `EnclaveRunner`."""

    def __init__(self, what: NitroCliEnclave) -> None:
        self._what = what

    @property
    def pid(self) -> int:
        """Nitro-cli's process is not ours."""
        return 0

    async def ended(self) -> None:
        """Nobody tells: it has to be asked for, see `running`."""
        await asyncio.Event().wait()

    async def adopt(self) -> bool:
        """Return whether our enclave runs already, of our image."""
        return any(map(self._as_wanted, await self._describe()))

    async def running(self) -> bool:
        """Return whether our enclave runs."""
        return any(
            one.state == RUNNING and self._ours(one) for one in await self._describe()
        )

    async def start(self) -> None:
        """Start it; whatever has its name or its CID is ended first."""
        await self.stop()
        what = self._what
        await self._run(
            [
                "run-enclave",
                *("--eif-path", what.image),
                *("--enclave-name", what.name),
                *("--enclave-cid", str(what.cid)),
                *("--cpu-count", str(what.cpu_count)),
                *("--memory", str(what.memory_mib)),
                *(["--debug-mode"] if what.debug else []),
            ],
            START_SECONDS,
        )
        if not await self.adopt():
            msg = (
                "nitro-cli says that it started an enclave, but none runs as it should"
            )
            raise RunnerFailed(msg)

    async def stop(self) -> None:
        """End whatever has our name or our CID."""
        for one in await self._describe():
            if self._ours(one):
                await self._run(
                    ["terminate-enclave", "--enclave-id", one.enclave_id], STOP_SECONDS
                )
        left = [one for one in await self._describe() if self._ours(one)]
        if left:
            msg = f"an enclave stays in state {left[0].state[:32]!r} when ended"
            raise RunnerFailed(msg)

    def _ours(self, one: _Described) -> bool:
        return one.enclave_name == self._what.name or one.enclave_cid == self._what.cid

    def _as_wanted(self, one: _Described) -> bool:
        what = self._what
        found = one.measurements.pcr0 if one.measurements else ""
        return (
            one.state == RUNNING
            and one.enclave_cid == what.cid
            and one.enclave_name == what.name
            and (one.flags == DEBUG) == what.debug
            # A debug enclave is measured too; it only attests zeros.
            and what.pcr0 in {None, found}
        )

    async def _describe(self) -> list[_Described]:
        output = await self._run(["describe-enclaves"], ASK_SECONDS)
        try:
            return msgspec.json.decode(output, type=list[_Described])
        except ValueError as error:
            msg = "nitro-cli describe-enclaves printed what is no list of enclaves"
            raise RunnerFailed(msg) from error

    async def _run(self, arguments: Sequence[str], seconds: float) -> bytes:
        done = await run_command([*self._what.command, *arguments], seconds)
        if done.status != 0:
            msg = f"nitro-cli {arguments[0]} failed with status {done.status}"
            raise RunnerFailed(msg)
        return done.output
