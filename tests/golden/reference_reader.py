"""A second reader of format versions 1 and 2: struct, crcmod and lz4, nothing of segstore.

Written from the layout alone, to show that the layout says enough. It reads what is intact, in
order, and knows nothing of speed, damage or locks.
"""

import itertools
import os
import re
import struct

import crcmod.predefined

crc32c = crcmod.predefined.mkPredefinedCrcFun("crc-32c")


def padded(size):
    return -(-size // 8) * 8


def file_header(data, kind):
    magic, crc, found, version, base_offset, log_id, _ = struct.unpack(
        "<8sI4sH6xQ16sq8x", data[:64]
    )
    assert (magic, found) == (b"segstore", kind)
    assert version in (1, 2)
    assert crc == crc32c(data[12:64])
    return base_offset, log_id


def column(data, at, count):
    """Offsets at `at`, then where the next column starts; and the offsets."""
    return struct.unpack_from(f"<{count + 1}i", data, at), at + padded(4 * (count + 1))


def frame(data, at):
    """(size, records) of the frame at `at`, or None where there is none."""
    if len(data) - at < 64:
        return None
    magic, crc, body, count, base, _, low, _, _, flags, version, _, _ = struct.unpack_from(
        "<IIIIQqqqIHBBQ", data, at
    )
    end = at + 64 + body
    if magic != 0x4D524653 or end > len(data):
        return None
    start = at
    if version == 1 and crc != crc32c(data[at + 8 : end]):
        return None
    offsets, at = column(data, at + 64, count)
    times, keys = [low] * count, [None] * count
    if flags & 1:
        times, at = struct.unpack_from(f"<{count}q", data, at), at + 8 * count
    valid = [True] * count
    if flags & 4:
        valid = [data[at + n // 8] >> n % 8 & 1 for n in range(count)]
        at += padded((count + 7) // 8)
    if flags & 2:
        places, at = column(data, at, count)
        keys = [
            data[at + a : at + b] if ok else None for a, b, ok in zip(places, places[1:], valid)
        ]
        at += padded(places[-1])
    if version == 2:
        blocks = range(4096, end - at - padded(4 * -(-padded(offsets[-1]) // 4096)) + 4096, 4096)
        checks, at = struct.unpack_from(f"<{len(blocks)}I", data, at), at + padded(4 * len(blocks))
        if crc != crc32c(data[start + 8 : at]):
            return None
        if list(checks) != [crc32c(data[at : min(at + stop, end)]) for stop in blocks]:
            return None
    assert flags < 8
    values = [data[at + a : at + b] for a, b in itertools.pairwise(offsets)]
    return 64 + body, list(zip(range(base, base + count), times, keys, values))


def frames(data, at, expected):
    records = []
    while (found := frame(data, at)) is not None and found[1][0][0] == expected:
        at += found[0]
        records += found[1]
        expected += len(found[1])
    return records, expected


def checkpoint(data, kind):
    """(offset, records lost) of the newest intact slot."""
    file_header(data, kind)
    assert len(data) == 1536
    slots = []
    for number, at in enumerate((512, 1024)):
        crc, zero, sequence, offset, _, lost = struct.unpack_from("<IIQQqQ", data, at)
        if sequence and crc == crc32c(data[at + 4 : at + 512]):
            assert (zero, sequence % 2) == (0, number)
            assert not any(data[at + 40 : at + 512])
            slots.append((sequence, offset, lost))
    return max(slots)[1:]


def chunks(data):
    """(position, plain bytes) of every LZ4 frame, found by its own sizes."""
    import lz4.frame

    at = 0
    while at < len(data):
        magic, flags, block_code, size, _ = struct.unpack_from("<IBBQB", data, at)
        assert (magic, flags) == (0x184D2204, 0x68)
        assert block_code in (0x40, 0x50, 0x60, 0x70)
        end = at + 15
        while block := struct.unpack_from("<I", data, end)[0] & 0x7FFFFFFF:
            end += 4 + block
        end += 4
        assert 1 <= size <= min(33_554_560, 255 * (end - at))
        assert size % 8 == 0
        plain = lz4.frame.decompress(data[at:end])
        assert len(plain) == size
        yield at, plain
        at = end


def read_log(path):
    """Every record of a log that no writer has open."""
    records, expected = [], None
    names = sorted(os.listdir(path))
    for name in names:
        match = re.fullmatch(r"([0-9]{20})\.log(\.lz4)?", name)
        if match:
            with open(os.path.join(path, name), "rb") as file:
                data = file.read()
            if match[2]:
                data = b"".join(plain for _, plain in chunks(data))
            elif name + ".lz4" in names:
                continue
            base_offset, _ = file_header(data, b"slog")
            assert base_offset == int(match[1])
            more, expected = frames(data, 64, base_offset if expected is None else expected)
            records += more
    if "truncate" in names:  # the tail does not count then
        end, _ = checkpoint(read(path, "truncate"), b"trnc")
        records = [record for record in records if record[0] < end]
    else:
        tail = read(path, "tail")
        file_header(tail, b"tail")
        staged = frame(tail, 4096)
        if staged and staged[1][0][0] <= expected:
            more, _ = frames(tail, 4096, staged[1][0][0])
            records += [record for record in more if record[0] >= expected]
    start, _ = checkpoint(read(path, "start"), b"strt")
    return [record for record in records if record[0] >= start]


def read_consumers(path):
    """Name to (committed offset, records lost)."""
    return {
        name.removesuffix(".consumer"): checkpoint(read(path, name), b"cons")
        for name in os.listdir(path)
        if name.endswith(".consumer")
    }


def registers(path):
    """(end of the segments, durable offset, recovery point, epoch) of the tail."""
    data = read(path, "tail")
    found = []
    for at in (64, 96, 128, 160):
        words = struct.unpack_from("<4Q", data, at)
        found.append(max(words[i] for i in (0, 2) if words[i] ^ words[i + 1] == 2**64 - 1))
    return tuple(found)


def read(path, name):
    with open(os.path.join(path, name), "rb") as file:
        return file.read()


class SealedIndex:
    """A sealed index: the fields of its stamp, its entries, chunk starts and key filter."""

    def __init__(self, path):
        with open(path, "rb") as file:
            data = file.read()
        self.base_offset, _ = file_header(data, b"sidx")
        crc, *stamp = struct.unpack_from("<IIQQQqqqqIIIII44x", data, 64)
        assert crc == crc32c(data[68:192])
        assert stamp[-1] == crc32c(data[192:])
        assert not any(data[148:192])
        self.stamp = stamp
        entry_count, chunk_count, filter_bytes, self.hashes = stamp[8:12]
        at = 192 + 16 * entry_count
        self.entries = [struct.unpack_from("<IIq", data, 192 + 16 * n) for n in range(entry_count)]
        self.chunk_starts = struct.unpack_from(f"<{chunk_count}Q", data, at)
        self.filter = data[at + 8 * chunk_count :]
        assert len(self.filter) == filter_bytes

    def may_hold(self, key):
        if not self.filter:
            return False
        first, second = murmur3_x64_128(key, 0x5E65)
        bits = 8 * len(self.filter)
        places = [(first + i * second) % 2**64 % bits for i in range(self.hashes)]
        return all(self.filter[bit // 8] >> bit % 8 & 1 for bit in places)


def murmur3_x64_128(key, seed):
    """(h1, h2) of MurmurHash3 x64 128, from its published definition."""
    mask = 2**64 - 1
    c1, c2 = 0x87C37B91114253D5, 0x4CF5AD432745937F

    def rotated(x, by):
        return (x << by | x >> 64 - by) & mask

    def finished(x):
        x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD & mask
        x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 & mask
        return x ^ x >> 33

    def mixed1(k):
        return rotated(k * c1 & mask, 31) * c2 & mask

    def mixed2(k):
        return rotated(k * c2 & mask, 33) * c1 & mask

    h1 = h2 = seed
    whole = len(key) // 16 * 16
    for k1, k2 in struct.iter_unpack("<QQ", key[:whole]):
        h1 = ((rotated(h1 ^ mixed1(k1), 27) + h2) * 5 + 0x52DCE729) & mask
        h2 = ((rotated(h2 ^ mixed2(k2), 31) + h1) * 5 + 0x38495AB5) & mask
    k1, k2 = struct.unpack("<QQ", key[whole:].ljust(16, b"\0"))
    h1 ^= mixed1(k1) ^ len(key)
    h2 ^= mixed2(k2) ^ len(key)
    h1 = (h1 + h2) & mask
    h2 = (h2 + h1) & mask
    h1, h2 = finished(h1), finished(h2)
    h1 = (h1 + h2) & mask
    return h1, (h2 + h1) & mask
