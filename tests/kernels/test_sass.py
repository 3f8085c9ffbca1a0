"""The count of instructions by loop, on a disassembly written by hand: two loops in one, copies, labels."""

from pathlib import Path

import pytest

from tests.support.records import more_instructions, recorded, write
from tests.support.sass import parse, regions, written

SOURCE = """\
def kernel():
    before()
    for tile in range(tiles):
        load()
        for tap in range(taps):
            add()
        rarely()
"""


def disassembly(path: Path, *code: tuple[str, int] | str) -> str:
    """A kernel: (instruction, its line in SOURCE), or a label."""
    lines = ['\t.section\t.text.kernel,"ax",@progbits']
    for i, one in enumerate(code):
        if isinstance(one, str):
            lines.append(f"{one}:")
        else:
            lines.append(f'\t//## File "{path}", line {one[1]}')
            lines.append(f"        /*{16 * i:04x}*/               {one[0]} ;")
    return "\n".join([*lines, ".L_end:", "        /*fff0*/   BRA `(.L_end) ;", "        /*fff8*/   NOP ;"])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "by_hand_of_test_sass.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def test_instructions_are_those_of_the_loops_of_the_source(source: Path) -> None:
    body = [("LDS R0, [R1]", 6), ("FFMA R2, R0, R0, R2", 6)]
    code = [("S2R R0, SR_TID.X", 2), ".L_tile", ("LDG.E.128 R4, [R2]", 4), ("BAR.SYNC 0x0", 4)]
    code += [".L_four", *body * 4, ("@P0 BRA `(.L_four)", 5), ".L_one", *body, ("@P1 BRA `(.L_one)", 5)]
    code += [("SHFL.BFLY R1, R1, 0x1", 7), ("@!P0 BRA `(.L_tile)", 3), ("EXIT", 2)]
    [found] = parse(disassembly(source, *code)).values()
    assert len(found) == 1 + 2 + 9 + 3 + 3  # neither the endless loop at the end nor what is behind it
    assert written(regions(found, {"rare": r"rarely\("})) == {
        "": {"all": 2},
        "tile": {"all": 3, "barrier": 1, "global": 1},
        "tile/rare": {"all": 1, "shuffle": 1},
        "tile/tap": {"all": 9 / 4, "fma": 1, "shared": 1},  # the loop of four runs at once, not its remainder too
    }


def test_a_first_run_in_front_of_its_loop_is_a_run_of_the_loop(source: Path) -> None:
    body = [("LDS R0, [R1]", 6), ("FFMA R2, R0, R0, R2", 6)]
    code = [("IADD3 R0, R0, 0x1, RZ", 4), *body, ".L_tap", *body, ("NOP", 6), ("@P0 BRA `(.L_tap)", 5), ("EXIT", 2)]
    [found] = parse(disassembly(source, *code)).values()
    assert written(regions(found, {}))["tap"] == {"all": 4, "fma": 1, "shared": 1}
    assert "fma" not in written(regions(found, {})).get("", {})


def test_more_instructions_than_recorded_are_told(tmp_path: Path) -> None:
    def kernel(**regions: float) -> dict:
        return {"kernel sm_90": {"regions": {name: {"all": count} for name, count in regions.items()}}}

    path = tmp_path / "record.json"
    write(path, "triton 3.8.0", kernel(tile=10, tap=3))
    write(path, "triton 3.6.0", kernel(tile=12, tap=3))
    record = recorded(path, "triton 3.8.0", "python -m tool")
    assert not more_instructions(kernel(tile=10, tap=2), record)
    assert len(more_instructions(kernel(tile=11, tap=3, other=1), record)) == 2
    with pytest.raises(pytest.skip.Exception, match="not triton 4: record it by python -m tool --write"):
        recorded(path, "triton 4", "python -m tool")
