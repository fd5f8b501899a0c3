"""
User data: the short script that fetches, checks and hands over.

EC2 takes 16 KiB of it. What it fetches it knows by SHA-256, from this synthesis: an
object that somebody changed in the bucket is not run.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from nitrosigner.untrusted import parent

MAX_USER_DATA: Final = 16 * 1024
INSTANCE: Final = Path(__file__).with_name("instance")
_PARENTS_UNITS: Final = Path(parent.__file__).with_name("systemd")
PACKAGES: Final = (
    "aws-nitro-enclaves-cli",
    "python3.11",
    "amazon-cloudwatch-agent",
    # In most images already, and without it the logs fill the disk.
    "logrotate",
)
CONTAINER_PACKAGES: Final = ("docker",)
_FROM_THE_REPOSITORY: Final = (
    "# Amazon Linux's repository alone, through the S3 endpoint. It is locked to the\n"
    "# machine image's release: all of a launch template get the same packages.\n"
    "dnf -y -q --repo=amazonlinux --setopt=retries=5 --setopt=amazonlinux.gpgcheck=1 "
    "install {packages}"
)
_FROM_THE_ASSETS: Final = """\
# The stack's own packages: known by hash like all it ships, and signed by Amazon.
aws s3 cp --only-show-errors 's3://{bucket}/{key}' packages.zip
echo '{sha256}  packages.zip' | sha256sum --check --strict --quiet
python3 -m zipfile -e packages.zip packages
rpm --import /etc/pki/rpm-gpg/RPM-GPG-KEY-amazon-linux-2023
dnf -y -q --disablerepo='*' --setopt=localpkg_gpgcheck=1 install packages/*.rpm"""
_PLACEHOLDER: Final = re.compile(r"@([A-Z0-9_]+)@")


def script(values: Mapping[str, str]) -> str:
    """
    Return the script with *values* filled in.

    Every placeholder needs a value and every value a placeholder; a mistake here would
    show only on an instance that nobody can log in to.
    """
    text = (INSTANCE / "user_data.sh").read_text()
    # The comment at the top speaks of placeholders and is none.
    wanted = set(_PLACEHOLDER.findall(text)) - {"NAMES"}
    if wanted != values.keys():
        msg = f"user data and its values differ: {sorted(wanted ^ values.keys())}"
        raise AssertionError(msg)
    return _PLACEHOLDER.sub(
        lambda found: values.get(found[1], found[0]), text
    ).removeprefix("#!/bin/bash\n")


def from_the_repository(packages: Sequence[str]) -> str:
    """Return the commands that install *packages* from Amazon Linux's repository."""
    return _FROM_THE_REPOSITORY.format(packages=" ".join(packages))


def from_the_assets(*, bucket: str, key: str, sha256: str) -> str:
    """Return the commands that install the RPM files of one of the stack's assets."""
    return _FROM_THE_ASSETS.format(bucket=bucket, key=key, sha256=sha256)


def beside() -> list[tuple[str, bytes, bool]]:
    """Return what travels in the parent's archive beside its packages."""
    return [
        (f"instance/{path.name}", path.read_bytes(), path.suffix == ".sh")
        for path in sorted(INSTANCE.iterdir())
        if path.is_file() and path.name not in ("user_data.sh", "__init__.py")
    ] + [
        (f"instance/{path.name}", path.read_bytes(), False)
        for path in sorted(_PARENTS_UNITS.glob("*.service"))
    ]
