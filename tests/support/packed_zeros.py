"""Zeros by the gigabyte, as zlib and gzip pack them: one MiB is packed, and what that gives is repeated."""

import struct
import zlib

_GIB_CRC = 0x5B64C2B0  # CRC-32 of a GiB of zeros, which takes longer to compute than all the rest
_END = b"\x03\0"  # an empty last block


def zlib_zeros(n_mib: int) -> bytes:
    """What `zlib.decompress` makes so many MiB of zeros of."""
    checksum = (n_mib << 20) % 65_521 << 16 | 1  # Adler-32
    return b"\x78\xda" + _deflated_mib() * n_mib + _END + struct.pack(">I", checksum)


def gzip_gib() -> bytes:
    """What `gzip.decompress` makes a GiB of zeros of."""
    header = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff"
    return header + _deflated_mib() * 1024 + _END + struct.pack("<II", _GIB_CRC, 1 << 30)


def _deflated_mib() -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
