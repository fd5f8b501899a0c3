"""
Builds the enclave image; `make image` runs it.

    python -m nitrosigner.image.build --output DIR [--architecture aarch64]
        [--kernel FILE] [--cache DIR]
"""

import argparse
import functools
import os
import sys
import time
from pathlib import Path

from nitrosigner.image import contents
from nitrosigner.image.build import relock
from nitrosigner.image.build.build_image import build
from nitrosigner.image.build.cache_folder import default_cache
from nitrosigner.image.build.debian_mirror import Mirrors, machine_mirrors
from nitrosigner.image.build.kernel import given_kernel, recipe_kernel
from nitrosigner.image.build.machine import MACHINES, X86_64
from nitrosigner.verdicts import Verdict


def main() -> int:
    """Build, or write the locks anew; say what came out."""
    parser = argparse.ArgumentParser(
        prog="nitrosigner.image.build", description=__doc__
    )
    parser.add_argument("--output", type=Path, default=Path("build/image"))
    parser.add_argument("--cache", type=Path, default=default_cache(os.environ))
    parser.add_argument("--source", type=Path, default=contents.source_root())
    parser.add_argument("--architecture", choices=sorted(MACHINES), default=X86_64.name)
    parser.add_argument(
        "--kernel",
        type=Path,
        help="a bzImage (or Image, for aarch64), not the recipe's",
    )
    parser.add_argument("--mirror", help="of Debian, instead of this machine's")
    parser.add_argument("--security-mirror")
    parser.add_argument("--kernel-only", action="store_true")
    parser.add_argument("--lock", action="store_true", help="write the locks anew")
    options = parser.parse_args()
    machine = MACHINES[options.architecture]

    @functools.cache
    def mirrors() -> Mirrors:
        if options.mirror is not None:
            return Mirrors(options.mirror, options.security_mirror)
        return machine_mirrors()

    started = time.monotonic()
    try:
        if options.lock:
            for one in MACHINES.values():
                relock.lock_debian(options.cache, mirrors, one)
                relock.lock_wheels(one)
            return 0
        kernel = (
            recipe_kernel(options.cache, mirrors, _say, machine)
            if options.kernel is None
            else given_kernel(options.kernel, machine)
        )
        if options.kernel_only:
            print(kernel.sha256)  # noqa: T201  # the result
            return 0
        built = build(
            options.output,
            source=options.source,
            kernel=kernel,
            cache=options.cache,
            mirrors=mirrors,
            say=_say,
            machine=machine,
        )
    except Verdict as verdict:
        _say(f"error: {verdict.message}")
        if verdict.hint:
            _say(f"hint: {verdict.hint}")
        return verdict.exit_code
    _say(
        f"{built.image}: {built.size / 1e6:.1f} MB"
        f" in {time.monotonic() - started:.0f} s"
    )
    for name, value in built.measurements.named.items():
        print(f"{name} {value}")  # noqa: T201  # the result
    return 0


def _say(text: str) -> None:
    print(f"nitrosigner: {text}", file=sys.stderr)  # noqa: T201  # a command line


if __name__ == "__main__":
    sys.exit(main())
