"""Has permissions count for root too, who passes over them."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

CAPABILITY_VERSION = 0x20080522
OVERRIDES = 0b110  # the bits of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
GET_SECUREBITS, SET_SECUREBITS = 27, 28
NO_SETUID_FIXUP = 4  # `access` then asks what holds now, not what root could take back


@contextmanager
def permissions_count() -> Iterator[None]:
    """Within it this thread has none of root's rights to files; nothing changes for other users."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    _call(libc.capget, header, sets)
    before, bits = list(sets), libc.prctl(GET_SECUREBITS, 0, 0, 0, 0)
    _call(libc.prctl, SET_SECUREBITS, bits | NO_SETUID_FIXUP, 0, 0, 0)
    try:
        sets[0] &= ~OVERRIDES
        _call(libc.capset, header, sets)
        yield
    finally:
        sets[:] = before
        _call(libc.capset, header, sets)
        _call(libc.prctl, SET_SECUREBITS, bits, 0, 0, 0)


def _call(function, *arguments) -> None:
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
