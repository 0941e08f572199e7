"""Damage to files."""

import os


def flip_byte(path, position):
    """Changes one byte, and puts the time of modification back."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    with open(path, "r+b") as file:  # in place: the same inode, as a failing disk or a stray write would leave it
        file.write(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
