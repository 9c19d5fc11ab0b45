"""A pipeline killed anywhere continues where it stopped: finished stages rest, and the bytes are those of a run in one go."""

import shutil

from tests.reliability.counts import is_long, record
from tests.reliability.fixtures import project  # noqa: F401
from tests.reliability.forked import fork, moments
from tests.reliability.tiny_project import snapshot, strays
from visionsam_hf.cli import command_line as cli

KILLS = 20 if is_long("soak") else 2
RECIPE = """
stages:
  - {{name: sft, run: sft, config: empty.yaml, set: {{
       model_name_or_path: {model}, dataset: {data}, output_dir: {out}/sft, max_steps: 3, per_device_train_batch_size: 2,
       use_cpu: true, save_strategy: steps, save_steps: 1, disable_tqdm: true}}}}
  - {{name: candidates, run: candidates, config: empty.yaml, set: {{
       model_name_or_path: {out}/sft, dataset: {data}, output_dir: {out}/candidates}}}}
  - {{name: annotate, run: annotate oracle, config: empty.yaml, set: {{
       candidates: {out}/candidates, output_dir: {out}/preferences}}}}
  - {{name: evaluate, run: evaluate, config: empty.yaml, set: {{
       model_name_or_path: {out}/sft, dataset: {data}, output_dir: {out}/evaluate}}}}
"""


def test_a_killed_pipeline_continues(project, tmp_path):  # noqa: F811
    recipe, out, log = tmp_path / "recipe", tmp_path / "out", tmp_path / "log"
    recipe.mkdir()
    (recipe / "empty.yaml").write_text("")
    (recipe / "pipeline.yaml").write_text(RECIPE.format(model=project.model, data=project.data, out=out))

    def run(**moment):
        return fork(lambda: cli.main(["pipeline", str(recipe)]), log=log, **moment)

    undisturbed = run()
    assert undisturbed.code == 0, undisturbed.text
    wanted = _without_inputs(snapshot(out))
    kills = rested = 0
    for moment in moments(KILLS, seconds=undisturbed.seconds, changes=undisturbed.changes, seed=5):
        shutil.rmtree(out)
        kills += run(**moment).code == -9
        finished = {path.parent.name for path in out.glob("*/stage.json")}
        times = {name: (out / name / "stage.json").stat().st_mtime_ns for name in finished}
        repeated = run()
        assert repeated.code == 0, repeated.text
        assert repeated.text.count("skipped") == len(finished), repeated.text
        rested += len(finished)
        assert {name: (out / name / "stage.json").stat().st_mtime_ns for name in finished} == times
        assert _without_inputs(snapshot(out)) == wanted and list(strays(out)) == [], moment
    assert kills
    record("pipeline_kills", {"kills": kills, "finished stages that rested": rested, "files": len(wanted)})


def _without_inputs(found):
    """The fingerprint of a training counts its timings, and so do the records of whoever reads it."""
    for values in found.values():
        if isinstance(values, dict):
            values.pop("inputs", None)
    return found
