"""Operations on keys themselves: their life, their policies, their names."""

import datetime as dt
from typing import Any, Final

from nitrosigner.emulator.kms import requests
from nitrosigner.emulator.kms.call import (
    Call,
    need_not_pending,
    new_key_id,
)
from nitrosigner.emulator.kms.errors import KmsError, invalid
from nitrosigner.emulator.kms.store import KeyRow, KeyState
from nitrosigner.emulator.kms.stored_policy import (
    check_principals_exist,
    malformed,
    parse_policy,
)
from nitrosigner.image.policy_document import PolicyDocument

Answer = dict[str, Any]
_LOCKED_OUT: Final = (
    "The new key policy will not allow you to update the key policy in the future."
)
_DEFAULT_POLICY: Final = (
    '{{"Version":"2012-10-17","Id":"key-default-1","Statement":[{{"Sid":"Enable IAM '
    'User Permissions","Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::{}:root"}},'
    '"Action":"kms:*","Resource":"*"}}]}}'
)
"""What AWS gives a key that is created without a policy: IAM decides everything."""


def create_key(call: Call, request: requests.CreateKey) -> Answer:
    """Make a symmetric key."""
    spec = request.key_spec or request.customer_master_key_spec or "SYMMETRIC_DEFAULT"
    if (spec, request.key_usage) != ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"):
        raise _unsupported("keys other than SYMMETRIC_DEFAULT")
    if request.origin != "AWS_KMS" or request.multi_region:
        raise _unsupported("imported and multi-Region keys")
    bypass = request.bypass_policy_lockout_safety_check
    call.authorize(
        None,
        more={
            "kms:KeySpec": spec,
            "kms:KeyUsage": request.key_usage,
            "kms:KeyOrigin": request.origin,
            "kms:MultiRegion": "false",
            **_bypass(bypass=bypass),
        },
    )
    key_id = new_key_id()
    policy = request.policy or _DEFAULT_POLICY.format(call.kms.account)
    call.key_arn = call.kms.arn(key_id)
    _check_policy(call, policy, bypass=bypass)
    row = KeyRow(
        id=key_id,
        material=call.kms.root_key.new_material(key_id),
        policy=policy,
        state=KeyState.ENABLED,
        description=request.description,
        created=call.kms.now().timestamp(),
        deletion=None,
    )
    call.kms.store.add_key(row)
    return {"KeyMetadata": _metadata(call, row)}


def describe_key(call: Call, request: requests.DescribeKey) -> Answer:
    """Say what a key is."""
    key = call.key(request.key_id)
    call.authorize(key)
    return {"KeyMetadata": _metadata(call, key)}


def list_keys(call: Call, request: requests.ListKeys) -> Answer:
    """List the keys of the account."""
    call.authorize(None)
    ids = call.kms.store.key_ids(request.marker or "", request.limit + 1)
    shown = ids[: request.limit]
    answer: Answer = {
        "Keys": [{"KeyId": one, "KeyArn": call.kms.arn(one)} for one in shown],
        "Truncated": len(ids) > len(shown),
    }
    if answer["Truncated"]:
        answer["NextMarker"] = shown[-1]
    return answer


def get_key_policy(call: Call, request: requests.GetKeyPolicy) -> Answer:
    """Return a key's policy, as it was put."""
    _only_default(request.policy_name)
    key = call.key(request.key_id)
    call.authorize(key)
    return {"Policy": key.policy, "PolicyName": "default"}


def put_key_policy(call: Call, request: requests.PutKeyPolicy) -> Answer:
    """Replace a key's policy."""
    _only_default(request.policy_name)
    key = call.key(request.key_id)
    bypass = request.bypass_policy_lockout_safety_check
    call.authorize(key, more=_bypass(bypass=bypass))
    _check_policy(call, request.policy, bypass=bypass)
    call.kms.store.set_policy(key.id, request.policy)
    return {}


def list_grants(call: Call, request: requests.ListGrants) -> Answer:
    """Return a key's grants: there are none, because nobody can make one here."""
    call.authorize(call.key(request.key_id))
    return {"Grants": [], "Truncated": False}


def enable_key(call: Call, request: requests.OfKey) -> Answer:
    """Make a disabled key usable."""
    return _set_state(call, request, KeyState.ENABLED)


def disable_key(call: Call, request: requests.OfKey) -> Answer:
    """Make a key unusable until it is enabled."""
    return _set_state(call, request, KeyState.DISABLED)


def _set_state(call: Call, request: requests.OfKey, state: KeyState) -> Answer:
    key = call.key(request.key_id)
    call.authorize(key)
    need_not_pending(key, call.key_arn)
    call.kms.store.set_state(key.id, state)
    return {}


def schedule_key_deletion(call: Call, request: requests.ScheduleKeyDeletion) -> Answer:
    """Destroy a key after 7 to 30 days. Until then it opens nothing."""
    key = call.key(request.key_id)
    days = request.pending_window_in_days
    call.authorize(key, more={"kms:ScheduleKeyDeletionPendingWindowInDays": str(days)})
    need_not_pending(key, call.key_arn)
    deletion = (call.kms.now() + dt.timedelta(days=days)).timestamp()
    call.kms.store.set_state(key.id, KeyState.PENDING_DELETION, deletion)
    return {
        "KeyId": call.key_arn,
        "DeletionDate": deletion,
        "KeyState": KeyState.PENDING_DELETION.value,
        "PendingWindowInDays": days,
    }


def cancel_key_deletion(call: Call, request: requests.OfKey) -> Answer:
    """Keep a key after all. It is disabled afterwards."""
    key = call.key(request.key_id)
    call.authorize(key)
    if key.state is not KeyState.PENDING_DELETION:
        raise KmsError(
            "KMSInvalidStateException", f"{call.key_arn} is not pending deletion."
        )
    call.kms.store.set_state(key.id, KeyState.DISABLED)
    return {"KeyId": call.key_arn}


def create_alias(call: Call, request: requests.CreateAlias) -> Answer:
    """Give a key a name."""
    if request.alias_name.startswith("alias/aws/"):
        raise KmsError("NotAuthorizedException", "alias/aws/ is reserved.")
    if "alias/" in request.target_key_id:
        raise invalid("Aliases must refer to keys. Not aliases")
    key = call.key(request.target_key_id)
    call.authorize(key, more={"kms:RequestAlias": request.alias_name})
    need_not_pending(key, call.key_arn)
    call.kms.store.add_alias(request.alias_name, key.id, call.kms.now().timestamp())
    return {}


def delete_alias(call: Call, request: requests.DeleteAlias) -> Answer:
    """Take a name away."""
    call.authorize(call.key(request.alias_name))
    call.kms.store.remove_alias(request.alias_name)
    return {}


def list_aliases(call: Call, request: requests.ListAliases) -> Answer:
    """List the names of keys."""
    key_id = None if request.key_id is None else call.key(request.key_id).id
    call.authorize(None)
    rows = call.kms.store.aliases(request.marker or "", request.limit + 1, key_id)
    shown = rows[: request.limit]
    answer: Answer = {
        "Aliases": [
            {
                "AliasName": name,
                "AliasArn": call.kms.arn_prefix + name,
                "TargetKeyId": target,
                "CreationDate": created,
                "LastUpdatedDate": created,
            }
            for name, target, created in shown
        ],
        "Truncated": len(rows) > len(shown),
    }
    if answer["Truncated"]:
        answer["NextMarker"] = shown[-1][0]
    return answer


def _metadata(call: Call, key: KeyRow) -> Answer:
    answer: Answer = {
        "AWSAccountId": call.kms.account,
        "KeyId": key.id,
        "Arn": call.kms.arn(key.id),
        "CreationDate": key.created,
        "Enabled": key.state is KeyState.ENABLED,
        "Description": key.description,
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": key.state.value,
        "Origin": "AWS_KMS",
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "MultiRegion": False,
    }
    if key.deletion is not None:
        answer["DeletionDate"] = key.deletion
    return answer


def _check_policy(call: Call, text: str, *, bypass: bool) -> None:
    document: PolicyDocument = parse_policy(text, of_key=True)
    caller = call.caller
    known = call.kms.principals.arns | caller.account_names | {caller.session_arn}
    check_principals_exist(document, known.__contains__)
    if not bypass and not call.could_still_put_policy(document, call.key_arn):
        raise malformed(_LOCKED_OUT)


def _bypass(*, bypass: bool) -> dict[str, str]:
    return {"kms:BypassPolicyLockoutSafetyCheck": "true" if bypass else "false"}


def _only_default(name: str) -> None:
    if name != "default":
        raise KmsError("NotFoundException", "No such policy exists")


def _unsupported(what: str) -> KmsError:
    return KmsError(
        "UnsupportedOperationException", f"The emulated KMS does not have {what}."
    )
