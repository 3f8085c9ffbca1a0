"""Write the King James Bible as a language model's three files: real text of the size of Penn Treebank, no download.

    apt-get install bible-kjv-text bible-kjv
    python examples/bible_kjv.py data/kjv
    fastdarts search --space rnn --data data/kjv --unrolled --run runs/kjv
    fastdarts evaluate --data data/kjv --genotype runs/kjv

A line per verse, in lower case, punctuation as tokens of its own. The first 90 % of the verses train, the next 5 %
validate, the last 5 % test. The 10,000 most frequent tokens are kept, <unk> and the end of a line counted; all others
become <unk>. Perplexities are not comparable with those of Penn Treebank.
"""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

VOCABULARY = 10_000


def verses(passage: str) -> list[str]:
    """The verses of a passage (Gen1:1-Rev22:21 is all), tokens separated by blanks."""
    try:
        done = subprocess.run(["bible", "-f", passage], capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit("there is no command bible: install Debian's bible-kjv-text and bible-kjv")
    if done.returncode or done.stderr or not done.stdout:
        said = " ".join(done.stderr.split()) or "nothing"
        sys.exit(
            f"the command bible has no passage {passage!r}, it says {said}: name one such as Gen1:1-Rev22:21, and "
            "install Debian's bible-kjv-text"
        )
    return [
        " ".join(re.findall(r"[a-z0-9'-]+|[^\sa-z0-9]", line.split(" ", 1)[1].lower()))
        for line in done.stdout.splitlines()
    ]


def write(folder: Path, lines: list[str], vocabulary: int = VOCABULARY) -> None:
    """Split the lines and write train.txt, valid.txt and test.txt."""
    first, second = len(lines) * 90 // 100, len(lines) * 95 // 100
    counts = Counter(token for line in lines for token in line.split())
    kept = {token for token, _ in counts.most_common(vocabulary - 2)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", lines[:first]), ("valid", lines[first:second]), ("test", lines[second:])):
        text = "".join(" ".join(t if t in kept else "<unk>" for t in line.split()) + "\n" for line in part)
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    folder, *passage = sys.argv[1:] or sys.exit(__doc__)
    write(Path(folder), verses(passage[0] if passage else "Gen1:1-Rev22:21"))
