"""
The parent as a container image in ECR, for those who want it so.

The default needs no Docker anywhere (docs/decisions/0019). With this choice `cdk
deploy` builds the image with Docker and instances pull it; synthesis still needs none.
Watchdog and lifecycle stay services: they start enclaves and services of the host.
"""

import shutil
import zipfile
from pathlib import Path
from typing import Final

from aws_cdk import Aws
from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_iam as iam
from constructs import Construct

from nitrosigner.infrastructure.assets import Assets
from nitrosigner.infrastructure.settings import Architecture
from nitrosigner.infrastructure.statements import allow
from nitrosigner.infrastructure.user_data import INSTANCE

_PLATFORMS: Final = {
    Architecture.X86_64: ecr_assets.Platform.LINUX_AMD64,
    Architecture.ARM64: ecr_assets.Platform.LINUX_ARM64,
}
_RUN: Final = (
    "/usr/bin/docker run --rm --name nitrosigner-parent --network host --read-only "
    "--cap-drop ALL --security-opt no-new-privileges "
    # Docker's own filter forbids AF_VSOCK, and it can be widened by a whole file only.
    "--security-opt seccomp=unconfined "
    "--user 0:0 --volume /etc/nitrosigner:/etc/nitrosigner:ro "
    "--volume /var/lib/nitrosigner:/var/lib/nitrosigner "
    "--volume /var/log/nitrosigner:/var/log/nitrosigner "
)


class ParentContainer(Construct):
    """The image, and what an instance has to be told of it."""

    def __init__(
        self, scope: Construct, name: str, *, assets: Assets, machine: Architecture
    ) -> None:
        """Lay out what Docker shall build for *machine*."""
        super().__init__(scope, name)
        self._image = ecr_assets.DockerImageAsset(
            self,
            "Image",
            directory=str(_context(assets, machine)),
            platform=_PLATFORMS[machine],
        )
        registry = f"{Aws.ACCOUNT_ID}.dkr.ecr.{Aws.REGION}.{Aws.URL_SUFFIX}"
        self.deployed: dict[str, object] = {
            "container": self._image.image_uri,
            "registry": registry,
            "container.conf": "\n".join(
                (
                    "[Service]",
                    "User=root",
                    "ExecStart=",
                    f"ExecStart={_RUN}{self._image.image_uri}",
                    "ExecStop=/usr/bin/docker stop --time 90 nitrosigner-parent",
                )
            ),
        }

    def allow_pulling(self, role: iam.Role) -> None:
        """Let *role* pull this repository's images, by digest."""
        role.add_to_policy(
            allow(
                "PullTheParent",
                [
                    "ecr:BatchCheckLayerAvailability",
                    "ecr:BatchGetImage",
                    "ecr:GetDownloadUrlForLayer",
                ],
                [self._image.repository.repository_arn],
            )
        )
        role.add_to_policy(
            allow("LoginKnowsNoResources", ["ecr:GetAuthorizationToken"], ["*"])
        )


def _context(assets: Assets, machine: Architecture) -> Path:
    folder = assets.build / f"parent-image-{machine.value}"
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(assets.parent(machine)) as archive:
        archive.extractall(folder / "parent")
    shutil.copyfile(INSTANCE / "Dockerfile", folder / "Dockerfile")
    return folder
