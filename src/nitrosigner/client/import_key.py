"""
Bring a private key into the enclave so that nobody on the way can read it.

The key is encrypted to the import key that a *verified* attestation document vouches
for. `import_private_key` takes a `Proof`, and only `verification.verify` makes one:
there is no way to wrap a key to an enclave that was not checked.
"""

import base64

from nitrosigner.client.private_key import PrivateKey
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.client.verification import Proof
from nitrosigner.verdicts import Code, Refused
from nitrosigner.wire import api, import_wrapping

ALGORITHM = "secp256k1"


def import_private_key(
    client: SignerClient,
    proof: Proof,
    private_key: PrivateKey,
    *,
    name: str,
    version: int = 0,
) -> api.KeyDescription:
    """
    Import *private_key* under *name* and return what the enclave made of it.

    Args:
        client: The client that *proof* was obtained with.
        proof: What `verification.verify` returned, in this run of the enclave: the
            import key lives as long as the enclave does.
        private_key: The key; the caller wipes it.
        name: Its name from now on.
        version: 0 for a new name, else the current version of the key to replace.

    Raises:
        Refused: The enclave that was verified is not the one that answers, or it
            refused; nothing was imported.
    """
    check_same_signer(client, proof)
    info = import_wrapping.import_info(
        deployment=proof.statement.deployment,
        name=name,
        algorithm=ALGORITHM,
        identity=private_key.address,
    )
    wrapped = import_wrapping.wrap(private_key.buffer, proof.import_key, info)
    description = client.import_wrapped_key(
        api.ImportKey(
            name=name,
            algorithm=ALGORITHM,
            identity=private_key.address,
            wrapped_key=base64.b64encode(wrapped).decode(),
            version=version,
        )
    )
    if description.identity.lower() != private_key.address.lower():
        raise Refused(
            Code.KEY_MISMATCH,
            "the enclave says that the imported key has another address",
            "do not use the key; nitrosigner keys show says what is stored",
        )
    return description


def check_same_signer(client: SignerClient, proof: Proof) -> None:
    """
    Check that what *client* sends arrives where *proof* says.

    Raises:
        Refused: The proof is of another signer, or of another client's connections.
    """
    if proof.url != client.url or proof.certificate not in client.transport.pins:
        raise Refused(
            Code.ATTESTATION_UNTRUSTED,
            "the proof is of another signer than this client talks to",
            "verify with the client that imports",
        )
