"""`nitrosigner validators`: their keys come, go, and say what is said once."""

import click

from nitrosigner.cli.validator_derive import backup_key, derive, open_backup
from nitrosigner.cli.validator_import import import_
from nitrosigner.cli.validator_keys import create, delete, disable, enable, list_
from nitrosigner.cli.validator_reference import import_reference
from nitrosigner.cli.validator_statements import bls_change, deposit_data, exit_


@click.group()
def validators() -> None:
    """Bring in, make, look at and retire validators' keys."""


for _command in (
    backup_key,
    bls_change,
    create,
    delete,
    deposit_data,
    derive,
    disable,
    enable,
    exit_,
    import_,
    import_reference,
    list_,
    open_backup,
):
    validators.add_command(_command)
