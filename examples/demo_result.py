"""What `make demo` has found, in a sentence: `python examples/demo_result.py runs/demo-...`."""

import json
import sys
from pathlib import Path

run = Path(sys.argv[1])
search, evaluation = (json.loads((run / part / "result.json").read_text("utf-8")) for part in ("search", "evaluate"))
print(
    f"In {search['seconds']:.0f} s the search has found a cell; a network of it with {evaluation['parameters']:,} "
    f"parameters, trained for {evaluation['seconds']:.0f} s, takes {evaluation['test_error']:.1f} % of the test digits "
    "for another digit."
)
for part, what in (("search", "how the cell came about"), ("evaluate", "how the network learned")):
    print(f"{what:24}  {(run / part / 'report.html').resolve().as_uri()}")
