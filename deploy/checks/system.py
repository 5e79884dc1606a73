"""The article's system on this machine: tasks of back under init, a DNS server that names them, and a front; each process's
log is kept as CloudWatch would keep it, one stream a task."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "front", "bench"))

from common import dns, processes  # noqa: E402

BINARIES = os.environ.get("LAMEDUCK_BINARIES", os.path.join(ROOT, "target", "debug"))
PATIENCE = 10  # seconds
TTL = 1  # second
# Enough for every check here: one TTL, and a margin of a second.
DRAIN = ["--dns-name", dns.NAME, "--dns-margin", "1s", "--stop-timeout", "10s", "--grace", "4s", "--drain-signal", "USR1"]


def binary(name):
    path = os.path.join(BINARIES, name)
    if not os.access(path, os.X_OK):
        sys.exit(f"{path} is not there: run `cargo build --workspace --bins`, or name its folder with LAMEDUCK_BINARIES")
    return path


class Task:
    """One process, or one under init, with its log."""

    def __init__(self, folder, stream, command, environment):
        self.stream, self.path = stream, os.path.join(folder, stream.replace("/", "-"))
        with open(self.path, "wb") as log:
            self.process = processes.start(command, environment, output=log)

    def lines(self):
        with open(self.path, encoding="utf-8") as log:
            return log.read().splitlines()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)

    def ended(self):
        """Its exit code, once it has ended."""
        try:
            return self.process.wait(3 * PATIENCE)
        finally:
            processes.kill(self.process)

    def kill(self):
        processes.kill(self.process)

    def said(self, pattern):
        """Waits for a line that has this."""
        until = time.monotonic() + PATIENCE
        while True:
            for line in self.lines():
                if found := re.search(pattern, line):
                    return found
            if time.monotonic() > until or self.process.poll() is not None:
                raise AssertionError(f"{self.stream} did not say {pattern!r} but: {self.lines()}")
            time.sleep(0.02)


class System:
    """Starts nothing by itself but the DNS server. `folder` takes the logs."""

    def __init__(self, folder):
        self.folder = folder
        self.port = processes.free_port()
        self.dns = dns.Dns([], TTL)
        self.backs, self.fronts = {}, []

    def back(self, address, task_id, revision, drain=DRAIN, admin=None):
        """A task that listens, and is healthy."""
        flags = ["--listen", f"{address}:{self.port}", "--task-id", task_id, "--revision", revision]
        if admin:
            flags += ["--enable-faults", "--admin-listen", f"{address}:{admin}"]
        environment = {
            "INIT_RESOLVER": f"127.0.0.1:{self.dns.port}",
            "INIT_OWN_ADDRESS": address,
            "INIT_LOG_FORMAT": "json",
            "BACK_LOG_FORMAT": "json",
            # Health checks are in the log, too, which the queries must tell from requests.
            "BACK_LOG_LEVEL": "debug",
            "BACK_DRAIN_TIMEOUT": "500ms",
        }
        task = Task(self.folder, f"task/back/{task_id}", [binary("init"), *drain, "--", binary("back"), *flags], environment)
        self.backs[task_id] = task
        task.address = address
        task.said('"message":"serving"')
        self.check(task)
        return task

    def check(self, task):
        """What ECS does: the health check's command."""
        url = f"http://{task.address}:{self.port}/health"
        subprocess.run([binary("init"), "--check", url], check=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)

    def front(self):
        """Where it listens."""
        environment = {
            "FRONT_LISTEN": "127.0.0.1:0",
            "FRONT_BACKEND": f"http://{dns.NAME}:{self.port}",
            "FRONT_RESOLVER": f"127.0.0.1:{self.dns.port}",
            "FRONT_LOG_FORMAT": "json",
            "FRONT_LOG_LEVEL": "debug",
            # Such as a load balancer's answer to a task that hangs: it comes in time for a check.
            "FRONT_WAIT_FOR_TASK": "200ms",
        }
        command = [binary("init"), "--drain", "0s", "--log-format", "json", "--", binary("front")]
        task = Task(self.folder, f"task/front/{len(self.fronts)}", command, environment)
        self.fronts.append(task)
        found = task.said(r'"message":"serving","address":"([^"]+)"')
        return found[1]

    def name(self, *addresses):
        """These are in DNS from now on."""
        self.dns.addresses = list(addresses)

    def fault(self, task, admin, fault):
        url = f"http://{task.address}:{admin}/fault"
        request = urllib.request.Request(url, data=fault.encode(), method="PUT")
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            assert answer.status == 200

    def close(self):
        for task in [*self.fronts, *self.backs.values()]:
            task.kill()
        self.dns.close()
