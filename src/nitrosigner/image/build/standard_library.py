"""
Which modules of Python's standard library the enclave can need.

Found from the imports that stand in the source of everything that ships, wherever in
a file they stand, and of the modules found so far. What is imported by C code is
written down here. Too many modules ship rather than too few; those in `NEVER` are
named by code that an enclave never reaches.
"""

import ast
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

ROOT: Final = "usr/lib/python3.11/"
DYNAMIC: Final = f"{ROOT}lib-dynload/"

ALWAYS: Final = (
    # The interpreter's own start, and what its C code imports by name.
    *("abc", "codecs", "encodings", "encodings.aliases", "encodings.ascii"),
    *("encodings.idna", "encodings.latin_1", "encodings.utf_8", "io", "os", "stat"),
    *("_collections_abc", "genericpath", "posixpath", "copyreg", "warnings"),
    *("contextlib", "datetime", "_strptime", "decimal", "locale", "traceback"),
    *("importlib", "importlib.abc", "importlib.util", "importlib.machinery"),
    # msgspec's and cryptography's C code.
    *("collections.abc", "dataclasses", "enum", "re", "types", "typing", "uuid"),
    *("weakref", "zoneinfo", "ipaddress", "base64", "fractions"),
)
NEVER: Final = frozenset(
    {
        # Tools for people.
        *("bdb", "cmd", "code", "codeop", "pdb", "pydoc", "doctest", "unittest"),
        *("distutils", "ensurepip", "idlelib", "lib2to3", "test", "tkinter", "turtle"),
        *("venv", "webbrowser", "curses", "readline", "rlcompleter", "getpass"),
        *("argparse", "getopt", "gettext", "pprint", "py_compile", "sysconfig"),
        # Other machines.
        *("_aix_support", "_bootsubprocess", "_osx_support", "_pydecimal", "_py_abc"),
        *("asyncio.proactor_events", "asyncio.windows_events", "encodings.mbcs"),
        "asyncio.windows_utils",
        # Other processes, other protocols, other formats.
        *("multiprocessing", "concurrent.futures.process", "pickle", "_compat_pickle"),
        *("http.client", "http.server", "http.cookies", "http.cookiejar", "xmlrpc"),
        *("urllib.request", "urllib.error", "urllib.response", "wsgiref", "netrc"),
        *("ftplib", "smtplib", "imaplib", "poplib", "telnetlib", "pty", "tty"),
        *("sqlite3", "dbm", "mailcap", "bz2", "_bz2", "lzma", "_lzma", "tarfile"),
        *("csv", "plistlib", "statistics", "tomllib", "xml", "importlib.metadata"),
        *("email.message", "email.parser", "email.feedparser", "email.generator"),
        *("email.policy", "email._policybase", "email.headerregistry"),
        *("email._header_value_parser", "email.contentmanager", "email.iterators"),
    }
)
_EXTENSION_IMPORTS: Final[Mapping[str, Sequence[str]]] = {
    "_asyncio": ("asyncio",),
    "_decimal": ("numbers", "collections"),
    "_json": ("json.decoder",),
    "_zoneinfo": ("zoneinfo",),
    "_ctypes": ("ctypes",),
}


def needed(
    library: Iterable[str], sources: Iterable[bytes], extra: Mapping[str, bytes]
) -> set[str]:
    """
    Return the paths in *library* that ship.

    Args:
        library: Every path below Debian's `usr/lib/python3.11`.
        sources: The Python of everything that ships beside it.
        extra: The content of the library's files, by path.
    """
    places = _modules(library)
    chosen: set[str] = set()
    waiting = list(ALWAYS)
    for source in sources:
        waiting += imports(source)
    while waiting:
        name = waiting.pop()
        if name in chosen or _never(name) or name not in places:
            continue
        chosen.add(name)
        if "." in name:
            waiting.append(name.rpartition(".")[0])
        place = places[name]
        if place.endswith(".py"):
            waiting += imports(extra[place], package=_package(name, place))
        else:
            waiting += _EXTENSION_IMPORTS.get(name, ())
    return {places[name] for name in chosen}


def imports(source: bytes, package: str = "") -> list[str]:
    """Return every module that *source* might import, and names that are none."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            found.append(base)
            found += [f"{base}.{alias.name}" for alias in node.names]
    return found


def _modules(library: Iterable[str]) -> dict[str, str]:
    places: dict[str, str] = {}
    for path in library:
        if path.startswith(DYNAMIC) and path.endswith(".so"):
            places[path.removeprefix(DYNAMIC).partition(".")[0]] = path
        elif path.startswith(ROOT) and path.endswith(".py"):
            name = path.removeprefix(ROOT).removesuffix(".py").removesuffix("/__init__")
            places[name.replace("/", ".")] = path
    return places


def _package(name: str, place: str) -> str:
    return name if place.endswith("/__init__.py") else name.rpartition(".")[0]


def _never(name: str) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:end]) in NEVER for end in range(1, len(parts) + 1))
