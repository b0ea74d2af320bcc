"""Traces with known answers: whose time a moment is, whose scope an operation has."""

import jax
import pytest

from jaxrobust import profiling
from jaxrobust.errors import UserError
from jaxrobust.profiling import Operation, Span, Trace

PROGRAM = """\
HloModule jit_train_chunk, is_scheduled=true

%cond.1 (p.1: (s32[], f32[4])) -> pred[] {
  %p.1 = (s32[], f32[4]{0}) parameter(0)
  ROOT %compare.1 = pred[] compare(%p.1, %p.1), direction=LT
}

%attack_body.2 (p.2: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p.2 = (s32[], f32[4]{0}) parameter(0)
  %copy.2 = f32[4]{0} copy(%p.2)
  %sign.2 = f32[4]{0} fusion(%copy.2), kind=kLoop, calls=%fused.2, \
metadata={op_name="jit(train_chunk)/while/body/select/attack/while/body/sign"}
  ROOT %tuple.2 = (s32[], f32[4]{0}) tuple(%copy.2, %sign.2)
}

ENTRY %main.3 (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0), metadata={op_name="x"}
  %while.3 = (s32[], f32[4]{0}) while(%x), condition=%cond.1, body=%attack_body.2, \
metadata={op_name="jit(train_chunk)/while/body/select/attack/while"}
  %dot.3 = f32[4]{0} dot(%x, %x), \
metadata={op_name="jit(train_chunk)/while/body/select/score/dot_general"}
  %top.3 = f32[4]{0} custom-call(%dot.3), custom_call_target="TopK", \
metadata={op_name="jit(train_chunk)/while/body/select/top_k"}
  %add.3 = f32[4]{0} add(%x, %x), \
metadata={op_name="jit(train_chunk)/while/body/update/transpose(jvp())/mul"}
  ROOT %copy.3 = f32[4]{0} copy(%x)
}
"""


MODULE = "jit_train_chunk"


@pytest.mark.parametrize(
    "op_name, phase",
    [
        ("jit(f)/while/body/update/jvp()/dot_general", "update"),
        ("jit(f)/select/attack/while/body/sign", "attack"),
        ("jit(f)/select/top_k", "select"),
        ("jit(f)/transpose(jvp(update))/mul", "update"),
        ("select/score/reduce_sum", "score"),
        ("jit(f)/add;jit(f)/update/mul", "update"),
        ("jit(f)/jit(select)/select_n", ""),  # jnp.select is no scope of ours
        ("jit(f)/while/body/select", ""),  # nor is a primitive
        ("jit(f)/update_slice/add", ""),
        ("x", ""),
    ],
)
def test_the_innermost_scope_counts(op_name, phase):
    assert profiling.scope_phase(op_name) == phase


def test_operations_without_a_scope_take_that_of_the_loop_they_stand_in():
    program = profiling.read_program(PROGRAM)
    phases = {name: operation.phase for name, operation in program.items()}
    assert phases["copy.2"] == phases["compare.1"] == phases["sign.2"] == "attack"
    assert phases["dot.3"] == "score" and phases["top.3"] == "select"
    assert phases["add.3"] == "update" and phases["copy.3"] == ""
    assert [name for name, op in program.items() if op.container] == ["while.3"]


def test_a_trace_of_known_shares():
    operations = [
        Span("while.3", 10, 40),  # 5 by itself: sign and copy leave them
        Span("sign.2", 12, 32),
        Span("copy.2", 32, 37),
        Span("dot.3", 40, 50),
        Span("top.3", 50, 55),
        Span("add.3", 60, 80),
        Span("copy.3", 80, 82),
        Span("unknown", 82, 84),
        Span("add.3", 95, 120),  # 5 of these within the window
        Span("dot.3", -20, 0),
    ]
    host = [Span("host/feed", 0, 20), Span("host/feed", 90, 130)]
    trace = Trace([Span("traced", 0, 100)], {"cpu": operations}, host)
    found = profiling.summarise(trace, profiling.read_program(PROGRAM))
    assert found["shares"] == pytest.approx(
        {"attack": 0.30, "score": 0.10, "select": 0.05, "update": 0.25, "other": 0.04}
        | {"host": 0.26}
    )
    assert found["busy"] == pytest.approx(0.74)
    assert found["seconds"] == pytest.approx(100e-9)
    assert found["host_seconds"] == pytest.approx({"feed": 30e-9})
    largest = {row["name"]: (row["phase"], row["calls"]) for row in found["operations"]}
    assert largest["add.3"] == ("update", 2) and largest["unknown"] == ("other", 1)
    shares = [row["share"] for row in found["operations"]]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(0.25)


def test_probes_are_left_out():
    window, probe = Span("traced", 0, 100), Span("host/probe", 40, 60)
    rest = [Span("traced", 0, 40), Span("traced", 60, 100)]
    assert profiling.without(window, [probe]) == rest
    operations = [Span("dot.3", 30, 50), Span("add.3", 58, 90)]
    trace = Trace(rest, {"cpu": operations}, [])
    found = profiling.summarise(trace, profiling.read_program(PROGRAM))
    shares = found["shares"]
    assert (shares["score"], shares["update"]) == pytest.approx((10 / 80, 30 / 80))
    assert found["seconds"] == pytest.approx(80e-9)


@pytest.mark.parametrize(
    "holes, left",
    [
        ([], [(10, 20)]),
        ([(0, 12), (11, 13)], [(13, 20)]),
        ([(18, 30)], [(10, 18)]),
        ([(0, 40)], []),
        ([(40, 50), (0, 5)], [(10, 20)]),
    ],
)
def test_holes_may_overlap_and_reach_out(holes, left):
    found = profiling.without(Span("w", 10, 20), [Span("h", *hole) for hole in holes])
    assert found == [Span("w", *part) for part in left]


def test_operations_that_run_at_once_share_the_time():
    spans = [Span("a", 0, 10), Span("b", 4, 10), Span("b", 6, 12)]
    taken = profiling.time_of_each(spans, {})
    assert taken == pytest.approx({"a": 4 + 1 + 4 / 3, "b": 1 + 8 / 3 + 2})
    assert sum(taken.values()) == pytest.approx(12)


def test_a_loop_has_what_its_body_leaves_even_from_another_thread():
    program = {"loop": Operation("", True), "inner": Operation("", True)}
    spans = [Span("loop", 0, 10), Span("inner", 2, 8), Span("leaf", 3, 5)]
    taken = profiling.time_of_each(spans, program)
    assert taken == pytest.approx({"loop": 4, "inner": 4, "leaf": 2})


def test_two_devices_are_averaged():
    program = {"dot": Operation("attack", False)}
    devices = {"gpu0": [Span("dot", 0, 10)], "gpu1": [Span("dot", 0, 5)]}
    found = profiling.summarise(Trace([Span("traced", 0, 10)], devices, []), program)
    assert found["shares"]["attack"] == pytest.approx(0.75)
    assert found["shares"]["host"] == pytest.approx(0.25)


def test_a_window_without_operations_is_all_the_hosts():
    found = profiling.summarise(Trace([Span("traced", 0, 10)], {}, []), {})
    assert found["shares"]["host"] == 1 and found["operations"] == []


def gpu_trace(window="traced"):
    """As a GPU leaves it: kernels in streams, and the same time told again."""

    def event(kind, start, length, op="", module=MODULE):
        said = f'stats {{ metadata_id: 1 str_value: "{op}" }}' if op else ""
        said += f' stats {{ metadata_id: 2 str_value: "{module}" }}'
        when = f"offset_ps: {start * 1000} duration_ps: {length * 1000}"
        return f"events {{ metadata_id: {kind} {when} {said} }}"

    def plane(name, **lines):
        told = [
            f'lines {{ name: "{line.replace("_", " ")}" {" ".join(events)} }}'
            for line, events in lines.items()
        ]
        names = ["", window, "host/feed", "kernel", "memcpy32"]
        told += [
            f'event_metadata {{ key: {i} value {{ id: {i} name: "{x}" }} }}'
            for i, x in enumerate(names)
        ]
        told += [
            f'stat_metadata {{ key: {i} value {{ id: {i} name: "{x}" }} }}'
            for i, x in enumerate(["", "hlo_op", "hlo_module"])
        ]
        return f'planes {{ name: "{name}" {" ".join(told)} }}'

    host = [event(1, 0, 100), event(2, 0, 7), event(3, 0, 90, "sign.2")]
    stream = [event(3, 10, 30, "sign.2"), event(3, 40, 20, "add.3"), event(4, 70, 5)]
    stream += [event(3, 80, 10, "add.3", "jit_another")]
    device = plane("/device:GPU:0", Stream_7=stream, XLA_Modules=[event(3, 0, 90)])
    return plane("/host:CPU", python=host) + device


@pytest.mark.skipif(
    not hasattr(jax.profiler, "ProfileData"), reason="this jax cannot read traces"
)
def test_the_kernels_of_a_gpu_count_once(tmp_path):
    folder = tmp_path / "plugins/profile/now"
    folder.mkdir(parents=True)
    write = jax.profiler.ProfileData.text_proto_to_serialized_xspace
    (folder / "vm.xplane.pb").write_bytes(write(gpu_trace()))
    trace = profiling.read_trace(tmp_path, MODULE)
    found = profiling.summarise(trace, profiling.read_program(PROGRAM))
    assert found["shares"] == pytest.approx(
        {"attack": 0.30, "score": 0, "select": 0, "update": 0.20, "other": 0.15}
        | {"host": 0.35}
    )
    assert found["host_seconds"] == pytest.approx({"feed": 7e-9})
    (folder / "vm.xplane.pb").write_bytes(write(gpu_trace("another")))
    with pytest.raises(UserError, match="no event 'traced'"):
        profiling.read_trace(tmp_path, MODULE)


def test_a_folder_without_a_trace(tmp_path):
    with pytest.raises(UserError, match="profile.num_steps"):
        profiling.read_trace(tmp_path, MODULE)


def test_peaks_are_told_by_the_devices_own_names():
    assert profiling.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert profiling.peak_flops("NVIDIA H100 PCIe") == 756e12
    assert profiling.peak_flops("TPU v5 lite") < profiling.peak_flops("TPU v5")
    assert profiling.peak_flops("cpu") == 0
