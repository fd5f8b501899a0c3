"""
What each validator client is to be told of the signer, ready to paste.

Which client can send a token in the URL, show a certificate, or trust a private
authority was read in their sources; docs/operations/validator-clients.md has the table
and its dates. A token is never printed: `TOKEN` stands for it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

CERTIFICATE: Final = "CERTIFICATE.pem"
KEY: Final = "KEY.pem"
PROXY: Final = "127.0.0.1:9000"


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """What `tls export` wrote."""

    authority: Path
    form: str
    """`pem` or `pkcs12`."""
    password: Path | None = None
    identity: Path | None = None


def configurations(url: str, files: ClientFiles) -> dict[str, list[str]]:
    """Return, for each client that can use what was written, its lines."""
    with_token = url.replace("https://", "https://signer:TOKEN@", 1)
    if files.form == "pkcs12":
        return {"Teku": _teku(url, files)}
    return {
        "Lighthouse: validator_definitions.yml, an entry for each key": _lighthouse(
            url, with_token, files
        ),
        "Prysm": _prysm(url, files),
        "Vero": [
            f"export SSL_CERT_FILE={files.authority}",
            f"vero --remote-signer-url={with_token} …",
        ],
        "Lodestar and Nimbus, behind a TLS client of their own machine (stunnel)": (
            _stunnel(url, files)
        ),
    }


def _lighthouse(url: str, with_token: str, files: ClientFiles) -> list[str]:
    lines = [
        "- enabled: true",
        '  voting_public_key: "0x…"',
        "  type: web3signer",
        f'  url: "{url if files.identity else with_token}"',
        f"  root_certificate_path: {files.authority}",
    ]
    if files.identity is not None:
        lines += [
            f"  client_identity_path: {files.identity}",
            f'  client_identity_password: "…"  # the line in {files.password}',
        ]
    return lines


def _teku(url: str, files: ClientFiles) -> list[str]:
    lines = [
        f"--validators-external-signer-url={url}",
        "--validators-external-signer-public-keys=external-signer",
        f"--validators-external-signer-truststore={files.authority}",
        f"--validators-external-signer-truststore-password-file={files.password}",
    ]
    if files.identity is None:
        # It takes the token from the URL once it is asked for it with a 401.
        lines[0] = lines[0].replace("https://", "https://signer:TOKEN@", 1)
        return lines
    return [
        *lines,
        f"--validators-external-signer-keystore={files.identity}",
        f"--validators-external-signer-keystore-password-file={files.password}",
    ]


def _prysm(url: str, files: ClientFiles) -> list[str]:
    return [
        f"--validators-external-signer-url={url}",
        f"--validators-external-signer-public-keys={url}/api/v1/eth2/publicKeys",
        f"--validators-external-signer-ca-cert={files.authority}",
        f"--validators-external-signer-client-cert={CERTIFICATE}",
        f"--validators-external-signer-client-key={KEY}",
        f"# without these three flags: SSL_CERT_FILE={files.authority}, and the token",
        "# in both URLs (https://signer:TOKEN@…), which then stands in its log",
    ]


def _stunnel(url: str, files: ClientFiles) -> list[str]:
    parsed = urlsplit(url)
    host, port = parsed.hostname or "", parsed.port or 443
    is_address = host.replace(".", "").isdigit() or ":" in host
    return [
        "[nitrosigner]",
        "client = yes",
        f"accept = {PROXY}",
        f"connect = {parsed.hostname}:{port}",
        f"CAfile = {files.authority}",
        "verifyChain = yes",
        f"{'checkIP' if is_address else 'checkHost'} = {host}",
        f"cert = {CERTIFICATE}",
        f"key = {KEY}",
        f"# lodestar validator --externalSigner.fetch --externalSigner.url http://{PROXY}",
        f"# nimbus_validator_client --web3-signer-url=http://{PROXY}",
    ]
