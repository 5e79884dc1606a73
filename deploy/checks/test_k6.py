"""The k6 scenario, run by k6 against this machine's front and tasks."""

import json
import os
import tempfile
import unittest

from load import SCRIPT, SCRIPT_REFUSED, THRESHOLDS_CROSSED, Load, given, k6
from system import System, processes


class Options(unittest.TestCase):
    def inspected(self, **variables):
        done = k6("inspect", *given(variables), SCRIPT)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_what_the_article_sent_is_the_default(self):
        options = self.inspected(HOST="front.example")
        scenario = options["scenarios"]["deploy"]
        wanted = {"executor": "constant-arrival-rate", "rate": 10, "timeUnit": "1s", "duration": "5m0s"}
        self.assertEqual({name: scenario[name] for name in wanted}, wanted)

    def test_rate_and_duration_come_from_the_environment(self):
        scenario = self.inspected(HOST="front.example:8080", RATE=25, DURATION="1m30s")["scenarios"]["deploy"]
        self.assertEqual((scenario["rate"], scenario["duration"]), (25, "1m30s"))

    def test_no_iteration_waits_for_a_caller_to_be_made(self):
        for timeout, expected in [("15s", 160), ("500ms", 15)]:
            scenario = self.inspected(HOST="front.example", TIMEOUT=timeout)["scenarios"]["deploy"]
            # All that can be in flight: the rate times the longest that one lasts, and a second.
            self.assertEqual((scenario["preAllocatedVUs"], scenario["maxVUs"]), (expected, expected))

    def test_thresholds_are_rates_and_say_what_may_fail(self):
        for variables, checks, failed in [
            ({}, "rate>=1.000000", "rate<=0.000000"),
            ({"MAX_FAILED": "0.01"}, "rate>=0.990000", "rate<=0.010000"),
        ]:
            thresholds = self.inspected(HOST="front.example", **variables)["thresholds"]
            self.assertEqual((thresholds["checks"], thresholds["http_req_failed"]), ([checks], [failed]))
            self.assertEqual(thresholds["dropped_iterations"], ["count==0"])

    def test_what_is_no_use_is_refused_by_name_before_anything_is_sent(self):
        for variables, wanted in [
            ({}, "HOST is not given: expected the load balancer's name"),
            ({"HOST": ""}, "HOST is not given"),
            ({"HOST": "http://front.example"}, "HOST=http://front.example is no use"),
            ({"HOST": "front.example/path"}, "HOST=front.example/path is no use"),
            ({"HOST": "h", "SCHEME": "ftp"}, "SCHEME=ftp is no use: expected http or https"),
            ({"HOST": "h", "TARGET_PATH": "x"}, "TARGET_PATH=x is no use"),
            ({"HOST": "h", "RATE": "0"}, "RATE=0 is no use: expected whole requests per second"),
            ({"HOST": "h", "RATE": "1.5"}, "RATE=1.5 is no use"),
            ({"HOST": "h", "RATE": "ten"}, "RATE=ten is no use"),
            ({"HOST": "h", "DURATION": "5"}, "DURATION=5 is no use: expected a duration such as 5m"),
            ({"HOST": "h", "DURATION": "0s"}, "DURATION=0s is no use"),
            ({"HOST": "h", "TIMEOUT": "soon"}, "TIMEOUT=soon is no use"),
            ({"HOST": "h", "MAX_FAILED": "2"}, "MAX_FAILED=2 is no use"),
            ({"HOST": "h", "NEW_CONNECTIONS": "1"}, "NEW_CONNECTIONS=1 is no use: expected true or false"),
        ]:
            done = k6("run", "--address", "", *given(variables), SCRIPT)
            self.assertEqual(done.returncode, SCRIPT_REFUSED, (variables, done.stderr))
            self.assertIn(wanted, done.stderr)


class Runs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.system = System(cls.folder.name)
        cls.addClassCleanup(cls.system.close)
        cls.admin = processes.free_port()
        cls.task = cls.system.back("127.80.1.1", "slow", "1", admin=cls.admin)
        cls.system.name(cls.task.address)
        cls.host = cls.system.front()

    def test_callers_do_not_wait_for_answers(self):
        # Ten callers that wait, as the article's did, would send five a second here.
        self.system.fault(self.task, self.admin, '{"fault":"latency","latency":"2s"}')
        self.addCleanup(self.system.fault, self.task, self.admin, "[]")
        load = Load(HOST=self.host, DURATION="4s")
        self.assertEqual(load.finish(), 0, load.output)
        self.assertIn(load.requests, (40, 41))
        self.assertEqual(load.of("dropped_iterations"), [])

    def test_one_request_that_fails_is_an_exit_code(self):
        self.system.fault(self.task, self.admin, '{"fault":"status","status":503,"path":"/broken","for":"1s"}')
        self.addCleanup(self.system.fault, self.task, self.admin, "[]")
        load = Load(HOST=self.host, DURATION="2s", TARGET_PATH="/broken")
        self.assertEqual(load.finish(), THRESHOLDS_CROSSED, load.output)
        by_status = load.answers("status")
        self.assertGreater(by_status["503"], 0)
        self.assertGreater(by_status["404"] + by_status["200"], 0)
        self.assertEqual(sum(by_status.values()), load.requests)

    def test_a_host_that_nobody_answers_for_is_an_exit_code(self):
        load = Load(HOST=f"127.80.1.2:{processes.free_port()}", DURATION="1s")
        self.assertEqual(load.finish(), THRESHOLDS_CROSSED, load.output)
        self.assertEqual(set(load.answers("status")), {"0"})

    def test_every_instance_of_a_distributed_run_sends_its_share(self):
        # What k6-operator does: it archives and inspects the script with the variables, and then has a runner for each
        # segment.
        given_ = {"HOST": self.host, "DURATION": "3s", "RATE": 20}
        with tempfile.TemporaryDirectory() as folder:
            archive = os.path.join(folder, "deploy.tar")
            done = k6("archive", SCRIPT, *given(given_), "-O", archive)
            self.assertEqual(done.returncode, 0, done.stderr)
            done = k6("inspect", "--execution-requirements", archive)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(json.loads(done.stdout)["maxVUs"], 320)
        sequence = ["0", "1/3", "2/3", "1"]
        loads = [
            Load("--execution-segment", f"{start}:{end}", "--execution-segment-sequence", ",".join(sequence), **given_)
            for start, end in zip(sequence, sequence[1:])
        ]
        codes = [load.finish() for load in loads]
        self.assertEqual(codes, [0, 0, 0], [load.output for load in loads])
        counts = [load.requests for load in loads]
        # One more each at most: the last is due as the time is over.
        self.assertIn(sum(counts), range(60, 64), counts)
        self.assertTrue(all(count in (20, 21) for count in counts), counts)


if __name__ == "__main__":
    unittest.main()
