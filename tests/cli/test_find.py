import csv
import json

import numpy as np
import pytest
from conftest import disc, initialise, photograph, tiny_config, tiny_processor
from defect_examples import write_discs

from visionsam_hf.cli import command_line as cli
from visionsam_hf.data.dataset_directory import load_split
from visionsam_hf.data.records import PACKAGED_MODEL
from visionsam_hf.models.loading import save_model


def run(*words):
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, discs of which every fifth image is good, and a finder of each kind."""
    root = tmp_path_factory.mktemp("find")
    save_model(initialise(tiny_config(), seed=0), tiny_processor(), root / "model")
    write_discs(root / "data", train=40, validation=10, test=10)
    (root / "maps").mkdir()
    for split in ("validation", "test"):
        for row in load_split(root / "data", split, kind="segmentation"):
            values = np.asarray(row["image"].convert("L"), np.float32)
            np.save(root / "maps" / f"{row['image_id']}.npy", values)
    (root / "photos").mkdir()
    for name in ("a", "b"):
        photograph(disc(48, 64, 30, 24, 9), 0).save(root / "photos" / f"{name}.png")
    return root


def find(root, output, *words, finder="both"):
    common = ["--model_name_or_path", root / "model", "--dataset", root / "data", "--bank_size", 50, "--folds", 2]
    return run("find", *common, "--embeddings", root / "cache", "--finder", finder, "--output_dir", output, *words)


def evaluate(root, output, finder, *words):
    common = ["--model_name_or_path", root / "model", "--dataset", root / "data", "--split", "test"]
    return run("evaluate", *common, "--finder", finder, "--output_dir", output, *words)


@pytest.mark.parametrize("finder", ["bank", "head", "both"])
def test_a_finder_is_trained_evaluated_and_used(finder, made, tmp_path, capsys):
    assert find(made, tmp_path / "finder", finder=finder) == 0
    record = json.loads((tmp_path / "finder" / "stage.json").read_text())
    assert record["results"]["images"] == 40 and record["results"]["good"] == 8
    assert evaluate(made, tmp_path / "eval", tmp_path / "finder") == 0
    figures = json.loads((tmp_path / "eval" / "detection.json").read_text())
    assert figures["images"] == 10 and set(figures["image"]) == {"auroc", "ap", "f1_max"}
    assert 0 <= figures["pixel"]["aupro"] <= 1 and figures["masks"]["good"] == 2
    assert figures["masks"]["iou_with_boxes"] is not None
    with (tmp_path / "eval" / "images.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 10
    capsys.readouterr()
    words = ["--model", made / "model", "--image", made / "photos", "--finder", tmp_path / "finder"]
    assert run("predict", *words, "--output", tmp_path / "out") == 0
    answer = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert answer["images"] == 2 and answer["seconds_per_image"] > 0
    with (tmp_path / "out" / "verdicts.csv").open() as file:
        verdicts = list(csv.DictReader(file))
    assert [line["image"] for line in verdicts] == ["a.png", "b.png"]
    assert {line["verdict"] for line in verdicts} <= {"good", "defective"}
    assert verdicts[0]["score"] == verdicts[1]["score"]  # the same photograph
    coco = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert len(coco["images"]) == 2 and len(coco["annotations"]) == answer["masks"]


def test_what_is_found_is_written_and_builds_again(made, tmp_path):
    """With a model that knows what a thing is: the random one's masks are empty, and dropped."""
    words = ["--model_name_or_path", PACKAGED_MODEL, "--dataset", made / "data", "--embeddings", tmp_path / "cache"]
    assert run("find", *words, "--finder", "head", "--false_alarm_rate", "0.9", "--output_dir", tmp_path / "finder") == 0
    words = ["--model", PACKAGED_MODEL, "--image", made / "photos", "--finder", tmp_path / "finder"]
    assert run("predict", *words, "--output", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "coco.json").read_text())["annotations"]
    assert found and (tmp_path / "out" / "masks").is_dir()
    words = ["--data_dir", made / "photos", "--annotations", tmp_path / "out" / "coco.json", "--validation", "0", "--test", "0"]
    assert run("build", "coco", *words, "--output_dir", tmp_path / "built") == 0
    assert sum(len(row["objects"]) for row in load_split(tmp_path / "built", "train", kind="segmentation")) == len(found)


def test_the_report_shows_what_was_found_and_missed(made, tmp_path, capsys):
    """Of a finder with masks and of maps alone, without any evaluation on boxes; and damage is one line."""
    assert find(made, tmp_path / "finder", finder="bank") == 0
    assert evaluate(made, tmp_path / "found", tmp_path / "finder") == 0
    assert evaluate(made, tmp_path / "maps", f"maps:{made / 'maps'}") == 0
    cases = json.loads((tmp_path / "found" / "detection.json").read_text())["cases"]
    defective = [case["score"] for case in cases if case["defective"]]
    assert defective == sorted(defective, reverse=True) and len(cases) == 5 + 2
    for case in cases:
        assert case["outcome"] in (("found", "missed") if case["defective"] else ("false alarm", "rightly good"))
        assert all((tmp_path / "found" / path).is_file() for path in case["pictures"].values())
    assert run("report", tmp_path / "found", tmp_path / "maps", "--output_dir", tmp_path / "report") == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Without a box" in page and "ROC of the images" in page and "The systems" not in page
    assert page.count("data:image/jpeg") == 7 * 3 + 7 * 2
    told = json.loads((tmp_path / "report" / "report.json").read_text())["finders"]
    assert [of["masks"]["good"] if "masks" in of else None for of in told.values()] == [2, None]
    next((tmp_path / "found" / "cases").iterdir()).unlink()
    assert "is damaged" in refused(capsys, "report", tmp_path / "found", "--output_dir", tmp_path / "again")


def test_without_a_split_the_test_split_is_judged_by(made, tmp_path):
    words = ["--model_name_or_path", made / "model", "--dataset", made / "data", "--finder", f"maps:{made / 'maps'}"]
    assert run("evaluate", *words, "--output_dir", tmp_path / "eval") == 0
    figures = json.loads((tmp_path / "eval" / "detection.json").read_text())
    assert figures["split"] == "test" and figures["images"] == 10


def test_maps_of_another_system_are_measured_and_prompt_the_model(made, tmp_path):
    assert evaluate(made, tmp_path / "alone", f"maps:{made / 'maps'}") == 0
    alone = json.loads((tmp_path / "alone" / "detection.json").read_text())
    assert alone["image"]["auroc"] == 1 and alone["pixel"]["auroc"] > 0.99 and "masks" not in alone
    given = ["--maps", made / "maps", "--train_split", "validation", "--eval_split", "null"]
    assert find(made, tmp_path / "few", *given, finder="maps") == 2  # two good images say nothing
    write_discs(made / "more", validation=30)
    (tmp_path / "maps").mkdir()
    for row in load_split(made / "more", "validation", kind="segmentation"):
        np.save(tmp_path / "maps" / f"{row['image_id']}.npy", np.asarray(row["image"].convert("L"), np.float32))
    for path in (made / "maps").glob("*.npy"):
        np.save(tmp_path / "maps" / path.name, np.load(path))
    given = ["--maps", tmp_path / "maps", "--train_split", "validation", "--eval_split", "null", "--dataset", made / "more"]
    assert find(made, tmp_path / "finder", *given, finder="maps") == 0
    assert evaluate(made, tmp_path / "both", tmp_path / "finder") == 0
    both = json.loads((tmp_path / "both" / "detection.json").read_text())
    assert both["pixel"]["auroc"] == pytest.approx(alone["pixel"]["auroc"])
    assert both["masks"]["iou"] is not None and both["masks"]["good_marked"] == 0


def refused(capsys, *words):
    """The one line that a command answers with."""
    capsys.readouterr()
    assert run(*words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("visionsam: ")]
    assert len(lines) == 1
    return lines[0]


def test_bad_input_is_one_line(made, tmp_path, capsys):
    assert find(made, tmp_path / "finder", finder="bank") == 0
    words = ["--model", made / "model", "--finder", tmp_path / "finder", "--output", tmp_path / "out"]
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(capsys, "predict", *words, "--image", tmp_path / "empty")
    save_model(initialise(tiny_config(), seed=1), tiny_processor(), tmp_path / "other")
    told = refused(capsys, "predict", *words, "--image", made / "photos", "--model", tmp_path / "other")
    assert "has another encoder" in told and not (tmp_path / "out").exists()
    told = refused(capsys, "predict", *words[:2], "--finder", made / "model", *words[4:], "--image", made / "photos")
    assert "is no finder" in told
    all_defective = [
        "find", "--model_name_or_path", made / "model", "--dataset", made / "data", "--finder", "bank",
        "--max_good_images", 3, "--output_dir", tmp_path / "none",
    ]  # fmt: skip
    assert "3 good photographs" in refused(capsys, *all_defective) and not (tmp_path / "none").exists()
    np.save(made / "maps" / "wrong.npy", np.zeros((3, 4)))
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for path in (made / "maps").glob("disc-*.npy"):
        np.save(wrong / path.name, np.zeros((3, 9)))
    asked = ["evaluate", "--model_name_or_path", made / "model", "--dataset", made / "data", "--split", "test"]
    asked += ["--output_dir", tmp_path / "eval", "--finder"]
    assert "is 9 x 3 pixels" in refused(capsys, *asked, f"maps:{wrong}")
    assert "no such folder of maps" in refused(capsys, *asked, f"maps:{tmp_path / 'nowhere'}")
    assert "maps" in refused(capsys, *all_defective[:-4], "--finder", "maps", "--output_dir", tmp_path / "none")


def test_a_configuration_of_a_directory_is_refused(made, tmp_path, capsys):
    words = ["--model_name_or_path", made / "model", "--dataset", made / "data", "--output_dir", tmp_path / "none"]
    assert "dataset_config: is 'small'" in refused(capsys, "find", *words, "--dataset_config", "small")


def test_a_finder_is_published_like_a_model(made, tmp_path, capsys):
    assert find(made, tmp_path / "finder", finder="bank") == 0
    capsys.readouterr()
    assert run("push", tmp_path / "finder", "me/finder", "--dry_run", "--license", "apache-2.0") == 0
    told = capsys.readouterr().out
    assert told.startswith("finder ") and "model.safetensors" in told and "README.md" in told
    assert "me/finder" in told and "Nothing was sent" in told
    (tmp_path / "finder" / "model.safetensors").write_bytes(b"no")
    assert "is damaged" in refused(capsys, "push", tmp_path / "finder", "me/finder", "--dry_run", "--license", "mit")
