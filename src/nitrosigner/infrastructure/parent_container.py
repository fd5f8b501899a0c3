"""
The parent as a container image in ECR, for those who want it so.

The default needs no Docker anywhere (docs/decisions/0019). With this choice `cdk
deploy` builds the image with Docker and instances pull it; synthesis still needs none.
Watchdog and lifecycle stay services: they start enclaves and services of the host.

The container is not what protects a key; the parent has none. It is held as tight as
the unit is, so that this way of running it is not the weaker one.
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
_DRAIN_SECONDS: Final = 75
"""More than the parent drains, less than systemd waits before it kills."""
OPTIONS: Final = (
    # What the container is given, each with its reason:
    #   IMDS answers to one hop only, and a bridge is a second one; vsock is the host's.
    "--network host",
    #   Its settings, to read.
    "--volume /etc/nitrosigner:/etc/nitrosigner:ro",
    #   State, control socket and audit log, which the watchdog and the agent read.
    "--volume /var/lib/nitrosigner:/var/lib/nitrosigner",
    "--volume /var/log/nitrosigner:/var/log/nitrosigner",
    # And nothing else: no root, no capability, no device, no way to more.
    "--user ${CONTAINER_USER}",
    "--cap-drop ALL",
    "--security-opt no-new-privileges",
    #   Docker's own filter forbids AF_VSOCK. Ours allows that, and of what it forbids
    #   leaves out what a server of ours never calls.
    "--security-opt seccomp=/etc/nitrosigner/seccomp.json",
    "--read-only",
    "--tmpfs /tmp:rw,noexec,nosuid,nodev,size=16m",
    "--pids-limit 256",
    "--ulimit nofile=65536:65536",
    "--ulimit core=0:0",
    "--ipc private",
    #   The unit keeps what it prints; a second copy would fill the disk.
    "--log-driver none",
    "--pull never",
)
_STOP: Final = f"/usr/bin/docker stop --time {_DRAIN_SECONDS} nitrosigner-parent"
_RUN: Final = f"/usr/bin/docker run --rm --name nitrosigner-parent {' '.join(OPTIONS)} "


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
                    # Docker's client: the one who may speak to its daemon. What it
                    # starts is the user that install.sh writes down.
                    "User=root",
                    "EnvironmentFile=/etc/nitrosigner/container.env",
                    # systemd would give the directory to root, who does not write it.
                    "StateDirectory=",
                    "ExecStart=",
                    f"ExecStart={_RUN}{self._image.image_uri}",
                    f"ExecStop={_STOP}",
                )
            ),
        }

    def allow_pulling(self, role: iam.Role) -> None:
        """Let *role* pull from this repository, whose tags are never moved."""
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
