"""
`nitrosigner tls import|reset|show`: which certificate the signer shows.

The enclave is always verified, by its attestation and not by a CA file: the certificate
that is in force may have ended, and it must still be possible to replace it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
from cryptography import x509

from nitrosigner.cli.confirmation import confirm
from nitrosigner.cli.connection import (
    Connection,
    Expected,
    expectation_options,
    signer_options,
)
from nitrosigner.cli.files import read_file, read_line, warn_of_readers
from nitrosigner.cli.secret_prompt import ask_secret
from nitrosigner.client.import_tls import TlsFile, import_certificate, read_pkcs12
from nitrosigner.client.verification import Proof, attested_authority
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire import api

MAX_FILE: Final = 64 * 1024
_file = click.Path(path_type=Path, dir_okay=False)
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command("import")
@click.argument("file", type=_file, metavar="FILE.p12")
@click.option(
    "--password-file", type=_file, metavar="FILE", help="The PKCS#12 file's password."
)
@click.option(
    "--chain",
    type=_file,
    metavar="FILE",
    help="PEM of the authorities that the file lacks; most files lack the root.",
)
@_yes
@expectation_options
@signer_options()
def import_(
    *,
    connection: Connection,
    expected: Expected,
    file: Path,
    password_file: Path | None,
    chain: Path | None,
    yes: bool,
) -> None:
    """
    Have the signer serve a certificate of your own authority.

    FILE.p12 holds the certificate, its private key and the authorities above it. The
    key is encrypted to the verified enclave and lies sealed in the deployment's store
    from then on. A signer that is not a local stack's needs --pcr0. The client needs
    manage_tls.

    Whoever keeps a copy of the key can stand between clients and enclave: delete the
    file afterwards. `nitrosigner tls reset` brings the enclave's own certificate back.
    """
    connection.require_known_program(expected)
    with connection.client(any_authority=True) as client:
        proof = connection.verify(client, expected)
        given = _read(file, password_file, chain)
        confirm(
            connection.output,
            f"the signer will show {_names(given.chain[0])}, good until "
            f"{_date(_ends(given.chain))}, to all its clients at once; they must trust "
            f"{given.chain[-1].subject.rfc4514_string()}",
            "Serve it?",
            yes=yes,
        )
        shown = import_certificate(client, proof, given)
    _report(connection, expected, shown)
    connection.output.say(
        "whoever has a copy of the key can read along: delete the file and its backups"
    )


@click.command()
@_yes
@expectation_options
@signer_options()
def reset(*, connection: Connection, expected: Expected, yes: bool) -> None:
    """Have the signer serve the certificate that the enclave makes itself."""
    with connection.client(any_authority=True) as client:
        connection.verify(client, expected)
        confirm(
            connection.output,
            "the signer will show a certificate of the enclave's own authority to all "
            "its clients at once; nitrosigner tls export writes that one",
            "Go back to it?",
            yes=yes,
        )
        shown = client.reset_tls()
    _report(connection, expected, shown)


@click.command()
@signer_options()
def show(*, connection: Connection) -> None:
    """Show which certificate the signer serves, and what clients object to in it."""
    with connection.client() as client:
        _fields(connection, client.server_tls())


def _read(file: Path, password_file: Path | None, chain: Path | None) -> TlsFile:
    data = read_file(file, "the PKCS#12 file", MAX_FILE)
    warn_of_readers(file, "the PKCS#12 file")
    more: list[x509.Certificate] = []
    if chain is not None:
        try:
            more = x509.load_pem_x509_certificates(read_file(chain, "the chain"))
        except ValueError:
            raise Malformed(
                Code.USAGE, f"{chain} holds no certificates in PEM"
            ) from None
    if password_file is None:
        password = ask_secret("Password of the PKCS#12 file", "--password-file")
    else:
        password = read_line(password_file, "the password file")
    return read_pkcs12(data, password, more)


def _report(connection: Connection, expected: Expected, shown: api.ServerTls) -> None:
    """Make sure that a new connection gets what was said, and say so."""
    with connection.client(any_authority=True) as client:
        proof = connection.verify(client, expected)
        authority = attested_authority(client, proof)
    if proof.certificate != shown.sha256:
        connection.output.say(
            "this was another enclave, which still shows what it did: those on one "
            "store follow within five minutes"
        )
    for sentence in _not_proved(proof):
        connection.output.say(f"not proved: {sentence}")
    stack = connection.stack()
    if stack is not None:
        # A local stack's folder is where its clients look; `up` writes it at a start.
        fresh = stack.ca.with_name(stack.ca.name + ".new")
        fresh.write_bytes(authority)
        fresh.replace(stack.ca)
    _fields(connection, shown)


def _not_proved(proof: Proof) -> list[str]:
    return [one for one in proof.not_proved() if one.startswith("IMPORTED")]


def _fields(connection: Connection, shown: api.ServerTls) -> None:
    fields = [
        ("origin", shown.origin),
        ("sha256", shown.sha256),
        ("authority", shown.authority_sha256),
        ("not after", _date(datetime.fromtimestamp(shown.not_after, UTC))),
    ]
    if shown.objection:
        fields.append(("objection", shown.objection))
    connection.output.fields(shown, fields)


def _names(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
    except (x509.ExtensionNotFound, ValueError):
        return "a certificate without names"
    return ", ".join(
        [
            *names.get_values_for_type(x509.DNSName),
            *map(str, names.get_values_for_type(x509.IPAddress)),
        ]
    )


def _ends(chain: Sequence[x509.Certificate]) -> datetime:
    return min(one.not_valid_after_utc for one in chain)


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
