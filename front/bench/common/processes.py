"""Processes that end with the script, and what /proc says of them."""

import atexit
import os
import signal
import socket
import subprocess
import sys
import time

PATIENCE = 5  # seconds
TICKS = os.sysconf("SC_CLK_TCK")
LIVING = set()

# Without this a SIGTERM would skip what atexit knows of.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@atexit.register
def kill_all():
    for process in list(LIVING):
        kill(process)


def start(command, environment=None, cpus=None, output=None):
    """Starts a command that ends with the script, even if somebody kills that."""
    # These become the command: the process keeps its number.
    prefix = ["setpriv", "--pdeathsig", "TERM"]
    if cpus:
        prefix += ["taskset", "-c", ",".join(map(str, sorted(cpus)))]
    output = output or subprocess.DEVNULL
    environment = {**os.environ, **(environment or {})}
    process = subprocess.Popen([*prefix, *command], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    LIVING.add(process)
    return process


def kill(process):
    """At once, and with its children: a worker of nginx would outlive its master."""
    if process.poll() is None:
        for pid in family(process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait()
    LIVING.discard(process)


def end(process):
    """In order, or at once if that takes too long."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass
    kill(process)


def family(pid):
    """The process and all that descend from it."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            children = file.read().split()
    except FileNotFoundError:
        return []
    return [pid, *(member for child in children for member in family(int(child)))]


def cpu_seconds(pid):
    total = 0
    for member in family(pid):
        with open(f"/proc/{member}/stat", encoding="utf-8") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def resident(pid):
    """KiB. What a process and its workers share counts once; what others happen to share with them (a library, the same program
    as a task) counts in full, which PSS would not do."""
    alone, shared = 0, [0]
    for member in family(pid):
        with open(f"/proc/{member}/smaps_rollup", encoding="ascii") as file:
            sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in file) if rest.endswith("kB\n")}
        own = sizes["Private_Clean"] + sizes["Private_Dirty"]
        alone += own
        shared.append(sizes["Rss"] - own)
    return alone + max(shared)


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


def wait_for(address, port):
    """Until somebody listens there."""
    until = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((address, port), 1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
