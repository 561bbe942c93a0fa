"""The records that everybody gets.

`log_lines` are real ones where ``BENCH_LINES`` names a file of them (one record a line),
and otherwise made: web server, application, sshd and data node lines, whose hosts, paths, users
and numbers are drawn from skewed choices, because that is what makes real logs compress about
twice to three times with LZ4. The seed is fixed, so that two runs get the same bytes.
"""

from __future__ import annotations

import os
import random
import time
from functools import cache

ENVIRONMENT = "BENCH_LINES"
KINDS = ("lines", "100 B", "1 KiB", "10 KiB")
SIZES_BYTES = {"100 B": 100, "1 KiB": 1024, "10 KiB": 10240}
LINE_COUNT = 20_000
_SEED = 20240229


@cache
def records(kind: str) -> list[bytes]:
    """Some thousand records of a kind, to be used over and over."""
    if kind == "lines":
        return log_lines()
    size = SIZES_BYTES[kind]
    # Cut from the lines, so that they compress as the lines do.
    text = b"\n".join(log_lines())
    count = max(1000, min(10_000, len(text) // size))
    text *= 1 + size * count // len(text)
    return [text[start : start + size] for start in range(0, size * count, size)]


def source() -> str:
    """Where `log_lines` come from, in words."""
    return "a file of real lines" if os.environ.get(ENVIRONMENT) else "generated"


@cache
def log_lines() -> list[bytes]:
    """Log lines without line ends."""
    path = os.environ.get(ENVIRONMENT)
    if path:
        with open(path, "rb") as file:
            return [line.rstrip(b"\r\n") for line in file]
    return generate(LINE_COUNT, _SEED)


def generate(count: int, seed: int) -> list[bytes]:
    """`count` made lines."""
    rng = random.Random(seed)
    hosts = [
        f"10.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}" for _ in range(80)
    ]
    paths = [
        f"/api/v{rng.randrange(1, 4)}/{noun}/{rng.randrange(10**5)}"
        for noun in ("orders", "users", "items", "search", "cart", "session")
        for _ in range(40)
    ]
    users = ["root", "admin", "deploy", "oracle", "test", "guest", "git", "backup"]
    agents = [
        "Mozilla/5.0 (X11; Linux x86_64)",
        "curl/8.5.0",
        "kube-probe/1.29",
        "Go-http-client/2.0",
    ]
    modules = ["scheduler.Allocator", "rpc.Server", "storage.BlockManager", "web.Dispatcher"]
    now = 1_709_164_800.0

    def skewed(choices: list[str]) -> str:
        return choices[int(len(choices) * rng.random() ** 3)]

    made = []
    for _ in range(count):
        now += rng.expovariate(200)
        at = time.gmtime(now)
        milliseconds = int(now % 1 * 1000)
        kind = rng.random()
        if kind < 0.4:
            line = (
                f"{skewed(hosts)} - - [{time.strftime('%d/%b/%Y:%H:%M:%S +0000', at)}] "
                f'"GET {skewed(paths)} HTTP/1.1" {rng.choice((200, 200, 200, 304, 404, 500))} '
                f'{int(rng.lognormvariate(7, 1.5))} "-" "{skewed(agents)}"'
            )
        elif kind < 0.75:
            level = rng.choice(("INFO", "INFO", "INFO", "DEBUG", "WARN", "ERROR"))
            line = (
                f"{time.strftime('%Y-%m-%d %H:%M:%S', at)},{milliseconds:03d} {level} "
                f"[worker-{rng.randrange(8)}] com.example.{skewed(modules)}: request "
                f"{rng.getrandbits(48):012x} done in {rng.lognormvariate(1, 1):.3f} ms, "
                f"queue={rng.randrange(40)}"
            )
        elif kind < 0.9:
            line = (
                f"{time.strftime('%b %d %H:%M:%S', at)} gate sshd[{rng.randrange(2000, 32000)}]: "
                f"Failed password for invalid user {skewed(users)} from {skewed(hosts)} port "
                f"{rng.randrange(1024, 65536)} ssh2"
            )
        else:
            line = (
                f"{time.strftime('%y%m%d %H%M%S', at)} {rng.randrange(4000)} INFO "
                f"dfs.DataNode$PacketResponder: Received block blk_{rng.getrandbits(62)} of size "
                f"67108864 from /{skewed(hosts)}"
            )
        made.append(line.encode())
    return made
