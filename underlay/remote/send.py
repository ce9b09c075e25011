"""How a program of this package gets to a host and runs there: as a zip that Python reads from memory.

A program is a module here with a function `main`, or a package with one in its `__main__`. It gets the arguments as
strings, and what it returns is the exit code (None: 0). With it goes what it imports of this package; all else that it
imports is Python's own, 3.10 or later. Nothing is left on the host. The zip can be kept there, and run as it is: while
the program runs, it is the file `sys.path[0]`.

Spoken to over a connection: run `argv(…)`, and write `line(program)` to its stdin first; what follows is the program's.
In a shell script: `command(program, …)`; its stdin is empty then.
"""

import base64
import io
import re
import shlex
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
# A file without a name: a zip can't be read from a pipe.
BOOTSTRAP = "; ".join(
    (
        "import base64, os, sys, zipimport",
        'memory = os.memfd_create("underlay")',
        "os.write(memory, base64.b64decode(sys.stdin.buffer.readline()))",
        'sys.path.insert(0, f"/proc/self/fd/{memory}")',
        'exec(zipimport.zipimporter(sys.path[0]).get_code("__main__"))',
    )
)
IMPORT = re.compile(r"^ *(?:from (underlay[\w.]*) import (\([^)]*\)|.*)|import (underlay[\w.]*))", re.MULTILINE)
MAIN = """\
import sys
from {module} import main
sys.exit(main(*sys.argv[1:]))
"""


def argv(*arguments: str) -> list[str]:
    """The program to run on a host, whichever is sent to it."""
    return ["python3", "-I", "-S", "-c", BOOTSTRAP, *arguments]


@cache
def line(program: ModuleType) -> bytes:
    """A program as the first line of the stdin of `argv`."""
    return base64.b64encode(packed(program)) + b"\n"


def command(program: ModuleType, *arguments: str, seconds: float | None = None) -> str:
    """A shell command of one line that runs a program; after so many seconds it is ended, with exit code 124."""
    limit = ["timeout", str(seconds)] if seconds else []
    return f"echo {line(program).decode().strip()} | {shlex.join([*limit, *argv(*arguments)])}"


@cache
def packed(program: ModuleType) -> bytes:
    """A program and what it imports, as a zip that `python3 FILE ARGUMENT…` runs; the same each time."""
    module = f"{program.__name__}.__main__" if hasattr(program, "__path__") else program.__name__
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py"), MAIN.format(module=module), zipfile.ZIP_DEFLATED)
        for path in sorted(_files(module)):
            archive.writestr(zipfile.ZipInfo(str(path.relative_to(ROOT))), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return content.getvalue()


def _files(module: str) -> set[Path]:
    """The files of a module, of the packages that it is in, and of all that these import."""
    found: set[Path] = set()
    wanted = {module}
    while wanted:
        name = wanted.pop()
        path = ROOT / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        # `from PACKAGE import NAME`: a name that is no module is in the package, which goes along in any case.
        if path.is_file() and path not in found:
            found.add(path)
            wanted |= {name.rpartition(".")[0], *_imports(path)} - {""}
    return found


def _imports(path: Path) -> Iterator[str]:
    """What may be modules of ours that a file imports: not by `ast`, which takes longer than all the rest."""
    for package, names, module in IMPORT.findall(path.read_text()):
        yield module or package
        yield from (f"{package}.{name}" for name in re.findall(r"\w+", names))
