"""The queries, on the logs of real tasks and a real front while k6 calls them, compared with what k6 saw."""

import collections
import glob
import json
import os
import re
import socket
import tempfile
import threading
import time
import unittest

from insights import Query, Wrong, read_events
from load import THRESHOLDS_CROSSED, Load
from system import ROOT, System, processes

FOLDER = os.path.join(ROOT, "deploy", "queries")
NAMES = sorted(os.path.basename(path).removesuffix(".query") for path in glob.glob(os.path.join(FOLDER, "*.query")))
RATE = 20
REFUSED = "cannot connect: Connection refused (os error 111)"


def text_of(name):
    with open(os.path.join(FOLDER, f"{name}.query"), encoding="utf-8") as file:
        return file.read()


def groups_of(name):
    """The log groups that it says it is for."""
    return re.search(r"^# Log group: (.+)'s\.", text_of(name), re.MULTILINE)[1].split("'s or ")


class Logs:
    """What a scenario left behind: the events of each log group, and what k6 saw."""

    def __init__(self, system, load):
        self.load = load
        self.groups = {
            "back": [event for task in system.backs.values() for event in read_events(task.stream, task.lines())],
            "front": [event for task in system.fronts for event in read_events(task.stream, task.lines())],
        }

    def rows(self, name, groups=("back", "front")):
        """Of both groups, as the dashboard asks: a query must find its own."""
        return Query(text_of(name)).run([event for group in groups for event in self.groups[group]])

    def lines(self, group, **wanted):
        """Events that have these, without any query."""
        return [event for event in self.groups[group] if all(event.get(name) == value for name, value in wanted.items())]


def deployed(folder):
    """Four tasks are replaced by four others, in DNS at once, each old one draining; nobody may notice."""
    system = System(folder)
    try:
        # ECS registers a task before it runs (RUNNING), so that init finds its address in DNS when it looks.
        addresses = [f"127.80.2.{number}" for number in range(1, 9)]
        system.name(*addresses[:4])
        old = [system.back(address, f"old{number}", "1") for number, address in enumerate(addresses[:4], 1)]
        load = Load(HOST=system.front(), RATE=RATE, DURATION="9s")
        time.sleep(2)
        new = [system.back(address, f"new{number}", "2") for number, address in enumerate(addresses[4:], 1)]
        system.name(*addresses[4:])
        for task in old:
            system.check(task)
            task.stop()
        codes = [task.ended() for task in old]
        assert load.finish() == 0, load.output
        assert codes == [0] * 4, codes
        return Logs(system, load)
    finally:
        system.close()


def broken(folder):
    """Everything that the queries are to tell apart: an application's errors, a task that is killed, all of them gone, a drain
    that is cut, a connection that is cut off, a caller that goes away."""
    system = System(folder)
    try:
        admin = processes.free_port()
        short = ["--drain", "9s", "--stop-timeout", "3s", "--grace", "2s"]
        drains = [short, short, ["--drain", "0s"]]
        tasks = [
            system.back(f"127.80.3.{number}", f"task{number}", "3", drain, admin) for number, drain in enumerate(drains, 1)
        ]
        system.name(*(task.address for task in tasks))
        host = system.front()
        load = Load(HOST=host, RATE=RATE, DURATION="8s")
        time.sleep(1)
        system.fault(tasks[0], admin, '{"fault":"status","status":500,"path":"/","for":"1s"}')
        slow = '{"fault":"latency","latency":"5s","path":"/slow"}'
        for task in tasks[1:]:
            system.fault(task, admin, slow)
        time.sleep(1.2)
        system.fault(tasks[0], admin, slow)
        leave(host, "/slow")
        # Killed without a word, and still in DNS: its requests go to the others.
        tasks[1].kill()
        time.sleep(1)
        # In the middle of an answer, which is cut off.
        caller = threading.Thread(target=leave, args=(f"{tasks[0].address}:{system.port}", "/slow", 4))
        caller.start()
        time.sleep(0.2)
        tasks[0].stop()
        tasks[2].stop()
        assert tasks[2].ended() == 0
        tasks[0].ended()
        caller.join()
        # Now nobody is there, and then somebody is.
        time.sleep(1)
        later = system.back("127.80.3.9", "later", "4")
        system.name(later.address)
        assert load.finish() == THRESHOLDS_CROSSED, load.output
        later.stop()
        later.ended()
        return Logs(system, load)
    finally:
        system.close()


def leave(host, path, seconds=0.3):
    """A caller that does not wait for the answer for longer than that."""
    address, port = host.rsplit(":", 1)
    with socket.create_connection((address, int(port)), 5) as caller:
        caller.sendall(f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode())
        caller.settimeout(seconds)
        try:
            caller.recv(1)
        except TimeoutError:
            pass


class OnLogs(unittest.TestCase):
    """Runs each scenario once."""

    @classmethod
    def setUpClass(cls):
        if not hasattr(OnLogs, "deployed"):
            with tempfile.TemporaryDirectory() as folder:
                OnLogs.deployed = deployed(folder)
            with tempfile.TemporaryDirectory() as folder:
                OnLogs.broken = broken(folder)


class Fields(OnLogs):
    def test_every_field_is_one_that_the_binaries_log(self):
        logged = {
            group: {name for logs in (self.deployed, self.broken) for event in logs.groups[group] for name in event}
            for group in ("back", "front")
        }
        self.assertGreaterEqual(len(NAMES), 8)
        for name in NAMES:
            fields = Query(text_of(name)).fields
            self.assertTrue(fields, name)
            self.assertEqual(fields - set().union(*(logged[group] for group in groups_of(name))), set(), name)

    def test_every_query_finds_something_when_everything_breaks(self):
        for name in NAMES:
            self.assertTrue(self.broken.rows(name), name)

    def test_every_query_finds_the_same_without_the_other_log_group(self):
        for logs in (self.deployed, self.broken):
            for name in NAMES:
                self.assertEqual(logs.rows(name, groups_of(name)), logs.rows(name), name)

    def test_every_query_begins_with_its_title_and_its_log_group(self):
        for name in NAMES:
            self.assertRegex(text_of(name), r"\A# [A-Z].+\.\n# Log group: (back|front)'s( or front's)?\.", name)

    def test_every_message_that_is_looked_for_is_one_that_is_said(self):
        said = {event["message"] for logs in (self.deployed, self.broken) for group in logs.groups.values() for event in group}
        looked_for = {message for name in NAMES for message in re.findall(r'message = "([^"]+)"', text_of(name))}
        self.assertIn("asked to stop", looked_for)
        self.assertEqual(looked_for - said, set())


class ALosslessDeploy(OnLogs):
    def test_the_distribution_is_what_k6_saw(self):
        rows = self.deployed.rows("distribution")
        seen = self.deployed.load.answers("task_id")
        self.assertEqual({row["task_id"]: row["requests"] for row in rows}, dict(seen))
        self.assertEqual(sum(seen.values()), self.deployed.load.requests)
        self.assertEqual(len(rows), 8)
        self.assertTrue(all(row["failed"] == 0 and row["p99_ms"] > 0 for row in rows))
        self.assertEqual({row["task_id"][:3]: row["revision"] for row in rows}, {"old": "1", "new": "2"})
        self.assertEqual([row["requests"] for row in rows], sorted(seen.values(), reverse=True))

    def test_health_checks_are_left_out_and_would_count_otherwise(self):
        # Each task was asked once as it started, and each old one once more.
        self.assertEqual(len(self.deployed.lines("back", health_check=1)), 12)
        requests = sum(row["requests"] for row in self.deployed.rows("distribution"))
        every = Query("stats count() as requests by task_id").run(self.deployed.groups["back"])
        counted = sum(row["requests"] for row in every if row["task_id"])
        # And what the tasks said as they began to serve.
        self.assertEqual(counted, requests + 12 + 8)

    def test_front_saw_the_same(self):
        rows = self.deployed.rows("distribution-seen-by-front")
        self.assertEqual({row["task_id"]: row["requests"] for row in rows}, dict(self.deployed.load.answers("task_id")))

    def test_each_revision_has_its_requests_and_its_time(self):
        rows = self.deployed.rows("deploys")
        self.assertEqual([row["revision"] for row in rows], ["1", "2"])
        self.assertEqual([row["tasks"] for row in rows], [4, 4])
        by_revision = collections.Counter()
        for task, count in self.deployed.load.answers("task_id").items():
            by_revision["1" if task.startswith("old") else "2"] += count
        self.assertEqual({row["revision"]: row["requests"] for row in rows}, dict(by_revision))
        self.assertTrue(all(row["failed"] == 0 for row in rows))
        self.assertLess(rows[0]["first_at"], rows[1]["first_at"])
        self.assertLess(rows[0]["last_at"], rows[1]["last_at"])

    def test_the_handover_adds_up(self):
        rows = self.deployed.rows("handover")
        self.assertEqual(sum(row["requests"] for row in rows), self.deployed.load.requests)
        self.assertEqual({row["revision"] for row in rows}, {"1", "2"})
        self.assertTrue(all(row["since"] % 10_000 == 0 for row in rows))

    def test_nothing_failed(self):
        self.assertEqual(self.deployed.rows("failures-by-cause"), [])
        over_time = self.deployed.rows("failures-over-time")
        self.assertEqual(sum(row["requests"] for row in over_time), self.deployed.load.requests)
        self.assertEqual(sum(row["failed"] for row in over_time), 0)

    def test_each_old_task_has_its_drain_in_order(self):
        story = collections.defaultdict(list)
        for row in self.deployed.rows("drains"):
            story[row["@logStream"]].append(row)
        self.assertEqual(sorted(story), [f"task/back/old{number}" for number in range(1, 5)])
        for rows in story.values():
            messages = [row["message"] for row in rows]
            wanted = ["asked to stop", "lame duck: serving until cached DNS answers expire", "stopping: the lame duck is over",
                      "ended: exited with 0"]
            self.assertEqual([message for message in messages if message in wanted], wanted)
            self.assertEqual(rows[0]["signal"], "SIGTERM")
            self.assertEqual(rows[-1]["code"], 0)
            self.assertTrue(any(row.get("drain") for row in rows))

    def test_each_old_task_has_its_time_and_its_exit_code(self):
        rows = self.deployed.rows("drains-by-task")
        self.assertEqual(len(rows), 4)
        for row in rows:
            self.assertEqual(row["exit_code"], 0)
            # A TTL and a margin of a second each, or more if DNS still named it; less than the stop timeout.
            self.assertGreater(row["took_s"], 1.9)
            self.assertLess(row["took_s"], 9)


class ADeployThatFails(OnLogs):
    def test_causes_add_up_to_what_k6_saw(self):
        by_status = collections.Counter()
        for row in self.broken.rows("failures-by-cause"):
            by_status[str(row["status"])] += row["failures"]
        # The caller that went away was not k6.
        self.assertEqual(by_status.pop("499"), 1)
        seen = {status: count for status, count in self.broken.load.answers("status").items() if status != "200"}
        self.assertEqual(dict(by_status), seen)
        self.assertEqual(set(seen), {"500", "502"})

    def test_causes_are_told_apart_and_have_no_addresses(self):
        rows = self.broken.rows("failures-by-cause")
        self.assertEqual({row.get("why") for row in rows if row["status"] == 500}, {None})
        whys = {row["why"] for row in rows if row["status"] == 502}
        self.assertIn(REFUSED, whys)
        self.assertFalse([why for why in whys if "127.80" in why])
        self.assertEqual([row["outcome"] for row in rows if row["status"] == 499], ["the caller went away"])
        self.assertTrue(all(row["first_at"] <= row["last_at"] for row in rows))

    def test_the_time_of_failures_adds_up(self):
        failed = sum(row["failed"] for row in self.broken.rows("failures-over-time"))
        seen = self.broken.load.answers("status")
        self.assertEqual(failed, seen["500"] + seen["502"])

    def test_the_application_s_errors_are_its_task_s_and_its_revision_s(self):
        errors = self.broken.load.answers("status")["500"]
        failed = {row["task_id"]: row["failed"] for row in self.broken.rows("distribution") if row["failed"]}
        self.assertEqual(failed, {"task1": errors})
        self.assertEqual({row["revision"]: row["failed"] for row in self.broken.rows("deploys")}, {"3": errors, "4": 0})

    def test_what_no_task_answered_has_a_row_of_its_own(self):
        rows = {row["task_id"]: row for row in self.broken.rows("distribution-seen-by-front")}
        self.assertEqual(rows[None]["failed"], self.broken.load.answers("status")["502"])

    def test_retries_are_those_of_the_access_log(self):
        rows = self.broken.rows("retries")
        retried = [event for event in self.broken.lines("front", message="request") if event["attempts"] > 1]
        self.assertGreater(len(retried), 0)
        self.assertEqual(sum(row["retried"] for row in rows), len(retried))
        self.assertEqual(max(row["most_attempts"] for row in rows), max(event["attempts"] for event in retried))
        # Those to the killed task were saved, those to nobody were not.
        self.assertLess(0, sum(row["failed_all_the_same"] for row in rows))
        self.assertLess(sum(row["failed_all_the_same"] for row in rows), len(retried))

    def test_front_tells_which_addresses_it_found_and_which_failed(self):
        rows = self.broken.rows("endpoints")
        self.assertIn("127.80.3.9:", "".join(row.get("added") or "" for row in rows))
        failed = {row["address"].split(":")[0] for row in rows if row["message"] == "attempt failed"}
        self.assertIn("127.80.3.2", failed)
        self.assertEqual(rows, sorted(rows, key=lambda row: row["@timestamp"]))

    def test_drains_that_went_wrong_say_how(self):
        rows = [row for row in self.broken.rows("drains") if row["@logStream"] == "task/back/task1"]
        self.assertIn("a drain of 9s and a grace of 2s do not fit in a stop timeout of 3s", rows[0]["message"])
        self.assertEqual([row["cut_off"] for row in rows if row.get("cut_off")], [1])
        by_task = {row["@logStream"]: row for row in self.broken.rows("drains-by-task")}
        # Killed before it could say anything: it is not there at all, as nobody asked it to stop.
        self.assertNotIn("task/back/task2", by_task)
        self.assertLess(by_task["task/back/task3"]["took_s"], 1)


class Language(unittest.TestCase):
    """The evaluator itself: what it must tell apart, and what it must refuse."""

    EVENTS = [
        {"@timestamp": 12_000, "@message": "", "@logStream": "s", "a": 1, "text": "x/y|z"},
        {"@timestamp": 21_000, "@message": "", "@logStream": "s", "a": 3},
    ]

    def run_(self, text):
        return Query(text).run([dict(event) for event in self.EVENTS])

    def test_a_bar_in_a_pattern_ends_no_command(self):
        self.assertEqual([row["a"] for row in self.run_("filter text like /q|z/ | limit 5")], [1])

    def test_a_field_that_is_not_there_is_neither_less_nor_more(self):
        self.assertEqual(self.run_("filter missing > 0 or missing <= 0"), [])
        with self.assertRaises(Wrong):
            self.run_('filter missing != "x"')

    def test_aggregates(self):
        rows = self.run_(
            "stats count(*) as n, sum(a >= 2) as big, pct(a, 50) as p, latest(a) as last_a, avg(a) * 2 as d by bin(10s) as b"
        )
        self.assertEqual([(row["n"], row["big"], row["b"]) for row in rows], [(1, 1, 20_000), (1, 0, 10_000)])
        self.assertEqual([(row["p"], row["last_a"], row["d"]) for row in rows], [(3, 3, 6), (1, 1, 2)])

    def test_what_is_not_known_is_refused(self):
        unknown = ["fetch a", "filter foo(a)", "filter a = ~", "filter count(a) > 1"]
        unfinished = ["stats count(*) by", "filter a like 3", "parse text /no names/", "limit", "filter a = 1 |"]
        for text in unknown + unfinished:
            with self.assertRaises(Wrong, msg=text):
                self.run_(text)

    def test_fields_are_those_that_a_query_reads_and_does_not_make(self):
        query = Query('# q\nfilter a > 1 | parse text /(?<b>.)/ | stats max(c) as d by b, @logStream | sort d')
        self.assertEqual(query.fields, {"a", "text", "c"})
        self.assertEqual(Query("fields toMillis(@timestamp) as e | filter e > 1").fields, set())


if __name__ == "__main__":
    unittest.main()
