"""The guard's program as tests send it: with one thing in it changed."""

import io
from zipfile import ZipFile, ZipInfo


def edited(program: bytes, old: str, new: str) -> bytes:
    """A zip application with another text in place of one that is in it once."""
    file = io.BytesIO()
    with ZipFile(io.BytesIO(program)) as before, ZipFile(file, "w") as after:
        texts = {name: before.read(name).decode() for name in before.namelist()}
        assert sum(text.count(old) for text in texts.values()) == 1, old
        for name, text in texts.items():
            after.writestr(ZipInfo(name), text.replace(old, new))
    return file.getvalue()
