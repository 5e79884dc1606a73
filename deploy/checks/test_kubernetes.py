"""The Kubernetes example: its schema, its arithmetic, and its variables in the hands of the programs that read them."""

import glob
import os
import re
import signal
import subprocess
import sys
import tempfile
import unittest
import urllib.request

import yaml

from system import PATIENCE, ROOT, Task, binary

FOLDER = os.path.join(ROOT, "deploy", "kubernetes")
FILES = sorted(glob.glob(os.path.join(FOLDER, "*.yaml")))
# The oldest and the newest of which kubernetes-validate has schemas.
VERSIONS = ["1.25", "1.37"]
# Seconds: CoreDNS's TTL in kubeadm's Corefile, and what deregistration takes (README.md).
TTL, MARGIN = 30, 5
# Seconds: how long front waits for an answer (--request-timeout), and what a program needs to exit.
REQUEST, EXIT = 10, 5
# Seconds: the kubelet's clock starts before SIGTERM arrives.
KUBELET = 5


def documents(kind):
    found = {}
    for path in FILES:
        with open(path, encoding="utf-8") as file:
            found |= {one["metadata"]["name"]: one for one in yaml.safe_load_all(file) if one["kind"] == kind}
    return found


def seconds(text):
    """Of a duration in whole seconds, which is all that is used here."""
    return int(re.fullmatch(r"(\d+)s", text)[1])


class Workload:
    """A Deployment, its one container, and the Service that finds it."""

    def __init__(self, name):
        self.service, self.deployment = documents("Service")[name], documents("Deployment")[name]
        self.pod = self.deployment["spec"]["template"]
        (self.container,) = self.pod["spec"]["containers"]
        self.given = {one["name"]: one.get("value") for one in self.container["env"]}

    def time(self, name):
        return seconds(self.given[name])

    def port(self):
        (port,) = self.container["ports"]
        return port["name"], port["containerPort"]


class Manifests(unittest.TestCase):
    def setUp(self):
        self.back, self.front = Workload("back"), Workload("front")
        self.both = [("BACK", self.back), ("FRONT", self.front)]

    def test_they_are_what_the_schemas_of_kubernetes_say(self):
        self.assertEqual(len(FILES), 3)
        for version in VERSIONS:
            command = [sys.executable, "-m", "kubernetes_validate", "--strict", "-k", version, *FILES]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            found = done.stdout + done.stderr
            self.assertEqual(done.returncode, 0, found)
            self.assertEqual(found.count("passed"), 7, found)
            self.assertNotRegex(found, r"WARN|ERROR|failed")

    def test_the_stop_fits_into_what_kubernetes_waits(self):
        for prefix, workload in self.both:
            drain, grace, stop = (workload.time(f"INIT_{name}") for name in ("DRAIN", "GRACE", "STOP_TIMEOUT"))
            self.assertGreaterEqual(stop, drain + grace)
            self.assertGreaterEqual(workload.pod["spec"]["terminationGracePeriodSeconds"], stop + KUBELET)
            # What the program takes for itself after SIGTERM, and what the longest request may take, is in the grace.
            own = workload.time(f"{prefix}_DRAIN_TIMEOUT")
            self.assertGreater(grace, own)
            self.assertGreaterEqual(own, REQUEST)
            self.assertGreaterEqual(grace, REQUEST + EXIT)
        self.assertGreaterEqual(self.back.time("INIT_DRAIN"), TTL + MARGIN)
        self.assertGreater(self.front.time("INIT_DRAIN"), MARGIN)

    def test_a_pod_leaves_dns_when_it_stops(self):
        spec = self.back.service["spec"]
        self.assertEqual((spec["clusterIP"], spec["publishNotReadyAddresses"]), ("None", False))

    def test_services_find_their_pods_and_front_finds_back(self):
        for _, workload in self.both:
            labels, service = workload.pod["metadata"]["labels"], workload.service["spec"]
            for selector in (service["selector"], workload.deployment["spec"]["selector"]["matchLabels"]):
                self.assertEqual({name: labels[name] for name in selector}, selector)
            self.assertEqual([port["targetPort"] for port in service["ports"]], [workload.port()[0]])
        name, namespace = (self.back.service["metadata"][key] for key in ("name", "namespace"))
        # A headless service has no port but its pods'.
        (port,) = self.back.service["spec"]["ports"]
        self.assertEqual(port["port"], self.back.port()[1])
        self.assertEqual(self.front.given["FRONT_BACKEND"], f"http://{name}.{namespace}.svc.cluster.local.:{port['port']}")
        self.assertEqual([*documents("Namespace")], [namespace])
        for kind in ("Service", "Deployment", "NetworkPolicy"):
            self.assertEqual({one["metadata"]["namespace"] for one in documents(kind).values()}, {namespace})

    def test_front_alone_calls_back(self):
        policy = documents("NetworkPolicy")["back"]["spec"]
        self.assertEqual(policy["podSelector"], self.back.deployment["spec"]["selector"])
        (rule,) = policy["ingress"]
        (caller,) = rule["from"]
        self.assertEqual(caller["podSelector"], self.front.deployment["spec"]["selector"])
        self.assertEqual([port["port"] for port in rule["ports"]], [self.back.port()[0]])

    def test_capacity_is_never_below_what_is_desired(self):
        for _, workload in self.both:
            spec = workload.deployment["spec"]
            self.assertEqual(spec["strategy"]["rollingUpdate"], {"maxUnavailable": 0, "maxSurge": "100%"})
            self.assertGreaterEqual(spec["replicas"], 2)

    def test_pods_may_nothing(self):
        for _, workload in self.both:
            pod, container = workload.pod["spec"], workload.container["securityContext"]
            self.assertEqual((pod["automountServiceAccountToken"], pod["enableServiceLinks"]), (False, False))
            user = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
            self.assertEqual(pod["securityContext"], user)
            wanted = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            self.assertEqual(container, wanted)

    def test_the_image_s_own_entrypoint_drains(self):
        for _, workload in self.both:
            # A command would replace init, and a preStop hook would take its time out of the same grace period.
            self.assertFalse({"command", "args", "lifecycle"} & set(workload.container))

    def test_init_cuts_nothing(self):
        for _, workload in self.both:
            given = {name: value for name, value in workload.given.items() if name.startswith("INIT_")}
            done = subprocess.run(
                [binary("init"), "--explain", "--", "/command"], env=given, capture_output=True, text=True, timeout=PATIENCE,
                check=True,
            )
            said = dict(re.findall(r"^(stop timeout|grace|drain) +(\d+s)", done.stdout, re.MULTILINE))
            wanted = {name.replace("_", " ").lower(): given[f"INIT_{name}"] for name in ("STOP_TIMEOUT", "GRACE", "DRAIN")}
            self.assertEqual(said, wanted, done.stdout)
            self.assertIn("SIGUSR1 goes to the command", done.stdout)

    def test_every_variable_is_one_that_is_read(self):
        known = set()
        for program in ("init", "front", "back"):
            done = subprocess.run([binary(program), "--help"], capture_output=True, text=True, timeout=PATIENCE, check=True)
            known |= set(re.findall(r"\[env: ([A-Z0-9_]+)=", done.stdout))
        for _, workload in self.both:
            self.assertEqual(set(workload.given) - known, set())

    def test_the_programs_run_with_these_variables_answer_the_probes_and_stop(self):
        for prefix, workload in self.both:
            program = prefix.lower()
            # The downward API's are any text; where it listens is this machine's.
            given = {name: value or "1" for name, value in workload.given.items()}
            given |= {f"{prefix}_LISTEN": "127.80.5.1:0", "INIT_LOG_FORMAT": "json", f"{prefix}_LOG_FORMAT": "json"}
            with tempfile.TemporaryDirectory() as folder:
                task = Task(folder, program, [binary("init"), "--", binary(program)], given)
                try:
                    address = task.said(r'"message":"serving","address":"([^"]+)"')[1]
                    for probe in ("readinessProbe", "livenessProbe"):
                        wanted = workload.container[probe]["httpGet"]
                        self.assertEqual(wanted["port"], workload.port()[0])
                        with urllib.request.urlopen(f"http://{address}{wanted['path']}", timeout=PATIENCE) as answer:
                            self.assertEqual(answer.status, 200)
                    task.stop()
                    task.said("lame duck: serving until cached DNS answers expire")
                    # The second one ends the lame duck.
                    task.process.send_signal(signal.SIGTERM)
                    self.assertEqual(task.ended(), 0)
                finally:
                    task.kill()

    def test_what_a_program_listens_on_unless_told_otherwise_is_its_port(self):
        for prefix, workload in self.both:
            done = subprocess.run([binary(prefix.lower()), "--help"], capture_output=True, text=True, timeout=PATIENCE, check=True)
            default = re.search(rf"\[env: {prefix}_LISTEN=\].*?\[default: 0\.0\.0\.0:(\d+)\]", done.stdout, re.DOTALL)
            self.assertEqual(int(default[1]), workload.port()[1])


if __name__ == "__main__":
    unittest.main()
