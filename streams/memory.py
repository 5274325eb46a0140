"""Give memory back to the system. Knows nothing of what used it."""

from __future__ import annotations

import ctypes
import os


def give_back() -> None:
    """Return what was freed, where the C library can (glibc), which by itself keeps it: some milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
