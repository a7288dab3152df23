from attrbench.cli.listing import _provides
from attrbench.evaluation.progress import Observed, Silent
from attrbench.plugins.hookspecs import hookimpl
from attrbench.plugins.registry import Plugin, Registry


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


def test_a_plugin_that_only_observes_is_said_to():
    class Observer:
        @hookimpl
        def record_written(self, record, path):
            pass

    registry = Registry()
    registry.load(Plugin("watch", "dist-watch", "1"), Observer)
    registry.load(Plugin("empty", "dist-empty", "1"), lambda: object())
    assert [_provides(plugin) for plugin in registry.plugins] == ["observes runs", "nothing registered"]


def test_observers_see_stages_and_a_faulty_one_stops_nothing():
    seen = []

    class Good:
        @hookimpl
        def stage_started(self, stage, total):
            seen.append((stage, total))

        @hookimpl
        def stage_finished(self, stage, seconds):
            seen.append(stage)

    class Bad:
        @hookimpl
        def stage_started(self, stage, total):
            raise RuntimeError("oh no")

    registry = Registry()
    registry.load(Plugin("bad", "dist-bad", "1"), Bad)
    registry.load(Plugin("good", "dist-good", "1"), Good)
    notes = Notes()
    with Observed(notes, registry).stage("work", 3) as advance:
        advance()
    assert seen == [("work", 3), "work"]
    assert len(notes.lines) == 1
    assert "dist-bad" in notes.lines[0]
    assert "oh no" in notes.lines[0]
