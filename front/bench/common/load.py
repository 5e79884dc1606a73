"""An open loop of requests: each goes out at its time, whatever became of those before."""

import asyncio
import time
import uuid
from dataclasses import dataclass

GIVE_UP = 12  # seconds


@dataclass(slots=True)
class Answer:
    method: str
    # On the clock of time.monotonic.
    at: float
    took: float
    # Its status, or what kept it from having one.
    outcome: str
    # The address of the task that answered.
    task: str

    @property
    def is_good(self):
        return self.outcome == "200"


async def exchange(listen, method, path="/", body=b"", pace=None):
    """The status and the task that answered. A pace reads the body slowly: so many bytes, then so many seconds of rest."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listen)
    try:
        head = f"{method} {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\nx-bench-id: {uuid.uuid4().hex}\r\n"
        if method == "POST":
            head += f"content-length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n" + body)
        await writer.drain()
        start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        received = 0
        while part := await reader.read(pace[0] if pace else 65536):
            received += len(part)
            if pace:
                await asyncio.sleep(pace[1])
        if received < int(fields.get("content-length", "0")):
            return "cut off", fields.get("x-task", "")
        return start.split()[1], fields.get("x-task", "")
    finally:
        writer.close()


async def ask(listen, method, give_up=GIVE_UP, **rest):
    began, task = time.monotonic(), ""
    try:
        async with asyncio.timeout(give_up):
            outcome, task = await exchange(listen, method, **rest)
    except TimeoutError:
        outcome = "time out"
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
        outcome = "broken off"
    return Answer(method, began, time.monotonic() - began, outcome, task)


async def in_time(start, rate, seconds, events=()):
    """Yields the number of each request at its time; calls the events, pairs of a time and a function, at theirs."""
    events = sorted(events, key=lambda event: event[0])
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
        while events and number / rate >= events[0][0]:
            events.pop(0)[1]()
        yield number


async def open_loop(listen, rate, seconds, methods, events=()):
    start, asked = time.monotonic() + 0.1, []
    async for number in in_time(start, rate, seconds, events):
        method = methods[number % len(methods)]
        body = b"hi" if method == "POST" else b""
        asked.append(asyncio.create_task(ask(listen, method, body=body)))
    return await asyncio.gather(*asked)


def failed(answers, method=None):
    return [answer for answer in answers if not answer.is_good and method in (None, answer.method)]


def worst_ms(answers):
    return max(answer.took for answer in answers) * 1000
