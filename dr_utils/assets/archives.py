"""Reading what is inside an archive, without executing any of it."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from dr_utils.assets.cache import AssetError, short


def read_member(archive_path: str | os.PathLike, member: str) -> bytes:
    """Return the bytes of one member of a zip, wheel or tar archive; nothing in it is executed."""
    return read_members(archive_path, [member])[member]


def read_members(archive_path: str | os.PathLike, members: Iterable[str] | None = None) -> dict[str, bytes]:
    """Return the bytes of several members (default: all files) of a zip, wheel or tar archive, in one pass.

    Raises
    ------
    AssetError
        Not an archive, a damaged one, or a member that it does not have.
    """
    path, wanted = Path(archive_path), None if members is None else set(members)
    content = {}
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if not name.endswith("/") and (wanted is None or name in wanted):
                        content[name] = archive.read(name)
        else:
            with tarfile.open(path, "r:*") as archive:
                for entry in archive:
                    if entry.isfile() and (wanted is None or entry.name in wanted):
                        content[entry.name] = archive.extractfile(entry).read()
                        if wanted is not None and len(content) == len(wanted):
                            break
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, ValueError) as error:
        raise AssetError(
            f"{path} is no readable archive ({short(error)}); delete it, and it is fetched again."
        ) from error
    if missing := sorted((wanted or set()) - set(content)):
        raise AssetError(f"{path.name} has no member {missing[0]!r}; is it another version of the package?")
    return content
