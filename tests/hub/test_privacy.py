import json

import pytest
from material import write_pairs

from visionsam_hf.data.errors import UserError
from visionsam_hf.hub.checks import check_data, check_text, cleaned_json, find_path, without_machine


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("trained on /home/ann/parts/data", "/home/ann/parts/data"),
        ('{"a": "/Users/ann/x.png"}', "/Users/ann/x.png"),
        ("(see /tmp/run.7/log)", "/tmp/run.7/log"),
        (r"C:\Users\ann\parts", r"C:\Users\ann\parts"),
        ("file:///home/ann/x", "file:///home/ann/x"),
        ("a/home/b and ../home/c and outputs/home/d", None),
        ("https://example.org/home/page", None),
        ("IoU / Dice, 1/2, n/a, and/or, application/json", None),
        ("data:image/png;base64,iVBO+/tmp/abc/w==", None),
        ("/no-such-top-folder/x", None),
    ],
)
def test_paths_of_a_machine_are_told_from_other_slashes(text, path):
    assert find_path(text) == path


def test_records_lose_paths_and_passwords_and_nothing_else():
    record = {
        "settings": {"dataset": "/home/ann/parts/data", "learning_rate": 1e-4, "only": ["outputs/sft", "me/sam"]},
        "inputs": {"/home/ann/parts/data": "0123abcd"},
        "store": "postgresql+psycopg://ann:secret@db.example/names",
    }
    assert without_machine(record) == {
        "settings": {"dataset": "data", "learning_rate": 1e-4, "only": ["outputs/sft", "me/sam"]},
        "inputs": {"data": "0123abcd"},
        "store": "postgresql+psycopg://db.example/names",
    }


def test_a_clean_file_is_sent_as_it_is(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"a":  1}')
    assert cleaned_json(file) is file
    file.write_text('{"a":  "/tmp/x/y"}')
    assert json.loads(cleaned_json(file)) == {"a": "y"}
    file.write_text("{")
    with pytest.raises(UserError, match="config.json: is no JSON"):
        cleaned_json(file)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("made in /home/ann/parts", "card.md:2: names '/home/ann/parts'"),
        ("ask ann.miller@example.org", "card.md:2: holds the address 'ann.miller@example.org'"),
        ("https://ann:secret@example.org/x", "card.md:2: holds a URL with a password"),
        ("token hf_abcdefghijklmnopqrstuvwx", "card.md:2: holds an access token"),
    ],
)
def test_a_text_is_refused_by_file_and_line(line, words):
    check_text("card.md", "fine\nalso fine")
    with pytest.raises(UserError, match="^card.md:2") as error:
        check_text("card.md", f"fine\n{line}\n")
    assert words in str(error.value) and "hf_" not in str(error.value)


@pytest.mark.parametrize(
    ("annotator", "refused"),
    [("annotator-12", False), ("oracle-1", False), ("Ann Miller", True), ("ann@example.org", True)],
)
def test_annotators_have_pseudonyms(tmp_path, annotator, refused):
    write_pairs(tmp_path / "pairs", annotator=annotator)
    (shard,) = (tmp_path / "pairs" / "data").glob("*.parquet")
    if not refused:
        check_data(shard)
        return
    with pytest.raises(UserError, match=f"row 0: the annotator '{annotator}' is no pseudonym"):
        check_data(shard)
