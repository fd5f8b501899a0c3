"""What the stacks ship: made once for a synthesis, shared by all of them."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nitrosigner.infrastructure import bundle, user_data
from nitrosigner.infrastructure.measured_image import MeasuredImage
from nitrosigner.infrastructure.settings import Architecture
from nitrosigner.verdicts import Code, Malformed

GATEWAY_MACHINE: Final = Architecture.ARM64
"""Lambda's cheaper one. It has nothing to do with the instances'."""
_NOT_BUILT: Final = b"no enclave image was built: make image\n"


@dataclass
class Assets:
    """Files for the stacks, each made when it is first asked for."""

    image: MeasuredImage
    build: Path
    """A folder of ours, for what is made."""
    wheels: bundle.Wheels = bundle.locked_wheels
    base: Path = Path()
    """The settings' folder, which the paths in them begin at."""

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self._made: dict[str, Path] = {}

    @property
    def gateway(self) -> Path:
        """Archive of the Lambda functions."""
        if "gateway" not in self._made:
            self._made["gateway"] = bundle.make(
                bundle.GATEWAY, GATEWAY_MACHINE, self.build, wheels=self.wheels
            )
        return self._made["gateway"]

    def parent(self, machine: Architecture) -> Path:
        """Archive of the instances' programs for *machine*."""
        if machine not in self._made:
            self._made[machine] = bundle.make(
                bundle.PARENT,
                machine,
                self.build,
                wheels=self.wheels,
                beside=user_data.beside(),
            )
        return self._made[machine]

    def packages(self, folder: str, machine: Architecture, needed: list[str]) -> Path:
        """
        Return an archive of the RPM files in *folder*.

        Raises:
            Malformed: It lacks one of *needed*, or has one for another machine.
        """
        found = sorted((self.base / folder).glob("*.rpm"))
        rpm = {Architecture.X86_64: "x86_64", Architecture.ARM64: "aarch64"}[machine]
        lacking = [
            name
            for name in needed
            if not any(re.match(rf"{re.escape(name)}-\d", one.name) for one in found)
        ]
        foreign = [
            one.name
            for one in found
            if not one.name.endswith((f".{rpm}.rpm", ".noarch.rpm"))
        ]
        if lacking or foreign:
            raise Malformed(
                Code.MALFORMED_REQUEST,
                f"settings: packages {folder} "
                + (
                    f"lacks an RPM file of: {', '.join(lacking)}"
                    if lacking
                    else f"has files that are not for {rpm}: {', '.join(foreign)}"
                ),
                "on an Amazon Linux 2023 instance of the release that you deploy: dnf "
                f"download --resolve --destdir packages {' '.join(needed)}",
            )
        name = f"packages-{folder}-{machine}"
        if name not in self._made:
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            path = self.build / f"packages-{digest}.zip"
            bundle.archive(path, {one.name: one.read_bytes() for one in found})
            self._made[name] = path
        return self._made[name]

    @property
    def eif(self) -> Path:
        """The enclave image, or a file that says that there is none."""
        if self.image.eif is not None:
            return self.image.eif
        path = self.build / "no-image.txt"
        if not path.is_file():
            self.build.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_NOT_BUILT)
        return path
