import json

from render import BEGIN, END, filled, sections


def test_kinds_that_did_not_run_keep_their_counts(tmp_path):
    def page(text, **counts):
        directory = tmp_path / "-".join(counts)
        directory.mkdir()
        for name, content in counts.items():
            (directory / f"{name}.json").write_text(json.dumps(content))
        return filled(text, sections(directory))

    empty = f"# Page\n{BEGIN}\n{END}\nEnd\n"
    first = page(empty, kills={"sft": {"repeats": 20, "kills": 19, "files": 7, "bytes": 100}}, damage={"weights": 3})
    second = page(first, fuzz_yaml={"inputs": 9, "refused": 9})
    assert "| sft | 20 | 19 | 7 | 100 |" in second and "| weights | 3 |" in second and "| yaml | 9 |" in second
    third = page(second, damage={"weights": 5}, full_disks={"sft": 2})
    assert "| weights | 5 |" in third and "| weights | 3 |" not in third and "| yaml | 9 |" in third
    assert third.startswith("# Page\n") and third.endswith("\nEnd\n") and third.count("### ") == 4
