"""CRC-32C, the checksum of every structure on disk.

Definition: crcmod's predefined ``crc-32c`` (Castagnoli, reflected polynomial 0x82F63B78, initial
value and final xor 0xFFFFFFFF; RFC 3720 appendix B.4). fastcrc computes the same at hardware speed
and releases the GIL; crcmod is the fallback where fastcrc has no build. The tests hold one against
the other.
"""

from __future__ import annotations

from segstore.format.buffers import Buffer

try:
    from fastcrc import crc32 as _fastcrc

    crc32c = _fastcrc.iscsi
    PROVIDER = "fastcrc"
except ImportError:  # pragma: no cover - exercised by tests in a subprocess without fastcrc
    import sys

    import crcmod.predefined

    _crcmod = crcmod.predefined.mkCrcFun("crc-32c")

    def crc32c(  # type: ignore[misc]
        data: Buffer, initial: int | None = None
    ) -> int:
        """CRC-32C of `data`, continued from `initial` (the CRC of the bytes before it)."""
        return int(_crcmod(bytes(data), initial or 0))

    _is_compiled = "crcmod._crcfunext" in sys.modules
    PROVIDER = "crcmod (C)" if _is_compiled else "crcmod (pure Python, slow)"
