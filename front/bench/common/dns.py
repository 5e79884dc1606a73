"""A DNS server that knows one name, and fails as it is told.

It does what an authoritative server and a resolver before it would: what does not fit into what the client takes over UDP
is truncated, and the client asks again over TCP.
"""

import random
import socket
import struct
import threading
import time

A, SOA, OPT = 1, 6, 41
NO_ERROR, SERVER_FAILURE, NO_SUCH_NAME = 0, 2, 3
NAME = "back.test"
# In the order of the scripts' tables.
FAULTS = ["servfail", "nxdomain", "empty", "drop"]
UDP_LIMIT = 4096
# A head, and a question of the root.
SHORTEST = 12 + 5


class Dns:
    """All fields may be changed while it serves."""

    def __init__(self, addresses, ttl, sample=None):
        self.addresses, self.ttl = list(addresses), ttl
        # How long an answer without an address may be kept.
        self.negative_ttl = ttl
        # How many addresses, drawn at random, an answer has, as those of Cloud Map do; all if there is no number.
        self.sample = sample
        # One of FAULTS.
        self.fault = None
        # Called once, when the next addresses have been sent over UDP: from then on the client holds them for a whole TTL.
        self.after_next = None
        self.asked_udp = self.asked_tcp = 0
        self.turn = 0
        self.udp, self.tcp = pair()
        self.port = self.udp.getsockname()[1]
        for serve in [self.serve_udp, self.serve_tcp]:
            threading.Thread(target=serve, daemon=True).start()

    @property
    def asked(self):
        return self.asked_udp + self.asked_tcp

    def serve_udp(self):
        while True:
            try:
                question, peer = self.udp.recvfrom(4096)
            except OSError:
                return  # It was closed.
            if len(question) < SHORTEST:
                continue  # As it is closed, it receives nothing for a moment.
            self.asked_udp += 1
            answer = self.answer(question, is_udp=True)
            if answer:
                self.udp.sendto(answer, peer)
                if self.after_next and answer[6:8] != b"\0\0":
                    call, self.after_next = self.after_next, None
                    call()

    def serve_tcp(self):
        while True:
            try:
                connection, _ = self.tcp.accept()
            except OSError:
                return
            threading.Thread(target=self.serve_connection, args=(connection,), daemon=True).start()

    def serve_connection(self, connection):
        connection.settimeout(10)
        with connection, connection.makefile("rb") as questions:
            try:
                while length := questions.read(2):
                    self.asked_tcp += 1
                    answer = self.answer(questions.read(int.from_bytes(length, "big")), is_udp=False)
                    if answer:
                        connection.sendall(len(answer).to_bytes(2, "big") + answer)
            except OSError:
                pass

    def answer(self, question, is_udp):
        if self.fault == "drop":
            return None
        name, end = read_name(question, 12)
        kind = int.from_bytes(question[end : end + 2], "big")
        end += 4
        takes, has_edns = announced(question, end)
        code, records, authority = NO_ERROR, [], []
        if self.fault == "servfail":
            code = SERVER_FAILURE
        elif self.fault == "nxdomain" or name != NAME:
            code, authority = NO_SUCH_NAME, [self.soa()]
        elif kind == A and self.fault != "empty":
            records = [struct.pack(">HHHIH", 0xC00C, A, 1, self.ttl, 4) + socket.inet_aton(address) for address in self.chosen()]
        else:
            authority = [self.soa()]
        # The root's name, what we take over UDP, no flags, no options.
        extra = [struct.pack(">BHHIH", 0, OPT, UDP_LIMIT, 0, 0)] if has_edns else []
        size = end + sum(map(len, [*records, *authority, *extra]))
        is_cut = is_udp and size > takes
        if is_cut:
            records, authority = [], []
        # An answer, with what the client wanted recursed, and recursion to be had.
        flags = 0x8080 | (question[2] & 1) << 8 | is_cut << 9 | code
        head = question[:2] + struct.pack(">HHHHH", flags, 1, len(records), len(authority), len(extra))
        return head + question[12:end] + b"".join([*records, *authority, *extra])

    def chosen(self):
        addresses = self.addresses
        if self.sample is not None:
            return random.sample(addresses, min(self.sample, len(addresses)))
        if not addresses:
            return []
        self.turn += 1
        first = self.turn % len(addresses)
        return addresses[first:] + addresses[:first]

    def soa(self):
        numbers = struct.pack(">IIIII", 1, 3600, 600, 86400, self.negative_ttl)
        return struct.pack(">HHHIH", 0xC00C, SOA, 1, self.negative_ttl, 2 + len(numbers)) + b"\0\0" + numbers

    def close(self):
        # What blocks in another thread is woken by a shutdown, not by a close.
        for listening in [self.udp, self.tcp]:
            try:
                listening.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            listening.close()


def pair():
    """Sockets for UDP and TCP with one number."""
    until = time.monotonic() + 10
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        tcp = socket.socket()
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind(udp.getsockname())
            tcp.listen(64)
            return udp, tcp
        except OSError:
            udp.close()
            tcp.close()
            if time.monotonic() > until:
                raise


def read_name(message, at):
    """A name without pointers, and where it ends."""
    labels = []
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode("ascii").lower())
        at += 1 + length
    return ".".join(labels), at + 1


def announced(question, end):
    """How much the client takes over UDP, and whether it speaks EDNS."""
    # A question has one additional record at the most that matters: OPT, with the root's name.
    has_edns = question[10:12] != b"\0\0" and question[end : end + 3] == b"\0" + OPT.to_bytes(2, "big")
    return (max(512, int.from_bytes(question[end + 3 : end + 5], "big")) if has_edns else 512), has_edns
