"""A disk that fills up: a tmpfs of a few hundred kilobytes, mounted in a name space that only a fork sees."""

import ctypes
import os
from pathlib import Path

_NEWNS, _NEWUSER = 0x00020000, 0x10000000
_libc = ctypes.CDLL(None, use_errno=True)


def mount(directory: Path, kilobytes: int) -> None:
    """Mount an empty disk there, for this process and its children alone; only in a fork. OSError where it is not allowed."""
    if os.geteuid():
        user, group = os.geteuid(), os.getegid()
        _call(_libc.unshare(_NEWUSER | _NEWNS))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    else:
        _call(_libc.unshare(_NEWNS))
    _call(_libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None))  # recursively private: nobody outside sees it
    directory.mkdir(parents=True, exist_ok=True)
    _call(_libc.mount(b"tmpfs", str(directory).encode(), b"tmpfs", 0, f"size={kilobytes}k".encode()))


def _call(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def drop_rights() -> None:
    """Go on as somebody who may not do everything; only in a fork. Nothing for whoever is not root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
