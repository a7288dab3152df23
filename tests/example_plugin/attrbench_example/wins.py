"""A report: how often each method is the best one on a query, as plain text."""

from collections import Counter

from attrbench import Options, Report
from attrbench.text import one_line


class WinsOptions(Options):
    """The options of the report."""

    most: int = 10
    """Methods that are listed."""


class Wins(Report):
    """A text file with a line for each method: on how many queries no other has a larger value of the main metric."""

    name = "wins"
    summary = "on how many queries each method is the best, as text"
    suffix = ".txt"
    Options = WinsOptions

    def make(self, material):
        """Return the lines as UTF-8, the most frequent winner first."""
        wins = Counter()
        for task in dict.fromkeys(record.task.fingerprint for record in material.records):
            records = [record for record in material.records if record.task.fingerprint == task]
            values = {}
            for record in records:
                result = record.metric(material.metric or record.task.main_metric)
                if result is not None:
                    values[record.method.label] = result.per_query
            for query in range(min(map(len, values.values()), default=0)):
                best = max(row[query] for row in values.values())
                wins.update(label for label, row in values.items() if row[query] == best)
        lines = [f"{one_line(label)} {count}\n" for label, count in wins.most_common(self.options.most)]
        return "".join(lines).encode()
