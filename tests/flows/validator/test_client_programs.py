"""
What `tls export` writes, in the hands of programs that read it as validator clients do.

The clients themselves are no part of this machine, but what they are made of is: Java's
HTTP client with Teku's way of setting it up, aiohttp with Vero's, curl with a client
certificate. (A whole Lodestar: make test-clients.)
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.emulator.demo_validator import FORK_INFO
from nitrosigner.emulator.running_stack import RunningStack

DUTY = {
    "type": "RANDAO_REVEAL",
    "fork_info": FORK_INFO,
    "randao_reveal": {"epoch": "3"},
}
COMMAND = (sys.executable, "-I", "-m", "nitrosigner.cli.main")
# As Teku's HttpClientExternalSignerFactory and PublicKeyLoader: a context of TLS 1.2, both
# stores opened with one password each, user information taken out of the URL into an
# authenticator, which shows it only when it is asked to.
TEKU = """
import java.io.*; import java.net.*; import java.net.http.*; import java.nio.file.*;
import java.security.*; import javax.net.ssl.*;
public class Teku { public static void main(String[] a) throws Exception {
  char[] password = Files.readAllLines(Path.of(a[1])).get(0).toCharArray();
  var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
  trust.init(KeyStore.getInstance(new File(a[0]), password));
  KeyManager[] keys = null;
  if (!a[2].isEmpty()) {
    var factory = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
    factory.init(KeyStore.getInstance(new File(a[2]), password), password);
    keys = factory.getKeyManagers();
  }
  var tls = SSLContext.getInstance("TLSv1.2");
  tls.init(keys, trust.getTrustManagers(), new SecureRandom());
  var builder = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1)
      .sslContext(tls);
  if (!a[3].isEmpty()) builder.authenticator(new Authenticator() {
    protected PasswordAuthentication getPasswordAuthentication() {
      return new PasswordAuthentication("signer", a[3].toCharArray());
    }});
  var client = builder.build();
  var url = URI.create(a[4]);
  var listed = client.send(HttpRequest.newBuilder()
      .uri(url.resolve("/api/v1/eth2/publicKeys")).GET().build(),
      HttpResponse.BodyHandlers.ofString());
  System.out.println(listed.statusCode() + " " + listed.body());
  var signed = client.send(HttpRequest.newBuilder()
      .uri(url.resolve("/api/v1/eth2/sign/" + a[5]))
      .header("Content-Type", "application/json")
      .POST(HttpRequest.BodyPublishers.ofString(a[6])).build(),
      HttpResponse.BodyHandlers.ofString());
  System.out.println(signed.statusCode() + " " + signed.body());
}}
"""
VERO = """
import asyncio, json, sys
import aiohttp
url, key, duty = sys.argv[1:]
async def main():
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/api/v1/eth2/publicKeys") as listed:
            print(listed.status, await listed.text())
        async with session.post(
            f"{url}/api/v1/eth2/sign/{key}", json=json.loads(duty)
        ) as signed:
            print(signed.status, await signed.text())
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def exported(
    chain: RunningStack, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Both forms, and the client's certificate."""
    folder = tmp_path_factory.mktemp("exported")
    files = {
        "pem": folder / "ca.pem",
        "trust": folder / "trust.p12",
        "identity": folder / "identity.p12",
        "password": folder / "password",
    }
    common = ("--data", chain.folder.path, "--client", "validator")
    for arguments in (
        ("--output", files["pem"]),
        (
            *("--format", "pkcs12", "--output", files["trust"]),
            *("--identity", files["identity"], "--password-file", files["password"]),
        ),
    ):
        subprocess.run(
            [*COMMAND, "tls", "export", *map(str, (*arguments, *common))],
            check=True,
            capture_output=True,
            timeout=60,
        )
    return {name: str(file) for name, file in files.items()}


@pytest.fixture(scope="module")
def key(fresh_keys: Callable[[int], list[str]]) -> str:
    return fresh_keys(1)[0]


def token(chain: RunningStack) -> str:
    return Path(chain.ready.clients["validator"].token_file).read_text().strip()


def answers(command: list[str], **options: Any) -> list[str]:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    lines: list[str] = done.stdout.splitlines()
    return lines


@pytest.mark.parametrize("way", ["certificate", "token"])
def test_teku_signs_with_what_is_exported(
    *,
    chain: RunningStack,
    exported: dict[str, str],
    key: str,
    tmp_path: Path,
    way: str,
) -> None:
    java = shutil.which("java")
    if java is None:
        pytest.skip("java is not installed")
    (tmp_path / "Teku.java").write_text(TEKU)
    listed, signed = answers(
        [
            *(java, str(tmp_path / "Teku.java"), exported["trust"]),
            exported["password"],
            exported["identity"] if way == "certificate" else "",
            token(chain) if way == "token" else "",
            *(chain.ready.url, key, json.dumps(DUTY)),
        ]
    )
    assert listed.startswith("200 ")
    assert key in listed
    # It asks for nothing in particular, and takes the hex as it is.
    assert signed.startswith("200 0x")
    assert len(signed) == len("200 0x") + 192


def test_vero_signs_with_the_token_in_the_url(
    chain: RunningStack, exported: dict[str, str], key: str
) -> None:
    url = chain.ready.url.replace("https://", f"https://signer:{token(chain)}@")
    listed, signed = answers(
        [sys.executable, "-c", VERO, url, key, json.dumps(DUTY)],
        env={**os.environ, "SSL_CERT_FILE": exported["pem"]},
    )
    assert listed.startswith("200 ")
    assert signed.startswith('200 {"signature":"0x')


def test_curl_signs_with_the_certificate_as_prysm_and_stunnel_show_it(
    chain: RunningStack, exported: dict[str, str], key: str
) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    entry = chain.ready.clients["validator"]
    (signed,) = answers(
        [
            *(curl, "--silent", "--show-error", "--fail-with-body"),
            *("--cacert", exported["pem"], "--cert", entry.cert, "--key", entry.key),
            *("--json", json.dumps(DUTY)),
            f"{chain.ready.url}/api/v1/eth2/sign/{key}",
        ]
    )
    assert signed.startswith('{"signature":"0x')


def test_nodes_fetch_refuses_a_token_in_the_url_and_prints_it() -> None:
    """Why the document tells Lodestar's users to keep it out of there."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    script = "fetch('https://a:SECRET@127.0.0.1:1').catch(e => console.log(e.message))"
    (said,) = answers([node, "-e", script])
    assert "includes credentials" in said
    assert "SECRET" in said
