"""
A nitro-cli that can fail in every way. A program of its own, as the real one is.

    python fake_nitro_cli.py FOLDER COMMAND ARGUMENTS…

FOLDER/behaviour.json says how each command ends: `ok`, `fail`, `hang`, `garbage`,
`flood`, or for run-enclave `lie` (says that it did, and did nothing). FOLDER/calls holds
the calls. An enclave is a process: fake_enclave.py.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def read(path: Path, otherwise: object) -> object:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return otherwise


def write(path: Path, value: object) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(value))
    fresh.replace(path)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"
    return False


def main() -> None:
    folder, command, arguments = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    with (folder / "calls").open("a") as file:
        file.write(json.dumps([command, *arguments]) + "\n")
    behaviour = read(folder / "behaviour.json", {})
    how = behaviour.get(command, "ok")
    if how == "hang":
        time.sleep(600)
    if how == "garbage":
        print("[{]")
        return
    if how == "flood":
        print("x" * (3 << 20))
        return
    if how == "fail":
        print("E22: something about a resource", file=sys.stderr)
        sys.exit(22)
    store = folder / "enclaves.json"
    enclaves = read(store, [])
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    if command == "describe-enclaves":
        for one in enclaves:
            # A crashed enclave is one that is no longer listed.
            one["State"] = behaviour.get("state", one["State"])
        shown = [one for one in enclaves if alive(one["ProcessID"])]
        print(json.dumps(shown))
    elif command == "run-enclave":
        if how == "lie":
            print("{}")
            return
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S"),
                str(Path(__file__).with_name("fake_enclave.py")),
                str(folder),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        enclaves.append(
            {
                "EnclaveName": options["--enclave-name"],
                "EnclaveID": f"i-0abc-enc{process.pid}",
                "ProcessID": process.pid,
                "EnclaveCID": int(options["--enclave-cid"]),
                "NumberOfCPUs": int(options["--cpu-count"]),
                "CPUIDs": [1, 3],
                "MemoryMiB": int(options["--memory"]),
                "State": "RUNNING",
                "Flags": "DEBUG_MODE" if "--debug-mode" in arguments else "NONE",
                "Measurements": {
                    "HashAlgorithm": "Sha384 { ... }",
                    "PCR0": behaviour.get("pcr0", "ab" * 48),
                },
            }
        )
        write(store, enclaves)
        print(json.dumps(enclaves[-1]))
    elif command == "terminate-enclave":
        for one in enclaves:
            if one["EnclaveID"] == options["--enclave-id"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one["ProcessID"], signal.SIGKILL)
                while alive(one["ProcessID"]):
                    time.sleep(0.01)
        write(store, [o for o in enclaves if o["EnclaveID"] != options["--enclave-id"]])
        print("{}")
    else:
        sys.exit(2)


if __name__ == "__main__":
    main()
