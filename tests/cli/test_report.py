import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from defect_examples import CARD, CATEGORIES, predict, write_discs

from visionsam_hf.cli.command_line import main, parse_stage
from visionsam_hf.cli.report import ReportSettings, run
from visionsam_hf.cli.stage import is_done
from visionsam_hf.data.dataset_directory import load_split, write_splits
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import decode_rle, encode_mask, encode_rle
from visionsam_hf.data.schema import candidate_features, preference_features
from visionsam_hf.data.settings import build_settings
from visionsam_hf.evaluation.comparison import PAPER, chosen_by_rule
from visionsam_hf.evaluation.evaluator import score_dataset, summarise
from visionsam_hf.evaluation.per_sample import FILE, read_columns, write_groups
from visionsam_hf.evaluation.report import page as report_page
from visionsam_hf.evaluation.report.charts import all_charts
from visionsam_hf.evaluation.report.galleries import preference_gallery
from visionsam_hf.evaluation.report.plotting import SERIES, size_panel
from visionsam_hf.evaluation.result_files import name_systems, role_of


def write_evaluation(directory, data, split, shift, model="model"):
    directory.mkdir(parents=True)
    dataset = load_split(data, split, kind="segmentation")
    write_groups(directory / FILE, score_dataset(lambda chunk, limit: predict(chunk, limit, shift=shift), dataset))
    metrics = {"model": model, "dataset": str(data), "split": split, "prompt": "box"}
    metrics |= summarise(read_columns(directory / FILE))
    (directory / "metrics.json").write_text(json.dumps(metrics))
    return str(directory)


def prompts(data):
    for example in load_split(data, "test", kind="segmentation"):
        for index, entry in enumerate(example["objects"]):
            truth = decode_rle(entry["rle"])
            common = {name: example[name] for name in ("image", "image_id", "category")}
            common |= {"box": entry["box"], "object_index": index, "truth": encode_mask(truth)}
            yield common, [np.roll(truth, move, 0) for move in (1, 3, 6)]


def write_candidates(directory, data):
    def rows():
        for common, masks in prompts(data):
            candidates = [
                {"rle": encode_rle(mask), "token": token, "source": "tokens", "score": 0.3 * token}
                for token, mask in enumerate(masks, 1)
            ]
            yield common | {"candidates": candidates}

    write_splits(directory, {"train": rows()}, candidate_features(CATEGORIES), card=CARD)
    record = {
        "stage": "candidates",
        "settings": {},
        "inputs": {},
        "fingerprint": "c",
        "results": {"mean_pairwise_iou": 0.61},
    }
    (directory / "stage.json").write_text(json.dumps(record))
    return str(directory)


def write_preferences(directory, data, *, chosen=0, rejected=2):
    def rows():
        for number, (common, masks) in enumerate(prompts(data)):
            pair = {
                "chosen": encode_mask(masks[chosen]),
                "rejected": encode_mask(masks[rejected]),
                "margin": number / 7,
                "votes": 3,
            }
            yield common | pair | {"candidates": [], "annotations": []}

    write_splits(directory, {"train": rows()}, preference_features(CATEGORIES), card=CARD)
    return str(directory)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    data = write_discs(root / "data", test=8, heldout=14)
    systems = {}
    for name, shift in (("SAM", 6), ("SFT-SAM", 3), ("VisionSAM", 1), ("RLHF-SAM", 7)):
        systems[name] = [write_evaluation(root / name / split, data, split, shift) for split in ("heldout", "test")]
    training = root / "dpo"
    training.mkdir()
    log = [{"step": step, "loss": 0.7 - step / 100, "rewards/accuracies": 0.5} for step in range(1, 20)]
    log += [{"step": 10, "eval_loss": 0.66}, {"step": 19, "train_runtime": 3.2}]
    (training / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    return {
        "systems": systems,
        "training": {"DPO <b>": str(training)},
        "candidates": write_candidates(root / "candidates", data),
        "preferences": write_preferences(root / "preferences", data),
        "dataset": str(data),
    }


def make(output, **values):
    settings = build_settings(ReportSettings, {"output_dir": str(output), **values})
    run(settings)
    return json.loads((output / "report.json").read_text()), (output / "report.html").read_text(), settings


class Page(html.parser.HTMLParser):
    """What stands in a page, and whether every element is closed."""

    VOID = {"meta", "img", "br", "path", "use", "rect", "link", "input"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_whole_report(inputs, tmp_path):
    (tmp_path / "other-stage").mkdir()
    found, page, settings = make(tmp_path, **inputs)
    assert list(found["systems"]) == ["SAM", "SFT-SAM", "VisionSAM", "RLHF-SAM"]
    sam, tuned = found["systems"]["SAM"], found["systems"]["VisionSAM"]
    heldout = json.loads(Path(inputs["systems"]["SAM"][0], "metrics.json").read_text())
    assert sam["iou"] == pytest.approx(heldout["overall"]["iou"])
    assert sam["dice"] == pytest.approx(heldout["overall"]["dice"])
    assert (sam["n"], set(sam["splits"])) == (heldout["n"], {"heldout", "test"})
    assert sam["intervals"]["iou"] == pytest.approx(heldout["intervals"]["iou"])
    assert tuned["difference"]["reference"] == "SFT-SAM" and tuned["difference"]["iou"]["win"] == sam["n"]
    assert tuned["difference"]["iou"]["interval"][0] > 0 > sam["difference"]["iou"]["interval"][1]
    assert found["candidates"] == {"mean_pairwise_iou": 0.61}
    assert found["training"]["DPO <b>"]["last_eval_loss"] == 0.66
    assert [row["images"] for row in found["dataset"]] == [8, 14]
    for words in (
        "Largest gain",
        "Drawn by lot",
        "Preferences pay",
        "Candidate 3",
        "Rejected",
        "0.610",
    ):
        assert words in page, words
    assert "0.661, 0.779" not in page and found["paper"] == {}
    assert (tmp_path / "other-stage").is_dir() and is_done("report", settings)


def test_the_page_needs_nothing_else(inputs, tmp_path):
    _, page, _ = make(tmp_path, **inputs)
    parsed = Page(page)
    assert "script" not in parsed.tags and "DPO <b>" not in page and "DPO &lt;b&gt;" in page
    links = [
        value for _, found in parsed.attributes for key, value in found.items() if key in ("src", "href", "xlink:href")
    ]
    assert links and all(link.startswith(("#", "data:image/")) for link in links)
    assert not re.findall(r"url\((?!#)", page)
    images = [found for tag, found in parsed.attributes if tag == "img"]
    assert len(images) > 40 and all(found["alt"] for found in images)
    assert all(found.get("aria-label") for tag, found in parsed.attributes if tag == "svg")
    identifiers = [
        found["id"] for _, found in parsed.attributes if "id" in found and not found["id"].startswith(("m", "p"))
    ]
    targets = [link[1:] for link in links if link.startswith("#") and len(link) < 15]
    assert set(targets) <= {found["id"] for _, found in parsed.attributes if "id" in found} and identifiers
    # The figures' own colours are the page's variables, so that dark mode reaches them.
    assert not re.search(r"#0072b3|#101418|#d3d9e0", page)


def test_a_baseline_that_beats_the_models_is_said(inputs, tmp_path):
    boxes = write_evaluation(tmp_path / "boxes", inputs["dataset"], "heldout", 0, "baseline:fill_box")
    found, page, _ = make(tmp_path / "out", systems={"SAM": inputs["systems"]["SAM"][:1], "Whole boxes": [boxes]})
    assert found["systems"]["Whole boxes"]["iou"] == 1
    assert "Of the models, SAM does best" in page
    assert "Beware: better than every model here, without having learnt anything: Whole boxes (100.0%)" in page


def test_small_thin_and_faint_defects_have_intervals_and_wins(inputs, tmp_path):
    found, page, _ = make(tmp_path, **inputs)
    rows = found["systems"]["VisionSAM"]["splits"]["heldout"]["by_appearance"]["size"]
    assert sum(row["n"] for row in rows) == found["systems"]["VisionSAM"]["n"]
    assert all(row["difference"]["win"] == row["n"] for row in rows if row["images"] > 1)
    assert "Numbers by size, thickness and contrast" in page and "Cases by category" in page
    assert (tmp_path / "cases.png").stat().st_size > 10_000


def test_a_report_waits_for_no_model_library():
    code = "import sys, visionsam_hf.evaluation.report.page; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "evaluate"} & set(loaded)


def test_same_inputs_give_the_same_page(inputs, tmp_path):
    assert make(tmp_path / "a", **inputs)[1] == make(tmp_path / "b", **inputs)[1]


def test_missing_parts_are_said_not_crashed_on(inputs, tmp_path):
    found, page, _ = make(tmp_path, systems={"Only": [inputs["systems"]["SAM"][1]]})
    assert found["split"] == "test" and found["systems"]["Only"]["difference"] is None
    assert found["systems"]["Only"]["paper"] is None
    assert len(found["left_out"]) == 4 and "No preference set was given" in page
    Page(page)


def test_a_training_without_a_log_is_left_out(inputs, tmp_path):
    found, _, _ = make(tmp_path / "out", systems=inputs["systems"], training={"SFT": inputs["dataset"]})
    assert any("training of SFT left no log" in sentence for sentence in found["left_out"])


def test_photographs_elsewhere_leave_the_numbers(inputs, tmp_path):
    copy = tmp_path / "moved"
    copy.mkdir()
    source = Path(inputs["systems"]["SAM"][0])
    (copy / FILE).write_bytes((source / FILE).read_bytes())
    metrics = json.loads((source / "metrics.json").read_text()) | {"dataset": "owner/elsewhere"}
    (copy / "metrics.json").write_text(json.dumps(metrics))
    found, page, _ = make(tmp_path / "out", systems={"SAM": [str(copy)]})
    assert any("photographs are not in a directory" in sentence for sentence in found["left_out"])
    Page(page)


def test_several_runs_of_a_split_are_seeds(inputs, tmp_path):
    sam, tuned = inputs["systems"]["SAM"][0], inputs["systems"]["VisionSAM"][0]
    found, page, _ = make(tmp_path, systems={"Both": [sam, tuned]})
    both = found["systems"]["Both"]
    assert [round(seed["iou"], 6) for seed in both["seeds"]] == [
        round(json.loads(Path(run_, "metrics.json").read_text())["overall"]["iou"], 6) for run_ in (sam, tuned)
    ]
    assert both["iou"] == pytest.approx(np.mean([seed["iou"] for seed in both["seeds"]]))
    assert "2 seeds" in page


def test_what_is_no_evaluation_is_the_users_error(inputs, tmp_path):
    for systems, words in (
        ({"SAM": [inputs["dataset"]]}, "has no metrics.json"),
        ({"SAM": [str(tmp_path / "nowhere")]}, "no such file"),
        ({"SAM": []}, "'systems.SAM' is \\[\\]; give at least 1"),
        ({}, "systems"),
    ):
        with pytest.raises(UserError, match=words):
            make(tmp_path / "out", systems=systems)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / FILE).write_bytes(b"")
    (broken / "metrics.json").write_text('{"split": "test"')
    with pytest.raises(UserError, match="damaged"):
        make(tmp_path / "out", systems={"SAM": [str(broken)]})


def test_a_data_set_of_one_image_has_no_interval(tmp_path):
    data = write_discs(tmp_path / "data", heldout=1)
    systems = {
        name: [write_evaluation(tmp_path / name, data, "heldout", shift)]
        for name, shift in (("SAM", 6), ("SFT-SAM", 1))
    }
    found, page, _ = make(tmp_path / "out", systems=systems)
    assert found["systems"]["SAM"]["intervals"]["iou"] is None and found["systems"]["SAM"]["difference"]["iou"] is None
    Page(page)


@pytest.mark.parametrize("chosen, rejected, best", [(0, 2, "Chosen"), (2, 0, "Rejected")])
def test_the_better_mask_of_a_pair_is_marked_by_the_truth(inputs, tmp_path, chosen, rejected, best):
    directory = write_preferences(tmp_path / "pairs", inputs["dataset"], chosen=chosen, rejected=rejected)
    marked = {cell.title for row in preference_gallery(directory) for cell in row.cells if cell.best}
    assert marked == {best}


def trained(directory, stage, start, **settings):
    """The `stage.json` of a training that started from a model."""
    key = "adapter" if stage == "merge" else "model_name_or_path"
    directory.mkdir()
    record = {"stage": stage, "settings": {key: str(start)} | settings, "inputs": {}, "fingerprint": directory.name}
    (directory / "stage.json").write_text(json.dumps(record))
    return str(directory)


@pytest.fixture
def models(tmp_path):
    """The four models of the paper, one a directory of a name that says nothing, and their kin."""
    base = "facebook/sam-vit-base"
    made = {"SAM": base, "SFT-SAM": trained(tmp_path / "a", "sft", base)}
    made["VisionSAM"] = trained(tmp_path / "b", "dpo", made["SFT-SAM"])
    made["RLHF-SAM"] = trained(tmp_path / "c", "dpo", base)
    return made


def test_a_role_follows_from_the_stages_that_made_a_model(models, tmp_path):
    assert {role: role_of(model) for role, model in models.items()} == {role: role for role in models}
    again = trained(tmp_path / "second-round", "dpo", trained(tmp_path / "merged", "merge", models["VisionSAM"]))
    assert role_of(again) == "VisionSAM"
    assert role_of("visionsam-tiny") == role_of("lite-medsam-128") == "SAM"
    assert role_of(trained(tmp_path / "of-mobile", "sft", "mobile-sam-512")) == "SFT-SAM"
    for other in ("baseline:otsu", "facebook/sam2.1-hiera-tiny", "me/visionsam", str(tmp_path / "gone")):
        assert role_of(other) is None
    assert role_of(trained(tmp_path / "of-another", "sft", "facebook/sam2.1-hiera-tiny")) is None
    assert role_of(trained(tmp_path / "circle", "sft", tmp_path / "circle")) is None


def short_evaluation(directory, model, **values):
    directory.mkdir(parents=True)
    (directory / FILE).write_bytes(b"")
    metrics = {"model": model, "split": "heldout", "prompt": "box", "selection": "single", "overall": {"iou": 0.5}}
    (directory / "metrics.json").write_text(json.dumps(metrics | values))
    return str(directory)


def test_directories_of_evaluate_are_named_by_what_made_their_models(models, tmp_path):
    at = {role: short_evaluation(tmp_path / "e" / str(place), models[role]) for place, role in enumerate(models)}
    test = short_evaluation(tmp_path / "e" / "t", models["SFT-SAM"], split="test")
    boxes = short_evaluation(tmp_path / "e" / "0-boxes", "baseline:fill_box")
    other = short_evaluation(tmp_path / "e" / "0-other", "facebook/sam2.1-hiera-tiny")
    named = name_systems([boxes, other, *reversed(at.values()), test, test])
    assert named == {
        "SAM": [at["SAM"]], "SFT-SAM": [at["SFT-SAM"], test], "VisionSAM": [at["VisionSAM"]],
        "RLHF-SAM": [at["RLHF-SAM"]], "fill_box": [boxes], "sam2.1-hiera-tiny": [other],
    }  # fmt: skip
    point = short_evaluation(tmp_path / "e" / "p", models["SAM"], prompt="point")
    (tmp_path / "x").mkdir()
    twin = short_evaluation(tmp_path / "e" / "twin", trained(tmp_path / "x" / "a", "sft", models["SAM"]))
    assert name_systems([at["SAM"], point, at["SFT-SAM"], twin]) == {
        "SAM (box)": [at["SAM"]], "SAM (point)": [point],
        f"SFT-SAM ({tmp_path / 'a'})": [at["SFT-SAM"]], f"SFT-SAM ({tmp_path / 'x' / 'a'})": [twin],
    }  # fmt: skip
    painted = short_evaluation(tmp_path / "e" / "painted", trained(tmp_path / "painted", "sft", models["SAM"]))
    assert list(name_systems([at["SFT-SAM"], painted])) == ["SFT-SAM (a)", "SFT-SAM (painted)"]
    with pytest.raises(UserError, match="has no metrics.json"):
        name_systems([str(tmp_path)])


def renamed(models, data, root):
    """Evaluations of the paper's models under names that say nothing."""
    names = {"SAM": "plain", "SFT-SAM": "taught", "VisionSAM": "ranked", "RLHF-SAM": "ranked only"}
    shifts = {"SAM": 6, "SFT-SAM": 3, "VisionSAM": 1, "RLHF-SAM": 7}
    return {
        name: [write_evaluation(root / role, data, "heldout", shifts[role], models[role])]
        for role, name in reversed(names.items())
    }


def test_findings_go_by_what_a_system_is_not_by_its_name(models, inputs, tmp_path):
    systems = renamed(models, inputs["dataset"], tmp_path / "evaluate")
    found, page, _ = make(tmp_path / "out", systems=systems, dataset=inputs["dataset"])
    assert {entry["role"]: name for name, entry in found["systems"].items()}["VisionSAM"] == "ranked"
    assert found["systems"]["ranked"]["difference"]["reference"] == "taught"
    assert "Preferences pay: ranked is above taught" in page and "plain, untouched, reaches" in page
    assert "from plain to ranked" in page
    # Without the demonstrations alone to compare with, it may be them that helped.
    del systems["taught"], systems["ranked only"]
    _, page, _ = make(tmp_path / "two", systems={"plain": systems["plain"], "ranked": systems["ranked"]})
    assert "ranked is above plain" in page and "Preferences pay" not in page


def test_the_papers_numbers_stand_only_where_its_setting_was_run(models, tmp_path):
    data = write_discs(tmp_path / "vision", heldout=6)
    record = {"stage": "build", "settings": {"source": "vision"}, "inputs": {}, "fingerprint": "v"}
    (data / "stage.json").write_text(json.dumps(record))
    systems = renamed(models, data, tmp_path / "evaluate")
    systems["tiny"] = [write_evaluation(tmp_path / "evaluate" / "tiny", data, "heldout", 2, "visionsam-tiny")]
    found, page, _ = make(tmp_path / "out", systems=systems)
    assert found["paper"] == PAPER and found["systems"]["ranked"]["paper"] == PAPER["VisionSAM"]
    assert "0.661, 0.779" in page and found["systems"]["tiny"]["paper"] is None
    (data / "stage.json").write_text(json.dumps(record | {"settings": {"source": "synthetic"}}))
    found, page, _ = make(tmp_path / "other", systems=systems)
    assert found["paper"] == {} and "paper" not in page.partition("</style>")[2].lower()


def test_the_plate_of_cases_says_whose_they_are(inputs, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(report_page, "plate", lambda title, rows: titles.append(title) or b"")
    make(tmp_path, systems={"Mine": inputs["systems"]["SAM"]})
    (title,) = titles
    assert title.startswith("How the prompts of Mine end, on categories that were never trained on")


def test_sizes_within_a_decade_can_be_read_off_their_axis():
    svg = size_panel("sizes", [[[0.015, 0.2], [0.03, 0.4], [0.08, 0.6]]]).svg
    assert {"2%", "5%"} <= set(re.findall(r">([\d.]+%)<", svg))


def test_a_training_has_the_colour_of_its_system(inputs, tmp_path):
    found, _, _ = make(tmp_path, systems=inputs["systems"])
    log = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
    shown = list(found["systems"])
    (panel,) = all_charts(found, shown, {"RLHF-SAM": log})["training"]
    assert "var(--series-3)" in panel.svg and "var(--series-1)" not in panel.svg and len(SERIES) > 3


def test_an_extreme_is_called_what_it_is():
    keys = [(place, f"image-{place}", 0) for place in range(9)]
    better, worse = (chosen_by_rule(sign * np.arange(1.0, 10), keys, each=1) for sign in (1, -1))
    assert [rule for rule, _ in better] == ["Largest gain", "Median gain", "Smallest gain", "Drawn by lot"]
    assert [rule for rule, _ in worse] == ["Smallest loss", "Median gain", "Largest loss", "Drawn by lot"]
    assert better[0][1] == 8 and better[2][1] == 0


def test_directories_alone_make_a_report(inputs, tmp_path, capsys):
    """`report DIR DIR DIR`: systems are named by what made their models, the report lies beside."""
    directories = [directory for of in inputs["systems"].values() for directory in of[:1]]
    assert main(["report", *directories, "--output_dir", str(tmp_path / "out")]) == 0
    assert list(json.loads((tmp_path / "out" / "report.json").read_text())["systems"]) == list(name_systems(directories))
    assert "see" in capsys.readouterr().out
    with pytest.raises(UserError, match="give directories of evaluate"):
        parse_stage("report", ["--output_dir", "x"])
    beside = parse_stage("report", ["runs/evaluate/sam", "runs/evaluate/sft"])
    assert beside.output_dir == "runs/evaluate/report"
