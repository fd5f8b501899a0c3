"""
Opens keystores and derives keys in one thread, one after another.

A keystore costs a second and a quarter of a gigabyte by design. So there is one at a
time, however many are sent, and only so many may wait.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from nitrosigner.trusted.signing import validator_keystores
from nitrosigner.trusted.signing.algorithms import PublicKey
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Refused, Undecided

MAX_WAITING: Final = 256
"""Pieces of work that wait. A Keymanager request sends its keystores one by one."""

_Result = TypeVar("_Result")


class KeystoreOpening:
    """The one thread."""

    def __init__(self, bls: Bls12381) -> None:
        """Start nothing yet: the thread comes with the first piece of work."""
        self._bls = bls
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="keystores")
        self._waiting = 0

    async def opened(
        self, document: str | bytes, password: str
    ) -> tuple[PublicKey, SecretBytes]:
        """
        Return the key in the keystore *document*. The caller wipes it.

        Raises:
            Malformed: It is no keystore, or not affordable.
            Refused: WRONG_PASSWORD; KEY_MISMATCH if it holds another key than it says.
            Undecided: OVERLOADED.
        """
        keystore = validator_keystores.parse(
            document.encode() if isinstance(document, str) else document
        )
        secret = await self.run(
            lambda: validator_keystores.open_keystore(keystore, password)
        )
        public_key = self._bls.public_key(secret)
        claimed = keystore.pubkey.lower().removeprefix("0x")
        if claimed and claimed != public_key.hex():
            secret.wipe()
            raise Refused(
                Code.KEY_MISMATCH,
                "the keystore holds another key than it says",
                "nothing was stored; where does this keystore come from?",
            )
        return public_key, secret

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """
        Run *work* in the thread.

        Raises:
            Undecided: Too many wait (OVERLOADED).
        """
        if self._waiting >= MAX_WAITING:
            raise Undecided(
                Code.OVERLOADED,
                "too many keystores wait to be opened",
                "send them again in a minute; one takes about a second",
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, work)
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """Finish the piece that runs, and end the thread."""
        await asyncio.to_thread(self._worker.shutdown, cancel_futures=True)
