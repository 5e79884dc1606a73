#!/usr/bin/env python3
"""Open-loop load on one URL: a request every INTERVAL seconds, whatever became of those before.

    load.py URL INTERVAL SECONDS OUT

Each request has a connection of its own. One JSON line a request goes to OUT: when it was due (seconds since the
epoch), its status or its error, and the task that answered. SIGTERM ends it early, after the last answer. Only
loopback is ever asked.
"""

import http.client
import json
import signal
import sys
import threading
import time
from urllib.parse import urlsplit

TIMEOUT = 15
MOST_AT_ONCE = 200


def main():
    url, interval, seconds, out = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    parts = urlsplit(url)
    if parts.hostname not in ("localhost", "127.0.0.1"):
        sys.exit(f"{url}: only localhost is a target")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    lock, slots = threading.Lock(), threading.Semaphore(MOST_AT_ONCE)

    with open(out, "w", encoding="utf-8") as lines:

        def ask(due):
            record = {"due": due}
            try:
                connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT)
                connection.request("GET", parts.path or "/", headers={"connection": "close"})
                response = connection.getresponse()
                response.read()
                record |= {"status": response.status, "task": response.getheader("x-task-id")}
                connection.close()
            except OSError as error:
                record["error"] = repr(error)
            except http.client.HTTPException as error:
                record["error"] = repr(error)
            with lock:
                lines.write(json.dumps(record) + "\n")
                lines.flush()
            slots.release()

        threads = []
        start = time.time()
        for number in range(int(seconds / interval)):
            due = start + number * interval
            if stop.wait(max(0.0, due - time.time())):
                break
            slots.acquire()
            threads.append(threading.Thread(target=ask, args=(due,)))
            threads[-1].start()
        for thread in threads:
            thread.join()


main()
