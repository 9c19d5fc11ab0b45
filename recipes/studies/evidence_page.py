"""Put a study's numbers into Markdown pages, where they ask for them.

A page asks with a pair of comments; what stands between them is replaced:

    <!-- evidence magnetic_tile systems -->
    <!-- end -->

The words are the study's name and one of its tables (`studies.evidence_tables.all_tables`), or `gain` and an
objective, which gives one line: its gain over SFT-SAM on every split.

    python -m studies.evidence_page docs/objectives.md docs/evidence.md --from DIR/evidence.json ...
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.design import SFT
from studies.evidence_tables import all_tables, gain_words, title_of
from visionsam_hf.data.errors import UserError

_BLOCK = re.compile(r"(<!-- evidence (\S+) ([^\n]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(page: str, studies: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with every block of these studies replaced; blocks of other studies stay as they are.

    Args:
        page: Markdown.
        studies: name -> what `evidence.json` holds.

    Raises:
        UserError: a block that its study has nothing for.
    """

    def replaced(match: re.Match) -> str:
        opening, name, block, closing = match.groups()
        if name not in studies:
            return match[0]
        return f"{opening}{_text(studies[name], name, block)}\n{closing}"

    return _BLOCK.sub(replaced, page)


def _text(evidence: Mapping[str, Any], name: str, block: str) -> str:
    if block.startswith("gain "):
        objective = block.removeprefix("gain ")
        parts = []
        for split, systems in evidence.get("objectives", {}).items():
            if objective not in systems:
                raise UserError(f"evidence {name}: has no objective '{objective}'; it has {', '.join(systems)}")
            gain = gain_words(systems[objective]["difference"].get(SFT))
            parts.append(f"{title_of(split)} {gain}" if gain else "")
        return f"IoU points against SFT-SAM: {'; '.join(filter(None, parts))}."
    tables = all_tables(evidence)
    if block not in tables:
        raise UserError(f"evidence {name}: has no table '{block}'; it has {', '.join(tables)}, and 'gain OBJECTIVE'")
    return tables[block]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill pages in place; returns the exit code."""
    parser = argparse.ArgumentParser(description="Put a study's numbers into Markdown pages.")
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--from", dest="studies", nargs="+", type=Path, required=True, metavar="EVIDENCE_JSON")
    given = parser.parse_args(arguments)
    try:
        found = [json.loads(path.read_text(encoding="utf-8")) for path in given.studies]
        studies = {evidence["name"]: evidence for evidence in found}
        for path in given.pages:
            path.write_text(fill(path.read_text(encoding="utf-8"), studies), encoding="utf-8")
    except (OSError, ValueError, KeyError, UserError) as error:
        print(f"evidence_page: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
