import subprocess
import sys
from array import array

import crcmod.predefined
from hypothesis import example, given
from hypothesis import strategies as st

from segstore.format.checksum import PROVIDER, crc32c

oracle = crcmod.predefined.mkPredefinedCrcFun("crc-32c")


@given(st.binary(max_size=4000))
@example(b"")
@example(bytes(64))
def test_the_fast_checksum_is_crcmods_predefined_crc_32c(data):
    assert crc32c(data) == oracle(data)


@given(st.binary(max_size=1000), st.integers(0, 1000), st.integers(0, 1000))
def test_any_split_gives_the_same_checksum(data, first, second):
    first, second = sorted((first, second))
    crc = crc32c(data[second:], crc32c(data[first:second], crc32c(data[:first])))
    assert crc == oracle(data)


def test_the_check_value_of_the_definition_holds():
    assert crc32c(b"123456789") == 0xE3069283


def test_every_kind_of_buffer_is_taken():
    data = bytes(range(200))
    views = [bytearray(data), memoryview(data), memoryview(bytearray(data))[:]]
    assert {crc32c(view) for view in views} == {oracle(data)}
    assert crc32c(memoryview(array("i", [1, 2])).cast("B")) == oracle(array("i", [1, 2]).tobytes())


FALLBACK = """
import sys
sys.modules["fastcrc"] = None  # an import of it fails
import segstore
from segstore.format import checksum
assert checksum.PROVIDER.startswith("crcmod"), checksum.PROVIDER
assert checksum.crc32c(b"123456789") == 0xE3069283
assert checksum.crc32c(b"6789", checksum.crc32c(memoryview(b"12345"))) == 0xE3069283
with segstore.open(sys.argv[1], compression=None) as log:
    before = list(log.values())
    log.append_many([b"from the fallback", b""], keys=[b"k", None])
    log.append(b"staged")
    log.roll()
    assert list(log.values()) == before + [b"from the fallback", b"", b"staged"]
    assert log.verify().is_intact
    print(log.stats().checksum)
"""


def test_without_fastcrc_the_engine_runs_on_crcmod_and_says_so(path):
    import segstore

    assert PROVIDER == "fastcrc"
    with segstore.open(path) as log:
        log.append_many([b"by fastcrc"] * 3)
        assert log.stats().checksum == "fastcrc"
    done = subprocess.run(
        [sys.executable, "-c", FALLBACK, path],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("crcmod (C)", "crcmod (pure Python, slow)")
    with segstore.open(path) as log:
        assert list(log.values()) == [b"by fastcrc"] * 3 + [b"from the fallback", b"", b"staged"]
        assert log.verify().is_intact
