"""The files below a folder, as digests."""

import shlex

from pyinfra.api import FactBase

from underlay.facts import fact


class TreeDigests(FactBase[dict[str, str]]):
    """Relative path → SHA-256 of each file below a folder; empty if there is no such folder."""

    def command(self, folder: str, ignore: list[str]) -> str:
        """+ folder: absolute path
        + ignore: names of folders, anywhere below it, that are left out
        """
        names = " -o ".join(f"-name {shlex.quote(name)}" for name in ignore)
        return (
            f"if cd {shlex.quote(folder)} 2>/dev/null; then "
            f"find . -type d \\( {names} \\) -prune -o -type f -exec sha256sum {{}} +; fi"
        )

    @staticmethod
    def default() -> dict[str, str]:
        """No files."""
        return {}

    @fact("a folder")
    def process(self, output: list[str]) -> dict[str, str]:
        return {path.removeprefix("./"): digest for digest, _, path in (line.partition("  ") for line in output)}
