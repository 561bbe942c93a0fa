"""Each allocation of each call of the kernel fails once, and then nothing has changed."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SCRIPT = """
import _testcapi, os, struct, tempfile
from array import array
from segstore import _kernel as kernel
from segstore.format.batch import Record
from segstore.format.frame import encode_frame

def slowly(*args, **keywords):
    raise AssertionError("not slowly")

def state(buffer):
    return buffer.next_offset, buffer.position, buffer.staged_count, buffer.has_keys, bytes(memory)

def fail_each(function, *args):
    before = [state(arg) for arg in args]
    for number in range(100):
        _testcapi.set_nomemory(number, number + 1)
        try:
            function(*args)
        except MemoryError:
            _testcapi.remove_mem_hooks()
        else:
            _testcapi.remove_mem_hooks()
            assert number > 0, function
            return
        assert [state(arg) for arg in args] == before, (function, number)
    raise AssertionError(function)

fields = {"append_time": 0, "log_tag": 5, "durable_offset": 0}
data = encode_frame(3, [b"x" * 3000] * 4, [1, 2, 3, 4], [b"k", None, b"", b"kk"], **fields).data
head = kernel.decode_head(data, 5)
file = tempfile.TemporaryFile()
os.write(file.fileno(), data)
small = memoryview(encode_frame(3, [b"value"], 1 << 40, [b"key"], **fields).data)
column = struct.pack("<3i", 0, 1, 3) + b"abc"
values, keys, times = [b"v" * 300] * 3, [b"k" * 400, None, b""], [1 << 40, 2, 3]
fail_each(lambda: list(kernel.iter_column(column, 0, 0, 2, 12)))
fail_each(lambda: list(kernel.iter_records(Record, 1 << 40, times, keys, values, 3)))
fail_each(lambda: list(kernel.iter_records(Record, 1 << 40, array("q", times), None, values, 3)))
fail_each(
    lambda: list(
        kernel.iter_records(Record, 1 << 40, 5, None, kernel.iter_column(column, 0, 0, 2, 12), 2)
    )
)
fail_each(lambda: kernel.measure(values))
fail_each(lambda: kernel.join_frame(values, None, 0, 3, times, keys, 1, 2, 3, 4))
fail_each(lambda: kernel.join_frame(values, None, 0, 3, array("q", times), None, 1, 2, 3, 4))
fail_each(lambda: kernel.join_whole(values, 1, 5000, 1 << 40, 1, 2, 3, 4))
fail_each(lambda: kernel.decode_head(data, 5))
fail_each(lambda: kernel.read_record(slowly, file.fileno(), array("Q", [0]), [head], 3, 5, Record))
fail_each(lambda: kernel.take_records(small, 0, 3, 5, [], [], []))
for call in (
    lambda buffer: buffer.append(b"v" * 700, key=b"k" * 300, timestamp=1 << 40),
    lambda buffer: buffer.append_many(values, keys=keys, timestamps=times),
    lambda buffer: buffer.append_many(values),
    lambda buffer: buffer.stage([b"v" * 700] * 300, [1 << 40] * 300, [b"k" * 9] * 300),
):
    memory = bytearray(8192)
    view, bell = memoryview(memory), memoryview(bytearray(4)).cast("I")
    fail_each(lambda: kernel.TailBuffer(view, 5, None, slowly, slowly, bell, slowly))
    buffer = kernel.TailBuffer(view, 5, None, slowly, slowly, bell, slowly)
    buffer.is_open, buffer.batch_bytes_max, buffer.next_offset = True, 3000, 1 << 40
    fail_each(call, buffer)
    fail_each(lambda buffer: buffer.ends(), buffer)
    fail_each(lambda buffer: buffer.join_frame(0, 1, 1 << 40), buffer)
file.close()
print("done")
"""


def test_without_memory_a_call_fails_and_that_is_all(compiled):
    pytest.importorskip("_testcapi", reason="this interpreter came without its own tests")
    # In another process, whose allocations are then nobody else's.
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"done", b"")
