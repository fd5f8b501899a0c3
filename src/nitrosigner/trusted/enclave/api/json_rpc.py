"""
Ethereum JSON-RPC on `POST /`: the methods that a wallet has, and none that a node has.

web3.py, viem and ethers can use it as a remote account. Who may do what is decided as
for every other route. `eth_signTransaction` answers a string, as viem, ethers and
Web3Signer expect; `POST /?result=object` makes it geth's `{raw, tx}`, as web3.py does.

A notification (a request without `id`) has no answer; a signature that nobody gets is
not made.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import msgspec

import nitrosigner
from nitrosigner.trusted.enclave.api import signing
from nitrosigner.trusted.enclave.api.calls import Call, read, settle
from nitrosigner.trusted.enclave.api.keys import query, visible
from nitrosigner.trusted.enclave.api.routing import Route
from nitrosigner.trusted.enclave.api.signing import ETHEREUM, MaybeLater, begin
from nitrosigner.trusted.enclave.api.transaction_object import raw_and_fields
from nitrosigner.trusted.enclave.https.http_messages import (
    Response,
    encode_json,
    refusal,
)
from nitrosigner.trusted.signing import json_values
from nitrosigner.verdicts import Code, Malformed, Refused, Verdict
from nitrosigner.wire import api
from nitrosigner.wire.manifest import Operation

MAX_BATCH: Final = 100
"""Requests in one batch."""
MAX_ACCOUNTS: Final = 10_000
"""Addresses in one answer of `eth_accounts`."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
RESOURCE_NOT_FOUND: Final = -32001
RESOURCE_UNAVAILABLE: Final = -32002
TRANSACTION_REJECTED: Final = -32003
LIMIT_EXCEEDED: Final = -32005
UNAUTHORIZED: Final = 4100
"""EIP-1474 names the codes from -32001 on, EIP-1193 this one."""

_CODES: Final = {
    Code.UNKNOWN_ROUTE: METHOD_NOT_FOUND,
    Code.UNKNOWN_KEY: RESOURCE_NOT_FOUND,
    Code.NOT_ALLOWED: UNAUTHORIZED,
    Code.UNAUTHENTICATED: UNAUTHORIZED,
    Code.TOO_LARGE: LIMIT_EXCEEDED,
    Code.INTERNAL: INTERNAL_ERROR,
}

_request: Final = msgspec.json.Decoder(api.RpcRequest)
_Result: TypeAlias = str | list[str] | dict[str, Any]
_Id: TypeAlias = int | str | float | None


def json_rpc(call: Call) -> MaybeLater[Response]:
    """POST /."""
    body = call.request.body.lstrip(b" \t\r\n")
    call.refuse = _refuse_all
    if body.startswith(b"["):
        return _batch(call, body)
    request = read(_request, body)
    rpc_id = request.id
    if rpc_id is msgspec.UNSET:
        return Response(204, b"")
    call.refuse = lambda verdict: Response(200, encode_json(_error(rpc_id, verdict)))
    result = _dispatch(call, request)
    if isinstance(result, Awaitable):
        return _later(rpc_id, result)
    return Response(200, encode_json(_success(rpc_id, result)))


async def _later(rpc_id: _Id, result: Awaitable[_Result]) -> Response:
    return Response(200, encode_json(_success(rpc_id, await result)))


async def _batch(call: Call, body: bytes) -> Response:
    requests = read(signing.anything, body)
    if not requests or len(requests) > MAX_BATCH:
        raise Malformed(
            Code.MALFORMED_REQUEST, f"a batch has 1 to {MAX_BATCH} requests"
        )
    answers = []
    for each in requests:
        rpc_id: _Id = None
        before = len(call.facts)
        try:
            request = msgspec.convert(each, api.RpcRequest)
            if request.id is msgspec.UNSET:
                continue
            rpc_id = request.id
            result = _dispatch(call, request)
            if isinstance(result, Awaitable):
                result = await result
            answers.append(_success(rpc_id, result))
        except msgspec.ValidationError:
            answers.append(_error_object(None, INVALID_REQUEST, _no_request()))
        except Verdict as verdict:
            for facts in call.facts[before:]:
                settle(facts, verdict)
            answers.append(_error(rpc_id, verdict))
        await asyncio.sleep(0)  # a long batch shares the time with others
    return Response(200, encode_json(answers)) if answers else Response(204, b"")


def _dispatch(call: Call, request: api.RpcRequest) -> MaybeLater[_Result]:
    method = _METHODS.get(request.method)
    if method is None:
        raise Refused(
            Code.UNKNOWN_ROUTE,
            "this method is not served",
            "this is a signer, not a node: it answers " + ", ".join(_METHODS),
        )
    params = request.params
    if params is None:
        params = []
    if type(params) is not list:
        raise _bad_params("params is not a list")
    return method(call, params)


# --- methods --------------------------------------------------------------------------


async def _accounts(call: Call, params: list[Any]) -> _Result:
    _exactly(params, 0)
    facts = call.begin(Operation.LIST_KEYS)
    call.around.policy.demand(call.client, Operation.LIST_KEYS)
    page = await visible(call, "", MAX_ACCOUNTS)
    call.facts.remove(facts)
    return [
        key.identity
        for key in page.keys
        if key.state == "enabled" and key.algorithm == ETHEREUM
    ]


def _chain_id(call: Call, params: list[Any]) -> _Result:
    _exactly(params, 0)
    return hex(call.around.policy.default_chain(call.client))


def _net_version(call: Call, params: list[Any]) -> _Result:
    _exactly(params, 0)
    return str(call.around.policy.default_chain(call.client))


def _client_version(call: Call, params: list[Any]) -> _Result:
    del call
    _exactly(params, 0)
    return f"nitrosigner/{nitrosigner.__version__}"


def _sign_transaction(call: Call, params: list[Any]) -> MaybeLater[_Result]:
    _exactly(params, 1)
    fields = params[0]
    if type(fields) is not dict:
        raise _bad_params("a transaction is not an object")
    as_object = query(call, "result").get("result", "string")
    if as_object not in ("string", "object"):
        raise _bad_params("result in the address is not `string` or `object`")
    facts, key = begin(
        call, Operation.SIGN_TRANSACTION, _address_text(fields.get("from"), "from")
    )
    return signing.transaction(
        call,
        facts,
        key,
        fields,
        raw_and_fields if as_object == "object" else _raw,
        default_chain_id=call.around.policy.default_chain(call.client),
    )


def _raw(signed: signing.TransactionSigned) -> _Result:
    return "0x" + signed.encoded.raw.hex()


def _sign(call: Call, params: list[Any]) -> MaybeLater[_Result]:
    _exactly(params, 2)
    return _personal(call, address=params[0], data=params[1])


def _personal_sign(call: Call, params: list[Any]) -> MaybeLater[_Result]:
    # Some wallets add a password as third. There is none here to be checked.
    if not 2 <= len(params) <= 3:
        raise _bad_params("params is not [data, address]")
    return _personal(call, address=params[1], data=params[0])


def _personal(call: Call, *, address: object, data: object) -> MaybeLater[_Result]:
    facts, key = begin(call, Operation.SIGN_MESSAGE, _address_text(address, "address"))
    message = json_values.hex_bytes(data, "data", Code.MALFORMED_MESSAGE)
    return signing.message(
        call, facts, key, message, lambda _, signature: signing.recoverable(signature)
    )


def _sign_typed_data(call: Call, params: list[Any]) -> MaybeLater[_Result]:
    _exactly(params, 2)
    facts, key = begin(
        call, Operation.SIGN_TYPED_DATA, _address_text(params[0], "address")
    )
    document = params[1]
    if type(document) is str:
        # viem and ethers send the document as text, web3.py as an object.
        document = read(signing.anything, document.encode())
    return signing.typed(
        call, facts, key, document, lambda _, signature: signing.recoverable(signature)
    )


_METHODS: Final[dict[str, Callable[[Call, list[Any]], MaybeLater[_Result]]]] = {
    "eth_accounts": _accounts,
    "eth_chainId": _chain_id,
    "net_version": _net_version,
    "eth_signTransaction": _sign_transaction,
    "eth_sign": _sign,
    "personal_sign": _personal_sign,
    "eth_signTypedData": _sign_typed_data,
    "eth_signTypedData_v4": _sign_typed_data,
    "web3_clientVersion": _client_version,
}


# --- answers --------------------------------------------------------------------------


def _success(rpc_id: _Id, result: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": rpc_id, "result": result}


def _error(rpc_id: _Id, verdict: Verdict) -> dict[str, object]:
    code = _CODES.get(verdict.code)
    if code is None:
        match verdict:
            case Malformed():
                code = INVALID_PARAMS
            case Refused():
                code = TRANSACTION_REJECTED
            case _:
                code = RESOURCE_UNAVAILABLE
    return _error_object(rpc_id, code, verdict)


def _error_object(rpc_id: _Id, code: int, verdict: Verdict) -> dict[str, object]:
    return {
        "jsonrpc": "2.0",
        "id": rpc_id,
        "error": {
            "code": code,
            "message": verdict.message,
            "data": {"code": verdict.code, "hint": verdict.hint},
        },
    }


def _refuse_all(verdict: Verdict) -> Response:
    """Say no before any request of the body was understood."""
    match verdict.code:
        case Code.MALFORMED_JSON:
            code = PARSE_ERROR
        case Code.MALFORMED_REQUEST:
            code = INVALID_REQUEST
        case Code.INTERNAL | Code.AUDIT_UNAVAILABLE:
            return Response(200, encode_json(_error(None, verdict)))
        case _:
            return refusal(verdict)
    return Response(verdict.status, encode_json(_error_object(None, code, verdict)))


def _address_text(value: object, name: str) -> str:
    # A key's name would be found too, but JSON-RPC knows addresses only.
    if type(value) is not str or not value.startswith("0x"):
        raise _bad_params(f"{name} is not an address")
    return value


def _exactly(params: list[Any], count: int) -> None:
    if len(params) != count:
        raise _bad_params(f"params has not {count} items")


def _bad_params(sentence: str) -> Malformed:
    return Malformed(Code.MALFORMED_REQUEST, sentence, "see docs/openapi.json")


def _no_request() -> Malformed:
    return Malformed(Code.MALFORMED_REQUEST, "this is not a request of JSON-RPC 2.0")


ROUTES: Final = (Route("POST", "/", json_rpc),)
