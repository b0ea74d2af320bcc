"""A traced run: shares of every phase in the report, whole chunks, no compilation."""

import json
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from jaxrobust import profiling
from jaxrobust.profiling import PHASES
from jaxrobust.report.run import read_run
from jaxrobust.report.sections.profile import phase_shares
from jaxrobust.tasks.tracing import Tracer
from jaxrobust.workdir import Workdir
from tests.runs import assert_not_redone, assert_one_line_mistake

pytestmark = pytest.mark.skipif(
    not hasattr(jax.profiler, "ProfileData"), reason="this jax cannot read traces"
)
RECIPE = "--config=configs/data_selection.py:smoke"
# Selecting before the attack has all phases; a run is two chunks of 4 steps.
OPTIONS = (
    "--config.compare=('before_50',)",
    "--config.profile.start_step=1",
    "--config.profile.num_steps=2",
)


@pytest.fixture(scope="module")
def traced(finished):
    """A finished run with a trace."""
    return finished("data_selection", *OPTIONS)


@pytest.fixture(scope="module")
def summary(traced):
    """What profile.json says."""
    return json.loads((traced / "profile.json").read_text())


def test_the_shares_of_all_phases_and_the_host_sum_to_one(summary):
    shares = summary["shares"]
    assert set(shares) == {*PHASES, "other", "host"}
    assert all(0 <= share <= 1 for share in shares.values())
    assert all(shares[phase] > 0 for phase in PHASES)
    assert sum(shares.values()) == pytest.approx(1)
    assert summary["busy"] == pytest.approx(1 - shares["host"])


def test_most_operations_have_a_name(summary):
    """A scope that is misspelt, or lost by the compiler, would show as "other".

    Counted, not timed: on a busy machine one operation may take half of such a trace.
    """
    calls = Counter()
    for row in summary["operations"]:
        calls[row["phase"]] += row["calls"]
    assert calls["other"] < 0.5 * sum(calls.values())
    assert calls["attack"] > calls["score"]


def test_whole_chunks_after_the_one_that_compiles(traced, summary):
    assert (summary["first_step"], summary["num_steps"]) == (4, 4)
    log = (traced / "log.txt").read_text()
    assert "traced steps 4 to 8 of seed0/before_50-original (asked: 2 from 1" in log


def test_the_trace_has_one_operation_for_each_step_of_the_attack(traced, summary):
    """10 steps of PGD in each of 4 training steps: 40 calls, whatever they took."""
    calls = {row["calls"] for row in summary["operations"] if row["phase"] == "attack"}
    assert 40 in calls and max(calls) % 40 == 0
    trace = profiling.read_trace(traced / "profile", "jit_train_chunk")
    ran = [span for spans in trace.devices.values() for span in spans]
    begin = trace.windows[0].start
    assert all(span.end > begin for span in ran), "before the window"


def test_the_report_names_the_shares(traced, summary):
    text = (traced / "report.md").read_text()
    section = text.partition("## Profile of training steps")[2].partition("\n## ")[0]
    for phase in (*PHASES, "host"):
        (line,) = [x for x in section.splitlines() if x.startswith(f"| {phase} |")]
        assert f"{100 * summary['shares'][phase]:.1f}" in line
    assert "TFLOP/s" in section and "peak is not known" in section


def test_the_report_says_where_the_scoring_of_a_pool_is(traced):
    """In a batch it is in the trace, of a pool it is not."""
    run = read_run(traced)
    (row, *rest) = run.results["rows"]
    told = lambda rows: str(phase_shares(replace(run, results={"rows": rows})))
    assert "between steps" not in told([row, *rest])
    assert "between steps" in told([{**row, "score_seconds": 1.0}, *rest])


def test_a_run_that_is_called_again_is_not_traced_again(traced, tmp_path):
    workdir = assert_not_redone(traced, tmp_path, RECIPE, *OPTIONS)
    before, after = (len([*w.rglob("*.xplane.pb")]) for w in (traced, workdir))
    assert before == after == 1


def compiled_under(name):
    """The text of one and the same program, but for the name of its operation."""
    function = lambda x: jax.named_scope(name)(jnp.tanh)(x @ x)
    return jax.jit(function).lower(jnp.ones((3, 3))).compile().as_text()


@pytest.mark.skipif(not jax.config.jax_compilation_cache_dir, reason="no cache")
def test_a_trace_has_the_names_of_today_though_the_cache_has_others(tmp_path):
    workdir = Workdir(str(tmp_path / "run"), {})
    tracer = Tracer(workdir, start_step=0, num_steps=1)
    assert "/before/" in compiled_under("before")
    assert "/before/" in compiled_under("today"), "the cache tells names apart"
    tracer.before_chunk("stage", executable=None, state=None, step=0, count=1)
    assert "/today/" in compiled_under("today")
    tracer.after_chunk(None, last=True)
    assert not jax.config.jax_compilation_cache_include_metadata_in_key


def test_nothing_is_traced_unless_asked(smoke):
    assert not (smoke / "profile").exists() and not (smoke / "profile.json").exists()
    assert "Profile of training" not in (smoke / "report.md").read_text()


def test_the_flag_of_earlier_versions_names_its_successor(tmp_path):
    given = (RECIPE, "--profile_dir=trace")
    assert_one_line_mistake(tmp_path / "run", given, "--config.profile.num_steps")
