"""
One execution environment of a Lambda function: `lambda_environment.py MODULE.NAME`.

The handler is imported once. Each line of standard input is an event, each line of
standard output what the handler returned, both JSON as Lambda carries them; what the
handler prints goes to standard error, its log. Whatever it has to know stands in its
environment variables. A handler that raises ends the process: ours never do.
"""

import importlib
import json
import os
import sys


def main() -> None:
    """Answer events until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, name = sys.argv[1].rsplit(".", 1)
    handler = getattr(importlib.import_module(module), name)
    for line in sys.stdin:
        answer = json.dumps(handler(json.loads(line), None))
        sys.stdout.flush()
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    main()
