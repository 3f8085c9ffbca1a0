"""The emulated device itself: what its functions compute, and that faults of a kernel do not pass."""

import ctypes
import os
import subprocess
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.emulated import ADDRESS, EMULATOR, THREAD, compile_emulated, succeeded

SOURCE = EMULATOR / "programs" / "device.cu"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, subprocess.Popen]]:
    """A library, and programs by their sanitizer; the compilers are started at once."""
    folder = tmp_path_factory.mktemp("device")
    options = {
        "library": ("-O2", "-shared"),
        "none": ("-O2",),
        THREAD: (f"-fsanitize={THREAD}", "-O1", "-g"),
        ADDRESS: (f"-fsanitize={ADDRESS}", "-fno-sanitize-recover=all", "-O1", "-g"),
    }
    return {name: (folder / name, compile_emulated(folder / name, SOURCE, *own)) for name, own in options.items()}


@pytest.fixture(scope="module")
def device(programs: dict[str, tuple[Path, subprocess.Popen]]) -> ctypes.CDLL:
    library, compiler = programs["library"]
    succeeded(compiler)
    return ctypes.CDLL(str(library))


def pointer(t: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(t.data_ptr())


def test_every_thread_knows_its_place(device: ctypes.CDLL) -> None:
    grid, block = (3, 2, 4), (5, 3, 2)
    out = torch.full((24 * 30, 6), -1, dtype=torch.int32)
    device.places(*((ctypes.c_uint * 3)(*sizes) for sizes in (grid, block)), pointer(out))
    sides = [torch.arange(side) for side in (*grid[::-1], *block[::-1])]  # x runs fastest, within a block first
    expected = torch.cartesian_prod(*sides)[:, [2, 1, 0, 5, 4, 3]]
    assert torch.equal(out, expected.int())


def test_shared_memory_is_that_of_a_block(device: ctypes.CDLL) -> None:
    x = torch.randn(50, 256)
    out = torch.empty_like(x)
    device.turn(50, 256, pointer(x), pointer(out))
    assert torch.equal(out, x.flip(1) + 1 + x)


def test_shared_memory_is_nan_at_the_beginning_of_every_block(device: ctypes.CDLL) -> None:
    out = torch.zeros(50, 64)
    device.poison(50, pointer(out))
    assert out.isnan().all()


def test_shuffles_and_votes(device: ctypes.CDLL) -> None:
    out, lane = torch.full((27, 32), -1, dtype=torch.float64), torch.arange(32)
    device.shuffle(pointer(out))
    shuffles = torch.stack(
        (
            torch.full((32,), 5),
            lane // 8 * 8 + (lane + 1) % 8,
            torch.where(lane < 3, lane, lane - 3),
            torch.where(lane % 16 > 12, lane, lane + 3),
            lane ^ 9,
            torch.where(lane % 2 == 1, lane ^ 2, -1),
        )
    )
    for type_ in range(4):
        assert torch.equal(out[6 * type_ : 6 * type_ + 6], shuffles.double()), type_
    assert torch.equal(out[24], 2.0 * (lane ^ 1) + 0.5)
    assert (out[25] == sum(1 << i for i in range(0, 32, 3))).all() and (out[26] == 5).all()


PRODUCTS = [(torch.float32, 8), (torch.bfloat16, 16), (torch.float16, 16), (torch.bfloat16, 8), (torch.float16, 8)]


@pytest.mark.parametrize(("dtype", "depth"), PRODUCTS)
def test_products_of_a_warp(dtype: torch.dtype, depth: int, device: ctypes.CDLL) -> None:
    """Small whole numbers, all different: their products are exact, and every wrong place shows."""
    a = torch.randperm(16 * depth).view(16, depth) - 8.0 * depth
    b = torch.randperm(depth * 8).view(depth, 8) - 4.0 * depth
    d = torch.randn(16, 8).round()
    expected = d + a @ b
    device.product(PRODUCTS.index((dtype, depth)), pointer(a), pointer(b), pointer(d))
    assert torch.equal(d, expected)


def test_matrices_out_of_shared_memory(device: ctypes.CDLL) -> None:
    """A lane gets two neighbours of a row, or of a column."""
    matrices = torch.randperm(4 * 8 * 8).view(4, 8, 8).short()
    out = torch.full((2, 32, 4), -1, dtype=torch.int32)
    device.matrices(pointer(matrices), pointer(out))
    pairs = out.view(torch.int16).view(2, 8, 4, 4, 2)  # ways, rows, pairs of a row, matrices, elements of a pair
    assert torch.equal(pairs[0].permute(2, 0, 1, 3).reshape(4, 8, 8), matrices)
    assert torch.equal(pairs[1].permute(2, 0, 1, 3).reshape(4, 8, 8), matrices.mT)


def test_tf32_products_ignore_thirteen_bits_and_rounding_is_away_from_zero_at_ties(device: ctypes.CDLL) -> None:
    a, b, d = torch.zeros(16, 8), torch.zeros(8, 8), torch.zeros(16, 8)
    a[0, 0], b[0, 0] = -(2 - 2.0**-23), 1.0
    device.product(0, pointer(a), pointer(b), pointer(d))
    assert d[0, 0] == -(2 - 2.0**-10) and d.count_nonzero() == 1
    step = 2.0**-10
    pairs = [(1 + step / 2, 1 + step), (-1 - step / 2, -1 - step), (1 + step / 2 - 2.0**-23, 1.0), (2 - step / 2, 2.0)]
    pairs += [(float("inf"), float("inf")), (0.0, 0.0)]
    device.to_tf32.argtypes, device.to_tf32.restype = [ctypes.c_float], ctypes.c_uint32
    for x, expected in pairs:
        assert device.to_tf32(x) == torch.tensor(expected).view(torch.int32).item() % 2**32, x


def test_a_barrier_takes_less_than_a_microsecond_a_thread(device: ctypes.CDLL) -> None:
    """It takes about 0.02; threads of the system would take 10."""
    device.barriers(3, 256, 1)
    begin = time.process_time()
    device.barriers(3, 256, 1000)
    assert time.process_time() - begin < 1e-6 * 3 * 256 * 1000


FAULTS = [  # what main() of device.cu knows, what to run it under, and what must be said
    ("no fault", "none", ""),
    ("no fault", THREAD, ""),
    ("no fault", ADDRESS, ""),
    ("two blocks write one place", THREAD, "data race"),
    ("shared memory is read too early", THREAD, "data race"),
    ("a barrier that is left out", THREAD, "data race"),
    ("more than the dynamic memory", ADDRESS, "heap-buffer-overflow"),
    ("barrier in a branch", "none", "threads wait at a barrier that others have left for good (32 of 64)"),
    ("barrier in a branch", THREAD, "threads wait at a barrier that others have left for good (32 of 64)"),
    ("different barriers", "none", "threads wait at different barriers ("),
    ("a lane that left", "none", "waits for lanes of its warp that left or never were (00000008)"),
    ("a lane that never was", "none", "waits for lanes of its warp that left or never were (ff000000)"),
    ("lanes at a barrier", "none", "lanes wait for lanes of their warp that wait at a barrier or have left (16 of 32)"),
    ("different operations", "none", "wait for one another in different operations"),
    ("a mask without the lane", "none", "lane 8 waits for lanes 000000ff of its warp, without itself"),
    ("a lane outside the mask", "none", "lane 0 reads from lane 8, which is not among lanes 000000ff"),
    ("too much shared memory", "none", "a launch with 49153 bytes of dynamic shared memory, of a kernel that may have"),
    ("more than a device has", "none", "a kernel that may have 232449 bytes of dynamic shared memory"),
    ("too many threads", "none", "a launch of blocks of 32 x 33 x 1 threads"),
]


@pytest.mark.parametrize(("fault", "sanitizer", "report"), FAULTS)
def test_faults_do_not_pass(
    fault: str, sanitizer: str, report: str, programs: dict[str, tuple[Path, subprocess.Popen]]
) -> None:
    program, compiler = programs[sanitizer]
    succeeded(compiler)
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run([program, fault], capture_output=True, text=True, timeout=60, env=environment)
    if report:
        assert done.returncode != 0 and report in done.stderr, done.stderr
    else:
        assert done.returncode == 0 and done.stdout == "done\n" and not done.stderr, done.stderr
