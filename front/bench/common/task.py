"""A task: a process that answers everything on some addresses, and notes each request's id.

    task.py ADDRESS,... PORT JOURNAL

GET /bytes/N has a body of N bytes. SIGTERM ends it in order.
"""

import asyncio
import signal
import sys

SERVICE_SECONDS = 0.005
CHUNK = 65536


async def answer(address, notes, reader, writer, busy):
    head = await reader.readuntil(b"\r\n\r\n")
    busy.add(writer)
    start, *lines = head.split(b"\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
    left = int(fields.get(b"content-length", b"0"))
    while left:
        left -= len(await reader.readexactly(min(left, CHUNK)))
    notes.write(fields.get(b"x-bench-id", b"-") + b"\n")
    await asyncio.sleep(SERVICE_SECONDS)
    path = start.split()[1]
    length = int(path.removeprefix(b"/bytes/")) if path.startswith(b"/bytes/") else 3
    writer.write(f"HTTP/1.1 200 OK\r\nx-task: {address}\r\ncontent-length: {length}\r\n\r\n".encode())
    while length:
        part = min(length, CHUNK)
        writer.write(b"ok\n" if part == 3 else bytes(part))
        await writer.drain()
        length -= part


async def serve(addresses, port, notes):
    busy = set()

    async def connection(reader, writer):
        address = writer.get_extra_info("sockname")[0]
        try:
            while True:
                await answer(address, notes, reader, writer, busy)
                busy.discard(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            busy.discard(writer)
            writer.close()

    server = await asyncio.start_server(connection, addresses, port, backlog=1024)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    # In order: nobody new, and those who wait are answered.
    server.close()
    while busy:
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    with open(sys.argv[3], "ab", buffering=0) as journal:
        asyncio.run(serve(sys.argv[1].split(","), int(sys.argv[2]), journal))
