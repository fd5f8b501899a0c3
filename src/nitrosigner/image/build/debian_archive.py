"""
Fetches Debian packages with the machine's apt, in a private corner: no root needed.

apt checks Debian's signatures; we check the hash that is locked in this repository.
Debian removes a version when a newer one is published. A build of an old commit then
needs the old file: put it into the cache's folder `debian`, named SHA256.deb.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, final

import msgspec

from nitrosigner.image.build.cache_folder import put, sha256_of, taken, turn
from nitrosigner.image.build.commands import need_commands, run
from nitrosigner.image.build.debian_mirror import Mirrors
from nitrosigner.image.build.machine import X86_64, Machine
from nitrosigner.image.build.not_built import NotBuilt

KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class Package(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of Debian's archive."""

    name: str
    version: str
    sha256: str


@final
class DebianArchive:
    """One release and its suites, seen through a private apt."""

    def __init__(
        self,
        cache: Path,
        mirrors: Callable[[], Mirrors],
        release: str,
        machine: Machine = X86_64,
    ) -> None:
        self._cache = cache
        self._machine = machine
        self._name = f"apt-{release}"
        if machine is not X86_64:
            self._name += f"-{machine.debian}"
        self._mirrors = mirrors
        self._release = release
        self._ready = False

    def fetch(self, package: Package) -> Path:
        """
        Return where *package* lies in the cache, fetched if need be.

        Raises:
            NotBuilt: It cannot be had, or it is not what was locked.
        """
        kept = self._cache / "debian" / f"{package.sha256}.deb"
        with turn(self._cache, self._name):
            if not taken(kept, package.sha256):
                self._fetch(package, kept)
        return kept

    def candidate(self, name: str) -> Package:
        """
        Return the newest version of *name*: what a new lock would say.

        Raises:
            NotBuilt: There is none.
        """
        with turn(self._cache, self._name):
            said = self._apt(
                "apt-cache",
                "show",
                "--no-all-versions",
                name,
                what=f"looking for {name}",
            ).decode()
        fields = dict(
            line.split(": ", 1) for line in said.splitlines() if ": " in line[1:]
        )
        return Package(name, fields["Version"], fields["SHA256"])

    def download_with_dependencies(
        self, packages: Sequence[str], destination: Path
    ) -> list[Path]:
        """
        Fetch *packages* and all that they depend on, as for an empty machine.

        Raises:
            NotBuilt: They cannot be had.
        """
        archives = destination / "archives"
        (archives / "partial").mkdir(parents=True, exist_ok=True)
        with turn(self._cache, self._name):
            self._apt(
                *("apt-get", "install", "--download-only", "--yes"),
                *("-o", "APT::Install-Recommends=false"),
                *("-o", f"Dir::Cache::archives={archives}"),
                *packages,
                what=f"fetching {' '.join(packages)}",
            )
        return sorted(archives.glob("*.deb"))

    def _fetch(self, package: Package, kept: Path) -> None:
        exact = f"{package.name}={package.version}"
        with tempfile.TemporaryDirectory() as temporary:
            self._apt(
                *("apt-get", "download", exact),
                what=f"fetching {exact}",
                cwd=Path(temporary),
                hint="if Debian has replaced this version, either put the old file "
                f"into {kept} (snapshot archives keep them) or lock the new one: "
                "make lock-image, which changes PCR0",
            )
            found = list(Path(temporary).glob("*.deb"))
            if len(found) != 1 or sha256_of(found[0]) != package.sha256:
                raise NotBuilt(
                    f"{exact} is not the file that was locked",
                    "do not build from it; find out who changed it",
                )
            put(kept, found[0].read_bytes())

    def _apt(
        self,
        program: str,
        *words: str,
        what: str,
        cwd: Path | None = None,
        hint: str = "",
    ) -> bytes:
        if not self._ready:
            self._prepare()
        return run([program, *self._options(), *words], cwd=cwd, what=what, hint=hint)

    def _prepare(self) -> None:
        need_commands(
            ["apt-get", "apt-cache", "dpkg-deb"],
            ["apt", "dpkg"],
            "the enclave image is made of Debian packages",
        )
        if not KEYRING.is_file():
            raise NotBuilt(
                "Debian's archive keys are not on this machine",
                "as root: apt-get install debian-archive-keyring",
            )
        apt = self._apt_folder
        for name in ("state/lists/partial", "cache/archives/partial"):
            (apt / name).mkdir(parents=True, exist_ok=True)
        # An empty machine: what is installed here must not decide anything.
        (apt / "status").write_bytes(b"")
        (apt / "sources.list").write_text(self._sources(), encoding="utf-8")
        run(
            ["apt-get", *self._options(), "update", "--error-on=any"],
            what="reading the Debian mirror's lists",
            hint="is the mirror of this machine's apt sources reachable?",
        )
        self._ready = True

    @property
    def _apt_folder(self) -> Path:
        return self._cache / self._name

    def _sources(self) -> str:
        release = self._release
        signed = f"[signed-by={KEYRING} arch={self._machine.debian}]"
        mirrors = self._mirrors()
        main = mirrors.main
        suites = (release, f"{release}-updates", f"{release}-backports")
        lines = [f"deb {signed} {main} {suite} main" for suite in suites]
        if mirrors.security is not None:
            security = mirrors.security
            lines.append(f"deb {signed} {security} {release}-security main")
        return "\n".join(lines) + "\n"

    def _options(self) -> list[str]:
        apt = self._apt_folder
        settings = {
            "APT::Architecture": self._machine.debian,
            "APT::Architectures": self._machine.debian,
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Dir::State": f"{apt}/state",
            "Dir::State::status": f"{apt}/status",
            "Dir::Cache": f"{apt}/cache",
            "Dir::Etc::sourcelist": f"{apt}/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dpkg::Use-Pty": "false",
        }
        return [
            word
            for name, value in settings.items()
            for word in ("-o", f"{name}={value}")
        ]
