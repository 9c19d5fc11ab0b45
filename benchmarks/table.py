"""Put the benchmarks' JSON lines into docs/performance.md, between its two markers.

    python benchmarks/table.py RESULTS.jsonl [docs/performance.md]

Without a page the text goes to standard output.
"""

import json
import sys
from pathlib import Path

_BEGIN, _END = "<!-- measured: begin -->", "<!-- measured: end -->"


def render(results: list[dict]) -> str:
    """The Markdown of a list of benchmark lines."""
    lines = []
    rows = [(row, result["short"]) for result in results for row in result.get("rows", [])]
    if rows:
        lines += ["| what | ours | against | theirs | times faster | target |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {row['what']} | {row['ours']:.4g} | {row['against']} | {row['theirs']:.4g} | **{row['times']:.2f}** |"
            f" {'' if short else _target(row)} |"
            for row, short in rows
        ]
        lines.append("")
    for result in results:
        lines += _details(result)
    machines = {json.dumps(result["machine"], sort_keys=True): result["machine"] for result in results}
    for machine in {
        (m["device"], m["cores"], m["threads"], m["torch"], m["transformers"]): m for m in machines.values()
    }.values():
        lines.append(
            f"Machine: {machine['device']}, {machine['cores']} cores, {machine['threads']} threads, load"
            f" {machine['load']}; torch {machine['torch']}, transformers {machine['transformers']}."
        )
    if any(result["short"] for result in results):
        lines.append("Some of these are short forms, which say that a benchmark works and no more.")
    return "\n".join(lines)


def _target(row: dict) -> str:
    if "target" not in row:
        return ""
    return f"{row['target']:g}, {'met' if row['times'] >= row['target'] else 'missed'}"


def _details(result: dict) -> list[str]:
    name = result["benchmark"]
    lines = []
    if "floor_seconds" in result:
        rates = result["rates"]
        floors = ", ".join(f"{key} {value:g} s" for key, value in result["floor_seconds"].items())
        lines.append(
            f"Floor of `{name}` ({result['shape']}): {floors}, at the measured {rates['float32_gflops']:g} GFLOP/s in float32,"
            f" {rates['bfloat16_gflops']:g} in bfloat16, {rates['copy_gbytes']:g} GB/s."
        )
    if "relative_error" in result:
        lines.append(f"Embeddings differ from float32 by {100 * result['relative_error']:.2f}% in norm.")
    if "loading_share" in result:
        lines.append(
            f"Loading a sample takes {1000 * result['loading_seconds_a_sample']:.2g} ms, {100 * result['loading_share']:.1f}%"
            " of its training step."
        )
    if name == "memory":
        few, many = result["resident_mb"]
        lines.append(
            f"Resident memory of training grows by {result['growth_mb']['all']} MB ({result['growth_mb']['anonymous']} MB"
            f" without mapped files) from {few} to {many} cached images; target: below {result['target_mb']:g} MB."
        )
    if name == "scaling":
        lines.append(
            f"Two processes of one thread: {result['two_processes_times']} times the throughput of one (target"
            f" {result['two_processes_target']})."
        )
        lines += ["", "| boxes an image | s a box | stock, s a box |", "|---|---|---|"]
        lines += [
            f"| {count} | {side['fast']:.4g} | {side['stock']:.4g} |"
            for count, side in result["seconds_a_box_by_boxes_an_image"].items()
        ]
        lines += ["", "| cached images | s a sample |", "|---|---|"]
        lines += [f"| {count} | {value:.4g} |" for count, value in result["seconds_a_sample_by_images"].items()]
    return [*lines, ""] if lines else []


def main() -> None:
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        raise SystemExit(2)
    results = [
        json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines() if line.startswith('{"benchmark"')
    ]
    text = render(results)
    if len(sys.argv) == 2:
        print(text)
        return
    page = Path(sys.argv[2])
    before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
