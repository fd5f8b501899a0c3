"""
The emulated KMS as a program: `python -m nitrosigner.emulator.kms --data DIR`.

Prints one line of JSON on stdout when it answers, and runs until SIGTERM or SIGINT.
There is no option that makes it fail or lie: fault plans exist in Python only.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from nitrosigner.emulator.kms.running import ACCOUNT, REGION, Settings, start
from nitrosigner.verdicts import Verdict


def main() -> int:
    """Serve until told to stop; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nitrosigner.emulator.kms")
    parser.add_argument("--data", type=Path, required=True, help="the stack's folder")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--imds-port", type=int, default=0, help="0: any free one")
    parser.add_argument("--region", default=REGION)
    parser.add_argument("--account", default=ACCOUNT)
    options = parser.parse_args()
    # Blocked before the first thread starts, so that only `sigwait` below sees them.
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    settings = Settings(
        region=options.region,
        account=options.account,
        port=options.port,
        imds_port=options.imds_port,
    )
    try:
        kms = start(options.data, settings=settings)
    except (Verdict, OSError) as error:
        print(f"emulated kms: error: {error}", file=sys.stderr)  # noqa: T201 — a program speaks to people on stderr
        return error.exit_code if isinstance(error, Verdict) else 1
    with kms:
        ready = {
            "url": kms.url,
            "port": kms.port,
            "ca": str(kms.ca),
            "principals": str(kms.principals_file),
            "imds_url": kms.imds_url,
            "imds_port": kms.imds_port,
            "region": kms.region,
            "account": kms.account,
            "pid": os.getpid(),
        }
        print(json.dumps(ready), flush=True)  # noqa: T201 — the ready line is this program's output
        signal.sigwait(stops)
    return 0


if __name__ == "__main__":
    sys.exit(main())
