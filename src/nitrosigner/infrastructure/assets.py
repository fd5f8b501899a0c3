"""What the stacks ship: made once for a synthesis, shared by all of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nitrosigner.infrastructure import bundle, user_data
from nitrosigner.infrastructure.measured_image import MeasuredImage
from nitrosigner.infrastructure.settings import Architecture

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
