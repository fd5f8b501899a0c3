"""
make bench: every figure beside its reference, in one run, and as JSON.

    python bench/run.py [--quick]

Each part runs in a process of its own, one after the other, and prints what it must
reach. A MISS on a busy machine says little: the ratios within a part were measured in
turns, the rates were not. Every target has a line at the end, `ok` or `MISS`. Ends with
1 if anything was missed; no test depends on it. A part that hangs is cut off.
"""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "latest.json"
PARTS: dict[str, list[str]] = {
    "signing": [],
    "relay": [],
    "watermarks": [],
    "wallet": [],
    "validator": [],
}
MOST_SECONDS = 150
"""For one part. On a quiet machine the longest takes a third of it."""
QUICK = {
    "watermarks": ["--rounds", "3"],
    "wallet": ["--seconds", "2", "--keys", "500"],
    "validator": ["--seconds", "2", "--keys", "1000"],
}


def run(part: str, options: list[str]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, HERE / f"{part}.py", "--json", *options],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=MOST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"bench/{part}.py was not done in {MOST_SECONDS} seconds"}
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        found = {"error": f"bench/{part}.py ended with {done.returncode}"}
    return found


def show(name: str, value: Any, depth: int = 1) -> None:
    indent = "  " * depth
    if isinstance(value, dict):
        print(f"{indent}{name}")
        for key, inner in value.items():
            show(str(key), inner, depth + 1)
    elif isinstance(value, float):
        print(f"{indent}{name:34} {value:12.2f}")
    else:
        print(f"{indent}{name:34} {value!s:>12}")


def targets(found: dict[str, Any]) -> dict[str, bool]:
    """Return the sentences of a part, and whether they hold."""
    if "error" in found:
        return {str(found["error"]): False}
    limits: dict[str, bool] = dict(found.get("limits", {}))
    if "ok" in found:
        limits["within its limit"] = bool(found["ok"])
    return limits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, rougher")
    options = parser.parse_args()
    everything: dict[str, Any] = {
        "machine": {"python": platform.python_version(), "cpu": platform.machine()}
    }
    judged: dict[str, bool] = {}
    for part, arguments in PARTS.items():
        print(f"\n{part}", flush=True)
        found = run(part, QUICK.get(part, []) if options.quick else arguments)
        everything[part] = found
        for name, value in found.items():
            if name != "limits":
                show(name, value)
        judged |= {f"{part}: {one}": holds for one, holds in targets(found).items()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(everything, indent=2) + "\n")
    print(f"\nas JSON: bench/results/{RESULTS.name}")
    for sentence, holds in judged.items():
        print(f"{'ok  ' if holds else 'MISS'} {sentence}")
    return 0 if all(judged.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
