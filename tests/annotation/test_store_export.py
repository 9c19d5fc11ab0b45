"""From a store to a preference data set, figures and a page, through the stage's verbs."""

import json

import pytest

pytest.importorskip("sqlalchemy", reason="the extra [annotate] is not installed")
pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")

from tests.annotation.fixtures import own_secret  # noqa: F401
from tests.candidate_sets import write_candidate_set
from visionsam_hf.cli.command_line import COMMANDS, execute
from visionsam_hf.data.dataset_directory import load_split
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import build_settings


def visionsam(verb, **values):
    name = f"annotate {verb}"
    execute(name, build_settings(COMMANDS[name].settings, values))


@pytest.fixture
def ranked(tmp_path):
    """A store with oracle rankings of a candidate set, and what the oracle wrote itself."""
    candidates = write_candidate_set(tmp_path / "candidates", {"train": 3, "heldout": 2})
    visionsam(
        "oracle",
        candidates=str(candidates),
        output_dir=str(tmp_path / "direct"),
        store=str(tmp_path / "s.sqlite"),
        noise=0.05,
        circles=2,
    )
    return candidates, tmp_path


def test_the_store_exports_what_the_oracle_wrote_itself(ranked):
    _, root = ranked
    visionsam("export", store=str(root / "s.sqlite"), output_dir=str(root / "exported"), kind="oracle")
    for split in ("train", "heldout"):
        rows = [list(load_split(str(root / name), split, kind="preference")) for name in ("direct", "exported")]
        for direct, exported in zip(*rows, strict=True):
            assert direct["margin"] == exported["margin"]
            assert direct["candidates"] == exported["candidates"]
            assert [one["ranking"] for one in direct["annotations"]] == [
                one["ranking"] for one in exported["annotations"]
            ]
            assert {one["kind"] for one in exported["annotations"]} == {"oracle"}
            assert direct["regions"] == exported["regions"]
    card = (root / "exported/README.md").read_text()
    assert "Krippendorff" in card and "pseudonyms" in card
    results = json.loads((root / "exported/stage.json").read_text())["results"]
    assert results["pairs"] == 5 and results["statistics"]["tau"] is not None


def test_people_s_rankings_decide_and_oracles_are_only_listed(ranked):
    from visionsam_hf.annotation.access import add_user, find_user
    from visionsam_hf.annotation.answers import Submission
    from visionsam_hf.annotation.database import open_engine
    from visionsam_hf.annotation.store import Store

    candidates, root = ranked
    engine = open_engine(str(root / "s.sqlite"))
    user = find_user(engine, b"s", add_user(engine, b"s", "Ann Real-Name"))
    store = Store(engine)
    held = store.claim(user, 4)
    for number, work in enumerate(held):
        place = [work.order.index(candidate) for candidate in (2, 1, 0)]
        ranking = [place.index(pane) + 1 for pane in range(3)]
        region = {"pane": 0, "label": "extra", "points": [[1, 1], [9, 1], [9, 9]]}
        values = (
            {"kind": "flag", "reason": "bad_box"}
            if number == 3
            else {"kind": "submit", "ranking": ranking, "regions": [region]}
        )
        name = f"00000000-0000-4000-8000-00000000000{number}"
        store.submit(user, Submission(uuid=name, assignment=work.public, **values), (64, 64))
    visionsam("export", store=str(root / "s.sqlite"), output_dir=str(root / "human"))
    rows = list(load_split(str(root / "human"), "train", kind="preference"))
    tokens = [
        [c["token"] for c in row["candidates"]] for row in load_split(str(candidates), "train", kind="candidates")
    ]
    assert [[c["token"] for c in row["candidates"]] for row in rows] == [order[::-1] for order in tokens]
    assert [row["votes"] for row in rows] == [1, 1, 1]
    for row, work in zip(rows, held):
        # The set's candidates were ranked backwards.
        assert [one["candidate"] for one in row["regions"]] == [2 - work.order[0]]
        assert {one["annotator"] for one in row["regions"]} == {"annotator-1"}, "the oracle's circles are not people's"
    assert [one["kind"] for one in rows[0]["annotations"]].count("oracle") == 3
    record = json.loads((root / "human/stage.json").read_text())["results"]
    assert (record["flagged"], record["too_few_votes"], record["regions"]) == (1, 1, 3)
    assert len((root / "human/regions.jsonl").read_text().splitlines()) == 3
    everything = b"".join(file.read_bytes() for file in (root / "human").rglob("*") if file.is_file())
    assert b"Ann Real-Name" not in everything and b"annotator-1" in everything


def test_stats_write_a_page_and_json(ranked, capsys):
    _, root = ranked
    visionsam("stats", store=str(root / "s.sqlite"), output_dir=str(root / "stats"))
    figures = json.loads((root / "stats/agreement.json").read_text())
    assert figures["oracle"]["tasks"] == 5 and figures["human"]["tasks"] == 0
    assert figures["oracle"]["tau_truth"] > 0.5
    page = (root / "stats/agreement.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and "<svg" in page and "Simulated" in page
    assert "agreement.html" in capsys.readouterr().out


def test_exported_pairs_train_a_step(ranked, model, tmp_path):
    from conftest import tiny_processor

    from visionsam_hf import SamDPOConfig, SamDPOTrainer

    _, root = ranked
    visionsam("export", store=str(root / "s.sqlite"), output_dir=str(root / "pairs"), kind="oracle")
    rows = load_split(str(root / "pairs"), "train", kind="preference")
    args = SamDPOConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        logging_steps=1,
        per_device_train_batch_size=2,
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SamDPOTrainer(model, args, rows, processing_class=tiny_processor())
    trainer.train()
    assert trainer.state.log_history[0]["loss"] > 0


def test_verbs_say_what_is_wrong(ranked, tmp_path):
    _, root = ranked
    store = str(root / "s.sqlite")
    with pytest.raises(UserError, match="no pair ranked by 'human'"):
        visionsam("export", store=store, output_dir=str(root / "none"))
    assert not (root / "none").exists()
    other = write_candidate_set(tmp_path / "other", {"train": 1})
    with pytest.raises(UserError, match="not the candidate set that was ranked"):
        visionsam("export", store=store, output_dir=str(root / "x"), candidates=str(other))
    with pytest.raises(UserError, match="no such store"):
        visionsam("stats", store=str(tmp_path / "absent"), output_dir=str(root / "x"))
    with pytest.raises(UserError, match="'action' is 'sing'"):
        visionsam("users", action="sing")
    with pytest.raises(UserError, match="give a name"):
        visionsam("users", action="add")
    with pytest.raises(UserError, match="rubric"):
        visionsam("serve", candidates="x", rubric="slow")


def test_users_backup_dump_and_restore_from_the_command_line(ranked, capsys):
    _, root = ranked
    store = str(root / "s.sqlite")
    visionsam("users", action="add", name="ann", store=store)
    token = capsys.readouterr().out.strip()
    assert len(token) > 40
    visionsam("users", action="list", store=store)
    listed = capsys.readouterr().out
    assert "ann\thuman" in listed and token not in listed
    visionsam("users", action="revoke", name="ann", store=store)
    visionsam("backup", store=store, file=str(root / "b.sqlite"))
    visionsam("dump", store=store, file=str(root / "d.jsonl"))
    visionsam("restore", store=str(root / "new.sqlite"), file=str(root / "d.jsonl"))
    for name in ("b.sqlite", "new.sqlite"):
        visionsam("export", store=str(root / name), output_dir=str(root / f"{name}-out"), kind="oracle")
        assert len(load_split(str(root / f"{name}-out"), "train", kind="preference")) == 3
