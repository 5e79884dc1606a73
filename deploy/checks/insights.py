"""The part of CloudWatch Logs Insights' query language that ../queries use, evaluated on log lines.

The rules are those of AWS's reference (CWL_QuerySyntax in the CloudWatch Logs user guide). What it does not know it refuses, so
that a query never passes for what it does not say; and what the reference leaves open (a comparison with a field that is not
there, but for being unequal to it) it takes for false.

Nobody else's would do: moto 5.2.5 skips filter and stats, ministack 1.5.33 has no stats, and fakecloud-logs 0.51.0 compares for
equality only and leaves functions out that it does not know.
"""

import json
import re
from datetime import datetime

# Those that CloudWatch adds to each event.
SYSTEM = {"@timestamp", "@message", "@logStream"}
AGGREGATES = {"count", "count_distinct", "sum", "avg", "min", "max", "pct", "earliest", "latest"}
FUNCTIONS = {"ispresent", "coalesce", "toMillis"}
COMMANDS = {"fields", "filter", "stats", "sort", "limit", "parse"}
WORDS = {"and", "or", "not", "like", "in", "as", "by", "asc", "desc"}
UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
TOKEN = re.compile(
    r"""\s+ | (?P<text>"[^"]*"|'[^']*') | (?P<period>\d+(?:ms|s|m|h)\b) | (?P<number>\d+(?:\.\d+)?)
    | (?P<name>[A-Za-z_@][A-Za-z0-9_@.]*) | (?P<sign>!=|<=|>=|[=<>()\[\],|*+/-])""",
    re.VERBOSE,
)
REGEX = re.compile(r"/((?:[^/\\]|\\.)+)/")


class Wrong(Exception):
    """What is wrong with a query."""


def read_events(stream, lines):
    """The events of one log stream: what CloudWatch finds in JSON, with its own fields."""
    for line in lines:
        event = json.loads(line)
        # Booleans become 1 and 0 (aws-powertools/powertools-lambda-dotnet#667).
        event = {name: int(value) if isinstance(value, bool) else value for name, value in event.items()}
        at = datetime.fromisoformat(event["timestamp"].replace("Z", "+00:00"))
        yield {**event, "@timestamp": round(at.timestamp() * 1000), "@message": line, "@logStream": stream}


class Query:
    """A query that has been read."""

    def __init__(self, text):
        self.uses, self.makes = set(), set()
        self.commands = []
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        self.tokens = list(tokens(code))
        while True:
            self.commands.append(self.command())
            if not self.tokens:
                break
            self.take("|")

    @property
    def fields(self):
        """The fields that must be in the log."""
        return self.uses - SYSTEM

    def run(self, events):
        rows = sorted(events, key=lambda event: event["@timestamp"], reverse=True)
        for command in self.commands:
            rows = command(rows)
        return rows

    # Reading.

    def next(self):
        return self.tokens[0] if self.tokens else (None, None)

    def take(self, *wanted):
        kind, value = self.next()
        if wanted and value not in wanted or kind is None:
            raise Wrong(f"expected {' or '.join(wanted) or 'more'}, found {value!r}")
        self.tokens.pop(0)
        return kind, value

    def takes(self, *wanted):
        kind, value = self.next()
        if kind in ("name", "sign") and value in wanted:
            self.tokens.pop(0)
            return value
        return None

    def name(self):
        kind, value = self.take()
        if kind != "name" or value in WORDS:
            raise Wrong(f"expected a name, found {value!r}")
        return value

    def command(self):
        _, word = self.take(*sorted(COMMANDS))
        return getattr(self, f"read_{word}")()

    def read_fields(self):
        shown = self.labelled()
        return lambda rows: [{**row, **{label: of(row, None) for label, of in shown}} for row in rows]

    def labelled(self):
        """Expressions, each with its name."""
        shown = []
        while True:
            before = len(self.tokens)
            text_from = list(self.tokens)
            expression = self.either()
            label = "".join(str(value) for _, value in text_from[: before - len(self.tokens)])
            if self.takes("as"):
                label = self.name()
                self.makes.add(label)
            shown.append((label, expression))
            if not self.takes(","):
                return shown

    def read_filter(self):
        condition = self.either()
        return lambda rows: [row for row in rows if condition(row, None)]

    def read_stats(self):
        shown = self.labelled()
        by = self.labelled() if self.takes("by") else []
        # What was there before is gone: only these can be used from here on.
        self.makes.update(label for label, _ in shown + by)

        def run(rows):
            groups = {}
            for row in rows:
                groups.setdefault(tuple(expression(row, None) for _, expression in by), []).append(row)
            return [
                {**dict(zip((label for label, _ in by), key)), **{label: of(None, group) for label, of in shown}}
                for key, group in groups.items()
            ]

        return run

    def read_sort(self):
        order = []
        while True:
            expression = self.either()
            order.append((expression, self.takes("asc", "desc") == "desc"))
            if not self.takes(","):
                break

        def run(rows):
            for expression, descending in reversed(order):
                rows = sorted(rows, key=lambda row: rank(expression(row, None)), reverse=descending)
            return rows

        return run

    def read_limit(self):
        _, count = self.take()
        return lambda rows: rows[: int(count)]

    def read_parse(self):
        source = self.primary()
        kind, pattern = self.take()
        if kind != "regex" or not pattern.groupindex:
            raise Wrong("parse needs a regular expression with names, such as /(?<cause>.*)/")
        self.makes.update(pattern.groupindex)

        def run(rows):
            done = []
            for row in rows:
                found = pattern.search(str(source(row, None) or ""))
                done.append({**row, **(found.groupdict() if found else {})})
            return done

        return run

    # Expressions: functions of a row, and of the rows of its group in stats.

    def either(self):
        left = self.both()
        while self.takes("or"):
            left = (lambda one, two: lambda row, group: one(row, group) or two(row, group))(left, self.both())
        return left

    def both(self):
        left = self.negated()
        while self.takes("and"):
            left = (lambda one, two: lambda row, group: one(row, group) and two(row, group))(left, self.negated())
        return left

    def negated(self):
        if self.takes("not"):
            inner = self.negated()
            return lambda row, group: not inner(row, group)
        return self.comparison()

    def comparison(self):
        left = self.sum_()
        negative = self.takes("not")
        if self.takes("like"):
            kind, pattern = self.take()
            if kind == "text":
                pattern = re.compile(re.escape(pattern))
            elif kind != "regex":
                raise Wrong("like needs a text or a regular expression")
            like = lambda row, group: pattern.search(str(left(row, group) or "")) is not None
            return (lambda row, group: not like(row, group)) if negative else like
        if self.takes("in"):
            self.take("[")
            members = [self.primary()]
            while self.takes(","):
                members.append(self.primary())
            self.take("]")
            return lambda row, group: (left(row, group) in [member(row, group) for member in members]) != bool(negative)
        if negative:
            raise Wrong("not is followed by neither like nor in")
        sign = self.takes("=", "!=", "<", "<=", ">", ">=")
        if not sign:
            return left
        right = self.sum_()
        return lambda row, group: compared(sign, left(row, group), right(row, group))

    def sum_(self):
        left = self.product()
        while sign := self.takes("+", "-"):
            left = (lambda one, two, add: lambda row, group: calculated("+" if add else "-", one(row, group), two(row, group)))(
                left, self.product(), sign == "+"
            )
        return left

    def product(self):
        left = self.primary()
        while sign := self.takes("*", "/"):
            left = (lambda one, two, sign: lambda row, group: calculated(sign, one(row, group), two(row, group)))(
                left, self.primary(), sign
            )
        return left

    def primary(self):
        if self.takes("("):
            inner = self.either()
            self.take(")")
            return inner
        kind, value = self.take()
        if kind in ("text", "number"):
            return lambda row, group: value
        if kind != "name" or value in WORDS or value in COMMANDS:
            raise Wrong(f"{value!r} is no expression")
        if self.takes("("):
            return self.call(value)
        if value not in self.makes:
            self.uses.add(value)
        return lambda row, group: row.get(value)

    def call(self, name):
        if name == "bin":
            kind, period = self.take()
            if kind != "period":
                raise Wrong("bin needs a period, such as 10s")
            self.take(")")
            return lambda row, group: row["@timestamp"] // period * period
        arguments = []
        if self.takes("*"):
            if name != "count":
                raise Wrong(f"{name}(*)")
        elif self.next()[1] != ")":
            arguments.append(self.either())
            while self.takes(","):
                arguments.append(self.either())
        self.take(")")
        if name in AGGREGATES:
            return lambda row, group: aggregated(name, arguments, group)
        if name not in FUNCTIONS:
            raise Wrong(f"{name} is no function that is known here")
        return lambda row, group: called(name, [argument(row, group) for argument in arguments])


def tokens(code):
    at, before, command = 0, None, None
    while at < len(code):
        is_regex = code[at] == "/" and (before == ("name", "like") or command == "parse" and before[0] == "name")
        found = REGEX.match(code, at) if is_regex else TOKEN.match(code, at)
        if not found:
            raise Wrong(f"cannot be read from here: {code[at:at + 30]!r}")
        at = found.end()
        if is_regex:
            # AWS names groups as Java does, Python with a P.
            before = ("regex", re.compile(found[1].replace("(?<", "(?P<").replace("(?P<=", "(?<=").replace("(?P<!", "(?<!")))
        elif found.lastgroup is None:
            continue
        else:
            value = found[found.lastgroup]
            if found.lastgroup == "text":
                value = value[1:-1]
            elif found.lastgroup == "number":
                value = float(value) if "." in value else int(value)
            elif found.lastgroup == "period":
                unit = value.lstrip("0123456789")
                value = int(value.removesuffix(unit)) * UNITS[unit]
            if command is None and found.lastgroup == "name":
                command = value
            elif value == "|" and found.lastgroup == "sign":
                command = None
            before = (found.lastgroup, value)
        yield before


def rank(value):
    """Nothing comes first, then numbers, then texts."""
    if value is None:
        return 0, 0, ""
    return (2, 0, value) if isinstance(value, str) else (1, value, "")


def compared(sign, left, right):
    if left is None or right is None:
        if sign == "!=":
            raise Wrong("a field that is not there is compared with !=, of which the reference says nothing")
        return False
    if isinstance(left, str) != isinstance(right, str):
        left, right = str(left), str(right)
    return {
        "=": left == right, "!=": left != right, "<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right,
    }[sign]


def calculated(sign, left, right):
    if left is None or right is None or sign == "/" and right == 0:
        return None
    return {"+": lambda: left + right, "-": lambda: left - right, "*": lambda: left * right, "/": lambda: left / right}[sign]()


def called(name, values):
    if name == "ispresent":
        (value,) = values
        return value is not None
    if name == "toMillis":
        (value,) = values
        return value
    return next((value for value in values if value is not None), None)


def aggregated(name, arguments, group):
    if group is None:
        raise Wrong(f"{name} is for stats")
    if name == "count" and not arguments:
        return len(group)
    if name in ("earliest", "latest"):
        there = [row for row in group if arguments[0](row, None) is not None]
        if not there:
            return None
        chosen = (min if name == "earliest" else max)(there, key=lambda row: row["@timestamp"])
        return arguments[0](chosen, None)
    values = [value for row in group if (value := arguments[0](row, None)) is not None]
    if name == "count":
        return len(values)
    if name == "count_distinct":
        return len(set(values))
    if name == "sum":
        return sum(values)
    if not values:
        return None
    if name == "avg":
        return sum(values) / len(values)
    if name == "pct":
        values.sort()
        return values[min(len(values) - 1, int(len(values) * arguments[1](None, None) / 100))]
    return {"min": min, "max": max}[name](values)
