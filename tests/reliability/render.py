"""The counts of the long forms as the table of docs/reliability.md: python tests/reliability/render.py COUNTS PAGE."""

import json
import sys
from pathlib import Path

BEGIN, END = "<!-- counts: written by tests/reliability/render.py -->", "<!-- end of counts -->"


def table(header: list[str], rows: list[list]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(
        f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in line)} |" for line in lines
    )


def read(directory: Path, name: str) -> dict:
    path = directory / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def sections(directory: Path) -> list[str]:
    """What was counted, a table a kind of test, under its heading."""
    found = []
    kills = read(directory, "kills")
    if kills:
        rows = [
            [stage, counts["repeats"], counts["kills"], counts["files"], counts["bytes"]]
            for stage, counts in kills.items()
        ]
        rows.append(["together", *(sum(row[column] for row in rows) for column in (1, 2)), "", ""])
        header = ["stage", "attempts", "killed", "files compared", "bytes a comparison"]
        found.append(f"### Killed at random moments, then repeated: the same bytes\n\n{table(header, rows)}")
    fuzz = [
        (path.stem.removeprefix("fuzz_"), json.loads(path.read_text()))
        for path in sorted(directory.glob("fuzz_*.json"))
    ]
    if fuzz:
        outcomes = ["understood", "skipped and counted", "one line", "refused"]
        rows = [[name, counts["inputs"], *(counts.get(outcome, 0) for outcome in outcomes)] for name, counts in fuzz]
        rows.append(["together", *(sum(row[column] for row in rows) for column in range(1, 6))])
        found.append(f"### Damaged inputs and what became of them\n\n{table(['input', 'tried', *outcomes], rows)}")
    for name, title in (
        ("full_disks", "Full disks: one line, and the repeat with space succeeds"),
        ("damage", "Flipped and truncated files"),
        ("pipeline_kills", "A pipeline killed and started again"),
        ("processes", "Two processes against one"),
    ):
        counts = read(directory, name)
        if counts:
            rows = [
                [key, next(iter(value.values())) if isinstance(value, dict) else value] for key, value in counts.items()
            ]
            found.append(f"### {title}\n\n{table(['what', 'count'], rows)}")
    return found


def by_heading(found: list[str]) -> dict[str, str]:
    return {section.partition("\n")[0]: section.strip() for section in found}


def filled(text: str, found: list[str]) -> str:
    """The page with what was counted; a section of a kind that did not run this time stays."""
    head, _, rest = text.partition(BEGIN)
    inside, _, tail = rest.partition(END)
    before = by_heading(["### " + section for section in inside.split("### ")[1:]])
    return head + BEGIN + "\n" + "\n\n".join({**before, **by_heading(found)}.values()) + "\n" + END + tail


def main(counts: str, page: str) -> None:
    path = Path(page)
    path.write_text(filled(path.read_text(encoding="utf-8"), sections(Path(counts))), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
