"""The tasks behind the name: processes of task.py, with init as their entrypoint or without."""

import os
import sys

from . import processes

TASK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "task.py")


def addresses(count, first=0):
    # Not those of 127.78.0.0/16, of which lost-task drops packets.
    return [f"127.79.{number // 250}.{number % 250 + 1}" for number in range(first, first + count)]


def start(addresses, port, journal=os.devnull, init=None, drain="0s"):
    """One process that serves all the addresses. It may not listen yet."""
    command = [sys.executable, "-IS", TASK, ",".join(addresses), str(port), journal]
    if not init:
        return processes.start(command)
    return processes.start([init, "--", *command], {"INIT_DRAIN": drain, "INIT_LOG_LEVEL": "error"})


class Tasks:
    """Some tasks, each a process."""

    def __init__(self, addresses, port, folder, init=None, drain="0s"):
        self.journal = os.path.join(folder, "journal")
        self.processes = {address: start([address], port, self.journal, init, drain) for address in addresses}
        for address in addresses:
            processes.wait_for(address, port)

    def end(self):
        for process in self.processes.values():
            processes.kill(process)

    def done_twice(self):
        with open(self.journal, encoding="ascii") as file:
            ids = file.read().split()
        return len(ids) - len(set(ids))
