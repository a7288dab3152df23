"""A faulty plugin is named, with the reason, and stops nothing."""

from types import ModuleType

import pytest

from attrbench.contracts.options import Options
from attrbench.errors import AttrbenchError, UsageError
from attrbench.plugins.hookspecs import hookimpl
from attrbench.plugins.registry import Plugin, Registry
from tests.registering import register_classes


class Mine:
    name = "mine"
    summary = "one line"
    Options = Options


class MineToo(Mine):
    pass


def module(**hooks) -> ModuleType:
    made = ModuleType("made")
    for name, hook in hooks.items():
        setattr(made, name, hookimpl(hook))
    return made


def load(registry: Registry, name: str, **hooks) -> Plugin:
    plugin = Plugin(name, f"dist-{name}", "1.0")
    registry.load(plugin, lambda: module(**hooks))
    return plugin


def test_two_packages_that_claim_one_name_are_both_named():
    registry = Registry()
    first = load(registry, "one", register_methods=lambda register: register_classes(register, Mine))
    second = load(registry, "two", register_methods=lambda register: register_classes(register, MineToo))
    assert first.error is None
    for part in ("'mine'", "dist-one 1.0", "dist-two 1.0"):
        assert part in second.error
    assert registry.method("mine") is Mine
    with pytest.raises(UsageError, match="dist-two"):
        registry.method("yours")


@pytest.mark.parametrize("name", ["all", "a:b", "a,b", "", "ä"])
def test_names_that_the_command_line_could_not_read_are_refused(name):
    kind = type("Odd", (Mine,), {"name": name})
    plugin = load(Registry(), "odd", register_methods=lambda register: register_classes(register, kind))
    assert f"'{name}' is not allowed" in plugin.error


def test_a_method_that_could_not_be_listed_is_refused():
    class Bare:
        name = "bare"

    registry = Registry()
    plugin = load(registry, "bare", register_methods=lambda register: register_classes(register, Bare))
    assert plugin.error is None
    with pytest.raises(AttrbenchError, match="lacks summary, Options"):
        registry.method("bare")


def test_a_misspelt_hook_is_named():
    plugin = load(Registry(), "typo", register_method=lambda register: None)
    assert "unknown hook 'register_method': did you mean register_methods" in plugin.error


def test_what_registered_before_the_fault_stays():
    def hook(register):
        register_classes(register, Mine)
        raise RuntimeError("later")

    registry = Registry()
    plugin = load(registry, "half", register_methods=hook)
    assert plugin.error == "RuntimeError: later"
    assert registry.method("mine") is Mine


@pytest.mark.parametrize("fault", [RuntimeError("why\nso"), SystemExit(0), ImportError("no module")])
def test_strict_mode_raises_the_first_fault_with_the_names(monkeypatch, fault):
    monkeypatch.setenv("ATTRBENCH_STRICT_PLUGINS", "1")

    def fail():
        raise fault

    with pytest.raises(AttrbenchError, match="plugin bad of dist-bad: ") as caught:
        Registry().load(Plugin("bad", "dist-bad", "1.0"), fail)
    assert "\n" not in str(caught.value)


def test_a_selected_plugin_that_is_not_installed_is_named(monkeypatch):
    from attrbench.plugins.registry import load_registry

    monkeypatch.setenv("ATTRBENCH_LOAD_PLUGINS", "methods,nonesuch")
    registry = load_registry()
    errors = {plugin.name: plugin.error for plugin in registry.plugins if plugin.error}
    assert list(errors) == ["nonesuch"]
    assert "dmin" in registry.names("method")
