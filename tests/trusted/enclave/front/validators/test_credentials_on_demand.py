"""
A client that shows its token only when it is asked, as Java's does and so Teku's.

Teku puts an `Authenticator` into `java.net.http.HttpClient` when the signer's URL has
user information; that client sends nothing of it before a 401 with a challenge that it
knows.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ASK = """
import java.io.*; import java.net.*; import java.net.http.*; import java.security.*;
import java.security.cert.*; import javax.net.ssl.*;
public class Ask { public static void main(String[] a) throws Exception {
  var ca = CertificateFactory.getInstance("X.509")
      .generateCertificate(new FileInputStream(a[0]));
  var store = KeyStore.getInstance(KeyStore.getDefaultType());
  store.load(null); store.setCertificateEntry("ca", ca);
  var trust = TrustManagerFactory.getInstance("PKIX"); trust.init(store);
  var tls = SSLContext.getInstance("TLS");
  tls.init(null, trust.getTrustManagers(), null);
  var client = HttpClient.newBuilder().sslContext(tls).authenticator(
      new Authenticator() {
        protected PasswordAuthentication getPasswordAuthentication() {
          return new PasswordAuthentication("signer", a[2].toCharArray());
        }}).build();
  for (int i = 0; i < 2; i++) {
    var answer = client.send(
        HttpRequest.newBuilder(URI.create(a[1]))
            .header("Content-Type", "application/json")
            .header("Accept", "application/json")
            .POST(HttpRequest.BodyPublishers.ofFile(java.nio.file.Path.of(a[3])))
            .build(),
        HttpResponse.BodyHandlers.ofString());
    System.out.println(answer.statusCode() + " " + answer.body());
  }
}}
"""


@pytest.mark.parametrize("token", ["good", "bad"])
def test_javas_http_client_signs_with_a_token_that_it_was_asked_for(
    patient_front: Any, names: Any, attestation: Any, tmp_path: Path, token: str
) -> None:
    java = shutil.which("java")
    if java is None:
        pytest.skip("java is not installed")
    source, duty = tmp_path / "Ask.java", tmp_path / "duty.json"
    source.write_text(ASK)
    duty.write_text(json.dumps(attestation()))
    url = f"https://localhost:{patient_front.port}/api/v1/eth2/sign/{names[0]}"
    good = patient_front.tokens["duties-only"]
    done = subprocess.run(
        [
            *(java, str(source), str(patient_front.ca), url),
            *(good if token == "good" else good[:-1], str(duty)),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if token == "good":
        assert done.returncode == 0, done.stderr
        # The second time it knows, and asks at once.
        first, second = done.stdout.splitlines()
        assert first == second
        assert first.startswith('200 {"signature":"0x')
        assert len(patient_front.validators.signed) == 2
    else:
        assert done.stdout.startswith("403 ")
        assert not patient_front.validators.signed
