"""`attrbench check`: what ships passes, and what breaks a rule fails at that rule."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from attrbench.cli.check_command import check
from attrbench.conformance import option_checks
from attrbench.conformance.held_features import holdings
from attrbench.conformance.method_check import NAMES, check_method
from attrbench.conformance.option_probes import probes
from attrbench.contracts.options import Spec, build_options, needs_of, parse_spec
from attrbench.evaluation.requests import request_methods
from attrbench.gradients import projected_layers
from attrbench.gradients.sketching.input_projection import WIDTH
from attrbench.plugins.registry import registry
from attrbench_methods.second_order import network_lissa
from tests.conformance.broken import (
    MORE,
    SIX,
    SOUND,
    Cosine,
    CosineScorer,
    Missing,
    Quick,
    failing,
    registry_of,
    relative,
)

QUICK = {"timesteps": "2", "v": "64", "iterations": "8", "sampling_steps": "4", "draws": "8", "checkpoints": "2"}
"""Options that make a shipped method quick to check, where it has them."""
OTHERWISE = (
    "dmin:search=hnsw",
    "dmin:search=faiss",
    "dmin:v=none",
    "dmin:v=none,normalize=false,noise=per-item",
    "trak:v=none",
    "das:v=none",
    "journey-trak:v=none,sampling_steps=5",
    "pixel:similarity=l2",
    "lissa:hessian=ggn,damping=1,iterations=2",
)
"""Searches, whole gradients, products whose noise belongs to the item, and solutions query by query.

Every value of every option is tried beside the usual ones, so that here a few must do.
"""
PROJECTING = ("dmin:sketch=factored", "trak:sketch=factored", "datainf:sketch=factored,blocks=module")


def shipped() -> list[str]:
    found = registry()
    return [name for name in found.names("method") if found.provider("method", name).distribution == "attrbench"]


def report_of(method):
    found = registry_of(method)
    (request,) = request_methods(found, [method.name])
    return check_method(found, request)


def quick_report(text):
    """The report of a shipped method with the given options, and otherwise with those that make it quick."""
    found = registry()
    (spec,) = parse_spec(text)
    model = found.method(spec.name).Options
    usual, needs = build_options("method", spec, model), needs_of(model)
    known = [key for key in model.model_fields if all(need.holds(usual) for need in needs.get(key, ()))]
    quick = {key: value for key, value in QUICK.items() if key in known}
    (request,) = request_methods(found, [str(Spec(spec.name, quick | spec.given))])
    return check_method(found, request)


@pytest.mark.slow
@pytest.mark.parametrize("text", [*shipped(), *OTHERWISE])
def test_shipped_methods_keep_to_the_contract(text, monkeypatch):
    if text in OTHERWISE:
        monkeypatch.setattr(option_checks, "PATIENCE", 0)
    monkeypatch.setattr(network_lissa, "SAMPLE", 16)  # the task has 24 items
    report = quick_report(text)
    if report.unavailable is not None:
        pytest.skip(report.unavailable)
    assert not failing(report)


@pytest.mark.slow
@pytest.mark.parametrize("text", PROJECTING)
def test_methods_keep_to_the_contract_where_layer_inputs_are_projected(text, monkeypatch, caplog):
    """The network of the check is small, so the bounds from which on inputs are projected are as well."""
    monkeypatch.setattr(option_checks, "PATIENCE", 0)
    for bound, least in (("INPUTS", WIDTH), ("OUTPUTS", 1), ("POSITIONS", 2)):
        monkeypatch.setattr(projected_layers, bound, least)
    assert not failing(quick_report(text))
    assert "no layer is wide enough" not in caplog.text


@pytest.mark.parametrize("name", SIX)
def test_a_broken_method_fails_at_what_it_breaks_and_nowhere_else(name):
    method, where, line = SIX[name]
    found = failing(report_of(method))
    assert found.keys() == {where}, found
    assert line in found[where]


@pytest.mark.parametrize("name", MORE)
def test_every_other_check_notices_what_it_is_for(name):
    method, where, line = MORE[name]
    np.random.seed(0)
    found = failing(report_of(method))
    assert line in found.get(where, ""), found


@pytest.mark.parametrize("method", SOUND, ids=lambda method: method.name)
def test_a_sound_method_passes_every_check(method):
    report = report_of(method)
    assert not failing(report)
    assert tuple(finding.check for finding in report.findings) == NAMES
    assert report.status == "passed"


def test_what_fails_says_what_to_do():
    for finding in report_of(SIX["hot"][0]).findings:
        assert bool(finding.advice) == (finding.status == "failed")


def test_every_unvalidated_value_is_named():
    line = failing(report_of(SIX["hot"][0]))["options"]
    for part in ("temperature=0: ", "temperature=nan: ", "temperature=inf: ", "seed=-1: ValueError"):
        assert (part in line) == (part != "temperature=inf: ")  # scores over infinity are 0


def test_a_check_starts_from_the_methods_quick_options_and_the_users_before_them():
    found = registry_of(Quick)
    plain, given = (check_method(found, request) for request in request_methods(found, ["hasty", "hasty:steps=3"]))
    assert (plain.label, given.label) == ("hasty:steps=1", "hasty:steps=3")
    assert (plain.quick, given.quick) == ({"steps": "1"}, {})


def test_a_small_change_is_told_as_rounding_and_never_as_nothing():
    class NearlySteady(CosineScorer):
        def scores(self, query):
            return super().scores(query) * (1 + 4e-4 * np.arange(len(query.ids), dtype=np.float32))[:, None]

    (found,) = [one for one in report_of(relative("nearly", NearlySteady)).findings if one.status == "failed"]
    assert found.check == "batches" and "changes by 2e-03 of its query's largest (1e-04 is allowed)" in found.found
    assert "0.0%" not in found.found
    assert found.advice.startswith("so small a change is rounding that the method amplifies")


def test_values_that_would_take_too_long_are_left_out_and_counted(monkeypatch):
    monkeypatch.setattr("attrbench.conformance.option_checks.PATIENCE", 0)
    method = relative("many-options", CosineScorer, Options=registry().method("dmin").Options)
    (finding,) = [finding for finding in report_of(method).findings if finding.check == "options"]
    assert "were not tried" in finding.found and finding.status == "passed"


def test_a_method_without_its_weights_is_unavailable_and_has_not_failed():
    report = report_of(Missing)
    assert (report.status, report.findings) == ("unavailable", ())
    assert "fetch weights" in report.unavailable


def test_probes_cover_choices_flags_none_and_the_edges_of_numbers():
    found = {str(probe) for probe in probes(registry().method("dmin").Options)}
    assert {"search=hnsw", "normalize=false", "v=none", "v=-1", "v=0", "timesteps=many"} <= found
    assert not any("0000" in probe for probe in found)  # lengths are memory


def test_holdings_count_each_memory_once_wherever_it_hides():
    array = np.zeros(1000, np.float32)

    class Inner:
        __slots__ = ("view",)

    inner = Inner()
    inner.view = array[10:20]
    outer = type("Outer", (), {})()
    outer.parts = {"a": [array, inner], "call": lambda: array}
    outer.other = np.ones(500, np.int8)
    assert holdings(outer, "scorer").bytes == 4000 + 500


@pytest.fixture
def command(monkeypatch):
    def run(*arguments, methods=()):
        app = typer.Typer()
        app.command()(check)
        monkeypatch.setattr("attrbench.plugins.registry.registry", lambda: registry_of(*methods))
        return CliRunner().invoke(app, [*arguments, "--device", "cpu"])

    return run


def test_command_exits_with_0_where_all_is_well(command):
    done = command("cosine:steps=1", methods=[Cosine])
    assert done.exit_code == 0, done.output
    assert "cosine:steps=1" in done.output and "13 passed" in done.output


def test_command_says_which_options_are_quick_ones_of_the_method(command):
    done = command("hasty", methods=[Quick])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("hasty:steps=1\n")
    assert "with steps=1, which the method names for checks (Method.quick), not with its defaults" in done.output
    assert "Method.quick" not in command("hasty:steps=2", methods=[Quick]).output


def test_command_takes_several_names(command):
    done = command("cosine:steps=1", "hasty", "--json", methods=[Cosine, Quick])
    assert [report["method"] for report in json.loads(done.stdout)] == ["cosine:steps=1", "hasty:steps=1"]


def test_command_exits_with_1_and_advice_where_a_check_fails(command):
    method, where, _ = SIX["wrong-sign"]
    done = command("wrong-sign", methods=[method])
    assert done.exit_code == 1
    assert f"failed   {where}" in done.output and "-> larger must mean more influential" in done.output


def test_command_exits_with_1_where_the_method_is_unavailable_unless_all_were_asked_for(command):
    done = command("missing", methods=[Missing])
    assert done.exit_code == 1 and "unavailable: no weights at hand" in done.output
    assert command("all", methods=[Missing]).exit_code == 0


def test_command_gives_json(command):
    done = command("all", "--json", methods=[SIX["hoarder"][0], Missing])
    found = {report["method"]: report for report in json.loads(done.stdout)}
    assert done.exit_code == 1
    assert {name: report["status"] for name, report in found.items()} == {"hoarder": "failed", "missing": "unavailable"}
    (finding,) = [finding for finding in found["hoarder"]["checks"] if finding["status"] == "failed"]
    assert finding["check"] == "storage" and finding["advice"] and "declared" in finding["found"]


def test_command_refuses_an_unknown_method_before_torch_is_needed(command):
    done = command("cosin", methods=[Cosine])
    assert "did you mean cosine" in str(done.exception)


def test_the_command_is_light_to_import():
    code = "import sys, attrbench.cli.check_command; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
