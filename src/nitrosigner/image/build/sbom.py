"""
The software bill of materials: what is in the image, as CycloneDX 1.5 JSON.

Written from the same locks that the image is built from, so it cannot list something
else. No time and no serial number: the same image has the same bill.
"""

import urllib.parse
from collections.abc import Sequence
from typing import Any, Final

import msgspec

import nitrosigner
from nitrosigner.image.build.base_system import DebianLock
from nitrosigner.image.build.kernel import Kernel
from nitrosigner.image.build.wheels import Wheel
from nitrosigner.image.eif.measure import Measurements

SPECIFICATION: Final = "1.5"


def document(
    lock: DebianLock,
    wheels: Sequence[Wheel],
    kernel: Kernel,
    measurements: Measurements,
) -> bytes:
    """Return the bill of an image."""
    components = [
        _component(
            "linux",
            kernel.origin,
            kernel.sha256,
            "pkg:generic/linux@" + _quoted(kernel.origin),
            kind="operating-system",
        ),
        *(
            _component(
                one.name,
                one.version,
                one.sha256,
                f"pkg:deb/debian/{one.name}@{_quoted(one.version)}?distro={lock.release}",
            )
            for one in lock.packages
        ),
        *(
            _component(
                one.name,
                one.version,
                one.sha256,
                f"pkg:pypi/{one.name}@{_quoted(one.version)}",
            )
            for one in wheels
        ),
    ]
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "version": 1,
        "metadata": {
            "component": {
                "type": "firmware",
                "bom-ref": "nitrosigner-enclave",
                "name": "nitrosigner-enclave",
                "version": nitrosigner.__version__,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "properties": [
                    {"name": f"nitrosigner:{name}", "value": value}
                    for name, value in measurements.named.items()
                ],
            }
        },
        "components": components,
    }
    return msgspec.json.format(msgspec.json.encode(bill), indent=1) + b"\n"


def _component(
    name: str, version: str, sha256: str, purl: str, *, kind: str = "library"
) -> dict[str, Any]:
    return {
        "type": kind,
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
    }


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")
