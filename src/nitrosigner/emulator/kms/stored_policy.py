"""
Policies as KMS stores them: read by `image.policy_document`, refused by KMS's names.

The reader and the evaluator stand in the image room because the linter of key policies
judges by them too: a policy that passes there is one that is enforced so here.
"""

from collections.abc import Callable

from nitrosigner.emulator.kms.errors import KmsError
from nitrosigner.image import policy_document
from nitrosigner.image.policy_document import PolicyDocument, UnreadablePolicy


def malformed(message: str) -> KmsError:
    """Return the error for a policy that cannot be stored."""
    return KmsError("MalformedPolicyDocumentException", message)


def parse_policy(text: str, *, of_key: bool) -> PolicyDocument:
    """
    Read a policy: a key's if *of_key*, else an identity's.

    Raises:
        KmsError: It is not one, or holds something that is not evaluated here.
    """
    if len(text) > policy_document.MAX_POLICY:
        raise KmsError("LimitExceededException", "The policy is larger than 32 KB.")
    try:
        return policy_document.parse_policy(text, of_key=of_key)
    except UnreadablePolicy as error:
        raise malformed(error.message) from None


def check_principals_exist(
    document: PolicyDocument, known: Callable[[str], bool]
) -> None:
    """
    Refuse a key policy that names roles that are not there, as AWS does.

    Raises:
        KmsError: Some principal does not exist.
    """
    for statement in document.statements:
        principals = statement.principals
        for name in principals.aws if principals else ():
            if name != "*" and not known(name):
                raise malformed(
                    "Policy contains a statement with one or more invalid principals."
                )
