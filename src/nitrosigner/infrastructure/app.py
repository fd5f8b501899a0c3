"""
`python -m nitrosigner.infrastructure.app`: the CDK app, and `cdk`'s way into it.

Needs Node.js, because the CDK is JavaScript underneath; no account, no Docker. What it
writes says for each stack whether it may be deployed. The settings come from the file
that `-c settings=FILE` names, else from `deployment.json`, else there are none and
everything is an example.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Final

from nitrosigner.infrastructure import bundle, measured_image, settings
from nitrosigner.infrastructure.settings import Settings
from nitrosigner.verdicts import Code, Malformed, Refused, Verdict

SETTINGS: Final = "deployment.json"
DEFAULT_IMAGE: Final = "build/image"
BUILD: Final = "build/infrastructure"
OLD_NODES: Final = "18,20"
NODE: Final = "Node.js is not installed: the AWS CDK runs in it"


def need_node() -> None:
    """
    Check that the CDK can run.

    Raises:
        Malformed: There is no Node.js.
    """
    if shutil.which("node") is None:
        raise Malformed(
            Code.USAGE, NODE, "install Node.js 22 or later, e.g. apt-get install nodejs"
        )
    # Debian's own are older than what jsii asks for, and work. It says so in ten lines.
    os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", OLD_NODES)


def image_of(chosen: Settings, root: Path) -> measured_image.MeasuredImage:
    """
    Return the image that *chosen* names, else the one that `make image` left.

    Raises:
        Verdict: What is there is not an image with its measurements.
    """
    folder: Path | None = root / (chosen.image or DEFAULT_IMAGE)
    if chosen.image is None and folder is not None and not folder.is_dir():
        folder = None
    previous = [root / path for path in chosen.previous_measurements]
    image = measured_image.read(folder, previous)
    for name, stack in chosen.stacks.items():
        if image.architecture not in (None, stack.architecture):
            raise Refused(
                Code.MALFORMED_REQUEST,
                f"settings: {name} has {stack.architecture} instances, the image is "
                f"for {image.architecture}",
                "set architecture to the image's",
            )
    return image


def main(
    folder: Path = bundle.PROJECT, wheels: bundle.Wheels = bundle.locked_wheels
) -> int:
    """
    Synthesize all stacks and return the exit code.

    Args:
        folder: Where `deployment.json` is, if there is one, and what is built goes.
        wheels: Gets other people's packages.
    """
    try:
        need_node()
        # The CDK starts Node.js when it is imported.
        from aws_cdk import App

        from nitrosigner.infrastructure.assets import Assets
        from nitrosigner.infrastructure.synthesis import add_stacks

        # Run by `cdk`, it writes where CDK_OUTDIR says.
        app = App(outdir=os.environ.get("CDK_OUTDIR", "cdk.out"))
        named = app.node.try_get_context("settings")
        path = Path(named or folder / SETTINGS)
        there = named is not None or path.exists()
        chosen = settings.read(path) if there else Settings()
        root = path.resolve().parent
        image = image_of(chosen, root)
        plans = settings.plans(chosen, measured=image.eif is not None)
        assets = Assets(image, folder / BUILD, wheels, base=root)
        add_stacks(app, plans, assets)
        app.synth()
    except Verdict as verdict:
        print(f"nitrosigner: error: {verdict.message}", file=sys.stderr)  # noqa: T201  # a program's
        if verdict.hint:
            print(f"nitrosigner: hint: {verdict.hint}", file=sys.stderr)  # noqa: T201  # a program's
        return verdict.exit_code
    for plan in plans:
        state = "; ".join(plan.not_deployable) or "may be deployed"
        mode = " (DEBUG MODE)" if plan.debug else ""
        print(f"{plan.name}{mode}: {state}", file=sys.stderr)  # noqa: T201  # a program's
    return 0


if __name__ == "__main__":
    sys.exit(main())
