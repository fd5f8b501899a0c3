"""
`python -m nitrosigner.untrusted.parent --config FILE`: run the parent.

One line of JSON on standard output when callers are let in; events on standard error.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

from nitrosigner.untrusted.parent import configuration
from nitrosigner.untrusted.parent.event_log import Event
from nitrosigner.untrusted.parent.parent import run, structured_log
from nitrosigner.verdicts import Malformed, Verdict


def main() -> int:
    """Run the parent and return its exit code."""
    parser = argparse.ArgumentParser(prog="nitrosigner-parent")
    parser.add_argument("--config", required=True, type=Path, metavar="FILE")
    arguments = parser.parse_args()
    os.umask(0o077)
    # Where we share processors (a laptop), take what came together when another's turn
    # ends, instead of interrupting it for each piece. An idle one still takes us at
    # once.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    log = structured_log()

    def ready(port: int) -> None:
        with contextlib.suppress(OSError):
            sys.stdout.write(json.dumps({"port": port, "pid": os.getpid()}) + "\n")
            sys.stdout.flush()

    try:
        told = configuration.read(arguments.config)
        asyncio.run(run(told, log, ready))
    except Verdict as verdict:
        event = (
            Event.CONFIGURATION_REFUSED
            if isinstance(verdict, Malformed)
            else Event.START_FAILED
        )
        log(event, code=verdict.code, message=verdict.message, hint=verdict.hint)
        return verdict.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
