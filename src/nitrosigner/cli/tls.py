"""
`nitrosigner tls export`: the signer's authority in the form that each client takes.

What the signer itself shows, and to have it show another, is in `tls_identity`.

What is written is public; the passwords of the PKCS#12 files protect nothing but their
format, except that of `--identity`, which holds our client's private key.
"""

import secrets
from pathlib import Path
from typing import Final

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from nitrosigner.cli.client_configurations import ClientFiles, configurations
from nitrosigner.cli.connection import (
    Connection,
    Expected,
    expectation_options,
    signer_options,
)
from nitrosigner.cli.files import read_file, read_line, write_new, write_new_private
from nitrosigner.cli.tls_identity import import_, reset, show
from nitrosigner.client.verification import attested_authority
from nitrosigner.verdicts import Code, Malformed, Refused

NAME: Final = b"nitrosigner"
_new_file = click.Path(path_type=Path, dir_okay=False)


@click.group()
def tls() -> None:
    """What the signer shows, and what its clients need to trust it."""


for _command in (import_, reset, show):
    tls.add_command(_command)


@tls.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(("pem", "pkcs12")),
    default="pem",
    show_default=True,
    help="pem: most clients. pkcs12: Java's (Teku).",
)
@click.option(
    "--output",
    "-o",
    "file",
    type=_new_file,
    metavar="FILE",
    help="A new file for it. Without it, PEM goes to stdout.",
)
@click.option(
    "--password-file",
    type=_new_file,
    metavar="FILE",
    help="The password of the PKCS#12 files; if there is no such file, one is made. "
    "By default the output's name and .password.",
)
@click.option(
    "--identity",
    type=_new_file,
    metavar="FILE",
    help="Also write our client certificate and its key, as PKCS#12 (mode 0600).",
)
@expectation_options
@signer_options()
def export(
    *,
    connection: Connection,
    expected: Expected,
    form: str,
    file: Path | None,
    password_file: Path | None,
    identity: Path | None,
) -> None:
    """
    Write the authority that issues the signer's certificates.

    With a local stack, or with --pcr0 and the like, the enclave is verified first and
    the authority is the one that issued the attested certificate. With --ca alone it
    is checked against that file. What each validator client is to be told is printed
    with it, ready to paste.
    """
    if file is None and (form == "pkcs12" or identity is not None):
        raise click.UsageError("--format pkcs12 and --identity need --output")
    authority = _authority(connection, expected)
    if file is None:
        click.echo(authority, nl=False)
        return
    password = None
    if form == "pkcs12" or identity is not None:
        password_file = password_file or file.with_name(file.name + ".password")
        password = _password(password_file)
    if form == "pem":
        write_new(file, authority)
    else:
        write_new(file, _truststore(authority, password or ""))
    if identity is not None:
        certificate, key = _client_files(connection)
        write_new_private(identity, _identity(certificate, key, password or ""))
    lines = configurations(
        _url(connection),
        ClientFiles(
            authority=file.absolute(),
            form=form,
            password=None if password_file is None else password_file.absolute(),
            identity=None if identity is None else identity.absolute(),
        ),
    )
    fingerprint = x509.load_pem_x509_certificate(authority).fingerprint(hashes.SHA256())
    connection.output.say(f"wrote {file}")
    connection.output.result(
        {
            "file": str(file),
            "format": form,
            "sha256": fingerprint.hex(),
            "password_file": None if password_file is None else str(password_file),
            "identity": None if identity is None else str(identity),
            "clients": lines,
        },
        (line for client, told in lines.items() for line in (f"# {client}", *told, "")),
    )


def _authority(connection: Connection, expected: Expected) -> bytes:
    verifies = connection.ca is None or expected != Expected()
    with connection.client(bootstrap=verifies) as client:
        if verifies:
            proof = connection.verify(client, expected)
            for sentence in proof.not_proved():
                connection.output.say(f"not proved: {sentence}")
            return attested_authority(client, proof)
        # The connection itself was checked against --ca.
        pem = client.authority()
    try:
        authority = x509.load_pem_x509_certificate(pem)
        given = x509.load_pem_x509_certificates(
            read_file(connection.ca or Path(), "the CA file")
        )
    except ValueError:
        raise Malformed(
            Code.USAGE, "the signer's authority or the CA file is no certificate"
        ) from None
    if authority not in given:
        raise Refused(
            Code.CERTIFICATE_UNTRUSTED,
            "the authority that the signer names is not in the CA file",
            "verify the enclave instead: give --pcr0, and no --ca",
        )
    return authority.public_bytes(serialization.Encoding.PEM)


def _truststore(authority: bytes, password: str) -> bytes:
    # Java trusts only entries that carry Oracle's attribute; openssl's do not.
    certificate = x509.load_pem_x509_certificate(authority)
    return pkcs12.serialize_java_truststore(
        [pkcs12.PKCS12Certificate(certificate, NAME)],
        serialization.BestAvailableEncryption(password.encode()),
    )


def _identity(certificate: Path, key: Path, password: str) -> bytes:
    try:
        chain = x509.load_pem_x509_certificates(
            read_file(certificate, "the client certificate")
        )
        private_key = serialization.load_pem_private_key(
            read_file(key, "the client's key"), None
        )
    except (ValueError, TypeError):
        private_key = None
    if not isinstance(
        private_key,
        ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
    ):
        raise Malformed(
            Code.USAGE,
            "the client credential is not a PEM certificate and its unencrypted key",
            "nitrosigner client new makes one",
        )
    return pkcs12.serialize_key_and_certificates(
        NAME,
        private_key,
        chain[0],
        chain[1:] or None,
        serialization.BestAvailableEncryption(password.encode()),
    )


def _client_files(connection: Connection) -> tuple[Path, Path]:
    if connection.certificate is not None:
        return connection.certificate, connection.key or connection.certificate
    stack = connection.stack()
    if stack is None or connection.token_file is not None:
        raise Malformed(
            Code.USAGE,
            "--identity: no client certificate is named",
            "give --cert and --key; nitrosigner client new makes them",
        )
    files = stack.client(connection.client_name)
    return files.certificate, files.key


def _password(file: Path) -> str:
    if file.exists():
        return read_line(file, "the password file")
    password = secrets.token_urlsafe(24)
    write_new_private(file, password.encode() + b"\n")
    return password


def _url(connection: Connection) -> str:
    with connection.client(bootstrap=True) as client:
        return client.url
