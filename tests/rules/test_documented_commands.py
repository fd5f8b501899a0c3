"""
Every command that a document tells somebody to type exists, with those options.

Runbooks are read at night. Ours are asked of click, AWS's of the service models that
boto3 carries, make's of the Makefile (`test_documents.py`).
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import botocore.session
import click
import pytest
from botocore import xform_name

from nitrosigner.cli.main import command

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if ".venv" not in path.parts
)
SCRIPTS = sorted(ROOT.glob("src/nitrosigner/infrastructure/instance/*.sh"))
_FENCE = re.compile(
    r"^[ \t>]*```(\w*)[^\n]*\n(.*?)^[ \t>]*```", re.MULTILINE | re.DOTALL
)
_SPAN = re.compile(r"`([^`\n]+)`")
_COMMANDS = {
    "nitrosigner": "nitrosigner",
    ".venv/bin/nitrosigner": "nitrosigner",
    "aws": "aws",
}
_ENDS = {"|", "||", "&&", ";", ">", ">>", "<", "<<", "2>", "&", "(", ")"}
_ANYTHING = "…"
# Of the AWS command line itself, beside the services' operations.
_EVERYWHERE = {"query", "output", "region", "profile", "no-cli-pager", "no-paginate"}
_EVERYWHERE |= {"max-items", "cli-input-json", "endpoint-url"}
_CUSTOM = {
    ("ecr", "get-login-password"): set[str](),
    ("s3", "cp"): {"only-show-errors", "recursive"},
    ("logs", "tail"): {"since", "follow", "filter-pattern", "format"},
    # The model calls it Endpoint, which the command line keeps for itself.
    ("sns", "subscribe"): {"topic-arn", "protocol", "notification-endpoint"},
}


@dataclass(frozen=True)
class Shown:
    """One command, as somebody would type it."""

    words: tuple[str, ...]
    whole: bool
    """From a block that is to be copied, and not named in passing."""

    def __str__(self) -> str:
        return shlex.join(self.words)


def shown(text: str) -> Iterator[Shown]:
    """Return each command of ours or of AWS's that the document *text* has."""
    for fence in _FENCE.finditer(text):
        if fence[1] in ("", "console", "text", "sh", "bash"):
            block = re.sub(r"\\\n[ \t>]*", " ", fence[2])
            for line in block.splitlines():
                yield from commands(line.strip().removeprefix("$ "), whole=True)
    for span in _SPAN.finditer(_FENCE.sub("", text)):
        yield from commands(span[1], whole=False)


def commands(line: str, *, whole: bool) -> Iterator[Shown]:
    """Return the commands of one line, each up to where the shell ends it."""
    if not re.search(r"(^|[\s/(])(nitrosigner|aws) ", line):
        return
    splitter = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    splitter.whitespace_split = True
    if not whole:
        # In passing, a|b means one of them.
        splitter = shlex.shlex(line, posix=True, punctuation_chars="&;<>()")
        splitter.whitespace_split = True
    try:
        tokens = list(splitter)
    except ValueError:
        return  # prose with an apostrophe in it
    words: list[str] | None = None
    for token in [*tokens, ";"]:
        if token in _ENDS or set(token) <= set("|&;<>()"):
            if words and len(words) > 1:
                yield Shown(tuple(words), whole)
            words = None
        elif words is not None:
            words.append(token)
        elif token in _COMMANDS:
            words = [_COMMANDS[token]]


def alternatives(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """`image describe|diff FILE` is two commands."""
    for at, word in enumerate(words):
        if re.fullmatch(r"[a-z-]+(\|[a-z-]+)+", word):
            for one in word.split("|"):
                yield from alternatives((*words[:at], one, *words[at + 1 :]))
            return
    yield words


@cache
def ours() -> click.Group:
    return command()


def check_ours(shown: Shown, words: tuple[str, ...]) -> None:
    """Say with an exception what click has against it."""
    found: click.Command = ours()
    rest = list(words[1:])
    context = click.Context(found, info_name="nitrosigner")
    while isinstance(found, click.Group) and rest and rest[0] != _ANYTHING:
        if rest[0] in ("--help", "--version"):
            return
        name = rest.pop(0)
        inner = found.get_command(context, name)
        assert inner is not None, f"there is no command {name}: {shown}"
        found = inner
        context = click.Context(found, context, info_name=name)
    if isinstance(found, click.Group):
        assert not shown.whole, f"this is no command yet: {shown}"
        return
    if "--help" in rest:
        return
    given, left, _ = found.make_parser(context).parse_args(list(rest))
    left = [one for one in left if one != _ANYTHING]
    assert not left, f"{left} is too much: {shown}"
    if not shown.whole or _ANYTHING in rest:
        return
    for parameter in found.params:
        value = given.get(parameter.name or "")
        # click has an object of its own for what was not given.
        there = bool(value) and isinstance(value, str | list | tuple)
        assert there or not parameter.required, f"{parameter.name} is missing: {shown}"


@cache
def operations(service: str) -> dict[str, set[str]]:
    """Return the operations of an AWS service, each with its options."""
    model = botocore.session.get_session().get_service_model(service)
    found = {}
    for name in model.operation_names:
        shape = model.operation_model(name).input_shape
        members = shape.members if shape else {}
        found[xform_name(name, "-")] = {xform_name(one, "-") for one in members}
    return found


def check_aws(shown: Shown, words: tuple[str, ...]) -> None:
    """Say with an exception what AWS's service models have against it."""
    if words[1] == _ANYTHING:
        return
    service, operation, *rest = words[1:] if len(words) > 2 else (*words[1:], "", "")
    options = {word[2:].split("=")[0] for word in rest if word.startswith("--")}
    known = _CUSTOM.get((service, operation))
    if known is None:
        known = operations(service).get(operation)
    assert known is not None, f"there is no operation {operation}: {shown}"
    # Of an option that is on or off, the other form is written --no-OPTION.
    known |= {f"no-{one}" for one in known}
    strangers = options - known - _EVERYWHERE
    assert not strangers, f"{strangers} is unknown: {shown}"


def check(shown: Shown) -> None:
    for words in alternatives(shown.words):
        (check_ours if words[0] == "nitrosigner" else check_aws)(shown, words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_of_the_documents_exists_with_its_options(document: Path) -> None:
    wrong = []
    for one in shown(document.read_text()):
        try:
            check(one)
        except (AssertionError, click.UsageError) as error:
            wrong.append(
                str(error)
                if isinstance(error, AssertionError)
                else f"{error.format_message()}: {one}"
            )
    assert wrong == []


RUNBOOKS = (
    "first-deployment",
    "key-ceremony",
    "adding-validators",
    "rolling-a-new-image",
    "rotating-the-wrapping-key",
    "region-loss",
    "suspected-host-compromise",
    "migrating-slashing-protection",
)


@pytest.mark.parametrize("name", RUNBOOKS)
def test_every_runbook_says_when_what_first_and_how_to_go_back(name: str) -> None:
    text = (ROOT / f"docs/operations/{name}.md").read_text()
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    expected = ["When", "Before you start", "Steps", "What can go wrong"]
    expected.append("How to go back")
    assert [one for one in headings if one in expected] == expected
    assert f"({name}.md)" in (ROOT / "docs/operations/README.md").read_text()


HAND_OVER = {"import": {"keys", "validators"}, "derive": {"validators"}}


def test_whoever_hands_over_a_private_key_says_to_which_program() -> None:
    # The command refuses otherwise, for every signer that is no local stack's.
    found = 0
    for document in DOCUMENTS:
        for one in shown(document.read_text()):
            _, *rest = one.words
            if len(rest) < 2 or rest[0] not in HAND_OVER.get(rest[1], ()):
                continue
            if "--url" in rest:
                found += 1
                assert "--pcr0" in rest, f"{document.name}: {one}"
    assert found >= 3


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_aws_command_of_the_instances_scripts_exists(script: Path) -> None:
    text = script.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    found = [one for line in lines for one in commands(line, whole=True)]
    found = [one for one in found if one.words[0] == "aws"]
    assert found
    for one in found:
        check(one)


@pytest.mark.parametrize(
    "line",
    [
        "nitrosigner keys make",
        "nitrosigner keys create --nome x",
        "nitrosigner keys create",
        "nitrosigner slashing-history import",
        "nitrosigner verify https://one https://two",
        "nitrosigner keys",
        "cat x | nitrosigner kms lint - --jason",
        "aws kms get-key-polici --key-id x",
        "aws kms get-key-policy --kee-id x",
    ],
)  # fmt: skip
def test_a_wrong_command_is_noticed(line: str) -> None:
    (one,) = shown(f"```console\n$ {line}\n```\n")
    with pytest.raises((AssertionError, click.UsageError)):
        check(one)


def test_the_runbooks_have_commands_to_check() -> None:
    found = [
        one
        for document in DOCUMENTS
        for one in shown(document.read_text())
        if "operations" in document.parts
    ]
    assert sum(one.words[0] == "nitrosigner" for one in found) > 40
    assert sum(one.words[0] == "aws" for one in found) > 5
