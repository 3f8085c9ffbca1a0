"""The prediction: what bounds a launch, worked out by hand, and a record that knows every loop of every kernel."""

import pytest

from fastdarts.bench import prediction
from fastdarts.bench.cases import OURS, WIDTHS, EdgeCase
from fastdarts.bench.prediction import GPUS, LAUNCHED, REPLAYED, issued, predict, runs_of
from fastdarts.bench.traffic import count
from fastdarts.functional import Launch, Run

A100 = GPUS["A100"]
CODE = {  # 10 instructions, and 2 for each of what its loops do
    "registers": 64,
    "shared": 0,
    "regions": {"": {"all": 10}, "tile": {"all": 2}, "tile/tap": {"all": 3}},
}


@pytest.fixture
def known_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "instructions", lambda kind: {"code fp32 sm_80": CODE})


def test_the_longest_of_bytes_windows_and_operations_bounds_a_launch() -> None:
    for bound, launch in {
        "memory": Launch("", 10**9, 1_040_000_000, 10**9, 0, 0),  # 2.04 GB in a millisecond
        "L1": Launch("", 10**9, 0, 128 * 108 * 1_410_000, 0, 0),
        "arithmetic": Launch("", 10**9, 0, 10**9, 108 * 64 * 1_410_000, 156_000_000_000 // 2),
    }.items():
        assert predict(launch, A100, 4) == (pytest.approx(1e-3 + LAUNCHED.gap, rel=1e-6), bound)
        assert predict(launch, A100, 4, REPLAYED)[0] == pytest.approx(1e-3 + REPLAYED.gap, rel=1e-6)
    assert predict(Launch("", 100, 100, 100, 100, 100), A100, 4) == (pytest.approx(LAUNCHED.gap, rel=1e-3), "launch")


def test_instructions_are_those_of_the_multiprocessor_with_most_programs(known_code: None) -> None:
    """216 programs are two a multiprocessor, one more is a third; 16 warps issue 2.4 a clock, 8 only 1.6."""
    trips = {"tile": 100, "tap": 9}
    warp = 10 + 100 * (2 + 9 * 3)
    for programs, most, rate in ((108, 1, 1.6), (216, 2, 2.4), (217, 3, 2.4)):
        found = issued([Run("triton", "code", programs, 8, trips)], A100, 4)
        assert found.warps == programs * 8 * warp
        assert found.seconds == pytest.approx(programs * 8 * warp * most / programs / rate / 1.41e9)
    halves = [Run("triton", "code", 108, 8, trips)] * 2
    assert issued(halves, A100, 4) == issued([Run("triton", "code", 216, 8, trips)], A100, 4)
    launch = Launch("", 0, 0, 0, 0, 0, (Run("triton", "code", 216, 8, trips),))
    assert predict(launch, A100, 4)[1] == "issue"


def test_shared_memory_and_registers_limit_how_many_programs_wait_together(known_code: None) -> None:
    def seconds(shared: int) -> float:
        return issued([Run("triton", "code", 1080, 4, {"tile": 1, "tap": 1}, shared)], A100, 4).seconds

    assert seconds(160 * 1024) == pytest.approx(3 * seconds(0))  # one block of four warps: 0.8 a clock, not 2.4
    assert seconds(100 * 1024) == seconds(160 * 1024) and seconds(80 * 1024) == pytest.approx(1.5 * seconds(0))


def test_a_loop_may_be_named_with_those_around_it() -> None:
    run = Run("triton", "code", 1, 4, {"i_s": 3, "i_s/tap": 25, "tap": 9})
    assert [runs_of(region, run) for region in ("", "i_s", "i_s/tap", "tap")] == [1, 3, 75, 9]
    with pytest.raises(KeyError):
        runs_of("i_s/other", run)


@pytest.mark.parametrize("itemsize", [4, 2])
def test_every_loop_of_every_launch_is_known(itemsize: int) -> None:
    for channels, size in WIDTHS:
        for found in count(EdgeCase(channels, size), OURS).values():
            for launch in found.kernels:
                for gpu in GPUS.values():
                    assert issued(launch.runs, gpu, itemsize).seconds > 0, launch


def test_the_taps_of_a_stage_are_most_of_what_it_issues() -> None:
    """64 images of 32×32 pixels and 16 channels, 8 values a thread: two 3×3 stages and two 5×5."""
    stages = count(EdgeCase(16, 32), OURS)["forward"].kernels[0]
    found = issued(stages.runs, GPUS["H200"], 4)
    [code] = {run.code for run in stages.runs}
    tap = prediction.instructions("triton")[f"{code} fp32 sm_90"]["regions"]["i_p/i_c/tap"]["all"]
    assert 100 < tap < 200
    taps = 2 * (9 + 25) * 64 * 32 * 32 * 16 / (8 * 32) * tap
    assert 0.6 * found.warps < taps < found.warps
