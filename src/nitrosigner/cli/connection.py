"""
The options of every command that talks to a signer, and the client that they make.

`--data DIR` names a local stack's folder, which holds everything; what is given beside
it wins. Without either, `./data` is taken if there is a stack in it.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from nitrosigner.attestation import trust_anchors
from nitrosigner.attestation.measurements import PCR_SIZE
from nitrosigner.attestation.trust_anchors import FINGERPRINT_SIZE, TrustAnchor
from nitrosigner.cli.files import read_file, read_line
from nitrosigner.cli.output import Output
from nitrosigner.client import local_stack
from nitrosigner.client.local_stack import LocalStack
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.client.verification import AWS_ONLY, Proof
from nitrosigner.client.verification import verify as verify_signer
from nitrosigner.verdicts import Code, Malformed, Undecided
from nitrosigner.wire import manifest as manifests

DEFAULT_DATA: Final = Path("data")
EMULATED_ROOT: Final = Path("emulator/root.pem")

Command = TypeVar("Command", bound=Callable[..., Any])
_file = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a signer must prove of itself, as a person gave it."""

    roots: tuple[str, ...] = ()
    pcrs: tuple[str, ...] = ()
    manifest: str | None = None
    administrator: str | None = None
    allow_debug: bool = False


@dataclass(frozen=True, slots=True)
class Connection:
    """Which signer, as whom, and how to speak about it."""

    url: str | None
    ca: Path | None
    certificate: Path | None
    key: Path | None
    token_file: Path | None
    data: Path | None
    client_name: str
    output: Output

    def stack(self) -> LocalStack | None:
        """
        Return the local stack that is meant, if one is.

        Raises:
            Verdict: One is named and there is none.
        """
        if self.data is not None:
            return local_stack.read(self.data)
        if self.url is None and (DEFAULT_DATA / local_stack.STACK_FILE).is_file():
            return local_stack.read(DEFAULT_DATA)
        return None

    def client(
        self, *, bootstrap: bool = False, any_authority: bool = False
    ) -> SignerClient:
        """
        Return the client.

        Args:
            bootstrap: The caller verifies the attestation first, so that no CA file
                is needed.
            any_authority: The same, and a CA file that is there does not count: it may
                be of a certificate that is to be replaced.

        Raises:
            Malformed: The options do not say enough, or a file is unusable.
        """
        stack = self.stack()
        url = self.url or (stack.url if stack else None)
        if url is None:
            raise Malformed(
                Code.USAGE,
                "no signer is named",
                "give --url URL, or --data DIR of a local stack (nitrosigner up)",
            )
        ca, certificate, key = self.ca, self.certificate, self.key
        if stack is not None:
            ca = ca or stack.ca
            if certificate is None and self.token_file is None:
                files = stack.client(self.client_name)
                certificate, key = files.certificate, key or files.key
        if any_authority:
            ca = None
        elif ca is None and not bootstrap:
            raise Malformed(
                Code.USAGE,
                "nothing is named to check the signer's certificate with",
                "give --ca FILE; nitrosigner verify URL --save-ca FILE writes it",
            )
        token = None
        if self.token_file is not None:
            token = read_line(self.token_file, "the token file")
        return SignerClient(
            with_scheme(url), ca=ca, certificate=certificate, key=key, token=token
        )

    def verify(self, client: SignerClient, expected: Expected) -> Proof:
        """
        Verify who answers; a local stack's folder says what to expect of it.

        Raises:
            Verdict: It is not proved.
        """
        stack = self.stack()
        anchors = [_anchor(root) for root in expected.roots]
        administrator = expected.administrator
        pcrs = _pcrs(expected.pcrs)
        if stack is not None:
            if not anchors:
                anchors = [emulated_root(stack)]
            if 0 not in pcrs and stack.described.pcr0:
                pcrs[0] = frozenset({_measurement(stack.described.pcr0)})
            administrator = administrator or stack.described.administrator or None
        return verify_signer(
            client,
            now=datetime.now(UTC),
            anchors=anchors or AWS_ONLY,
            pcrs=pcrs,
            manifest_digest=_manifest_digest(expected.manifest),
            administrator=_administrator(administrator),
            allow_debug=expected.allow_debug,
        )

    def require_known_program(self, expected: Expected) -> None:
        """
        Check that it is said which program a secret may be handed to.

        Raises:
            Malformed: The signer is no local stack's, and no PCR0 is given.
        """
        if self.stack() is None and not any(
            pcr.startswith("0=") for pcr in expected.pcrs
        ):
            raise Malformed(
                Code.USAGE,
                "a private key is handed to a known enclave only: --pcr0 is missing",
                "give the PCR0 that your build of the image reports",
            )


def signer_options(
    *, key_option: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Add the options; the command gets one `connection`.

    Args:
        key_option: False where `--key` names the signing key. `--cert-key` is the
            client certificate's key everywhere.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(**options: Any) -> None:  # noqa: ANN401  # click's
            connection = Connection(
                url=options.pop("url"),
                ca=options.pop("ca"),
                certificate=options.pop("cert"),
                key=options.pop("cert_key"),
                token_file=options.pop("token_file"),
                data=options.pop("data"),
                client_name=options.pop("client_name"),
                output=Output(options.pop("as_json")),
            )
            command(connection=connection, **options)

        names = ("--key", "--cert-key") if key_option else ("--cert-key",)
        add: list[Callable[[Callable[..., None]], Callable[..., None]]] = [
            click.option("--url", metavar="URL", help="The signer, https://host:port."),
            click.option(
                "--ca", type=_file, metavar="FILE", help="Its certificate authority."
            ),
            click.option(
                "--cert",
                type=_file,
                metavar="FILE",
                help="Our client certificate; may hold its key too.",
            ),
            click.option(
                *names,
                "cert_key",
                type=_file,
                metavar="FILE",
                help="The client certificate's private key.",
            ),
            click.option(
                "--token-file",
                type=_file,
                metavar="FILE",
                help="A file with our bearer token.",
            ),
            click.option(
                "--data",
                type=click.Path(path_type=Path, file_okay=False),
                metavar="DIR",
                help="A local stack's folder, which holds all of these.",
            ),
            click.option(
                "--client",
                "client_name",
                default="default",
                metavar="NAME",
                help="Which of the local stack's clients to be.",
            ),
            json_option,
        ]
        for option in reversed(add):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def json_option(command: Command) -> Command:
    """Add `--json` to a command."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON for programs."
    )(command)


def expectation_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what a signer must prove; the command gets one `expected`."""

    @functools.wraps(command)
    def wrapped(**options: Any) -> None:  # noqa: ANN401  # click's
        pcrs = [f"0={value}" for value in options.pop("pcr0")]
        expected = Expected(
            roots=tuple(options.pop("root")),
            pcrs=(*pcrs, *options.pop("pcr")),
            manifest=options.pop("manifest"),
            administrator=options.pop("administrator"),
            allow_debug=options.pop("allow_debug"),
        )
        command(expected=expected, **options)

    for option in (
        click.option(
            "--allow-debug", is_flag=True, help="Take an enclave in debug mode."
        ),
        click.option(
            "--administrator",
            metavar="HEX",
            help="The fingerprint of whom the manifest must be signed by.",
        ),
        click.option(
            "--manifest",
            metavar="FILE|HEX",
            help="The manifest that must be in force, or its digest.",
        ),
        click.option(
            "--root",
            multiple=True,
            metavar="FILE|HEX",
            help="Root certificate to trust instead of AWS's, or its SHA-256.",
        ),
        click.option(
            "--pcr", multiple=True, metavar="N=HEX", help="Any other measurement."
        ),
        click.option(
            "--pcr0", multiple=True, metavar="HEX", help="The image's measurement."
        ),
    ):
        wrapped = option(wrapped)
    return wrapped


def with_scheme(url: str) -> str:
    """Return *url* with `https://` where a person left it out."""
    return url if "://" in url else f"https://{url}"


def emulated_root(stack: LocalStack) -> TrustAnchor:
    """Return the root of a local stack's emulated Nitro PKI."""
    try:
        return _anchor(str(stack.folder / EMULATED_ROOT))
    except Malformed:
        raise Undecided(
            Code.ATTESTATION_UNTRUSTED,
            f"{stack.folder / EMULATED_ROOT} is missing or damaged",
            "the stack makes it when it starts: nitrosigner up",
        ) from None


def _anchor(root: str) -> TrustAnchor:
    fingerprint = _hex(root, FINGERPRINT_SIZE)
    name = "given by fingerprint"
    if fingerprint is None:
        pem = read_file(Path(root), "the root certificate")
        try:
            certificate = x509.load_pem_x509_certificate(pem)
        except ValueError:
            raise Malformed(
                Code.USAGE,
                f"{root} is neither a PEM certificate nor a SHA-256 fingerprint",
                "give the root certificate's file, or 64 hexadecimal digits",
            ) from None
        fingerprint = certificate.fingerprint(hashes.SHA256())
        name = certificate.subject.rfc4514_string()
    return trust_anchors.by_fingerprint(fingerprint, name)


def _pcrs(given: tuple[str, ...]) -> dict[int, frozenset[bytes]]:
    pcrs: dict[int, frozenset[bytes]] = {}
    for text in given:
        index, _, value = text.partition("=")
        if not (index.isascii() and index.isdigit() and len(index) < 3):
            raise Malformed(
                Code.USAGE, "--pcr takes INDEX=HEX", "for example --pcr 8=3f9c02…"
            )
        pcrs[int(index)] = pcrs.get(int(index), frozenset()) | {_measurement(value)}
    return pcrs


def _measurement(value: str) -> bytes:
    measured = _hex(value, PCR_SIZE)
    if measured is None:
        raise Malformed(
            Code.USAGE,
            f"a PCR is {PCR_SIZE * 2} hexadecimal digits",
            "nitrosigner attestation inspect shows those of a document",
        )
    return measured


def _manifest_digest(given: str | None) -> str | None:
    if given is None or _hex(given, 32) is not None:
        return given
    return manifests.accept(read_file(Path(given), "the manifest")).digest


def _administrator(given: str | None) -> str | None:
    if given is None or _hex(given, 32) is not None:
        return given
    raise Malformed(
        Code.USAGE,
        "an administrator's fingerprint is 64 hexadecimal digits",
        "nitrosigner administrator show FILE prints it",
    )


def _hex(text: str, size: int) -> bytes | None:
    digits = text.strip().lower().removeprefix("0x").replace(":", "")
    if len(digits) != size * 2 or any(c not in "0123456789abcdef" for c in digits):
        return None
    return bytes.fromhex(digits)
