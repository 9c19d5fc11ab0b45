"""Bad bytes of every kind end in success, a skip that is counted, or one line: never a traceback, a crash or a hang.

Every input runs in a fork, many to a fork, so that a crash of C code is seen too; `VISIONSAM_FUZZ=1` runs the long form.
"""

import asyncio
import faulthandler
import io
import json
import os
import random
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import disc, segmentation_rows
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.reliability.counts import is_long, record
from tests.reliability.fixtures import project  # noqa: F401
from tests.reliability.forked import fork
from tests.reliability.mutations import mutated
from visionsam_hf.cli import command_line as cli
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import decode_rle, encode_rle
from visionsam_hf.data.settings import build_settings, read_yaml

# ruff: noqa: F811
LONG = is_long("fuzz")
# An input that takes longer hangs.
INPUT_SECONDS = 60


def inputs(short, long):
    return long if LONG else short


def survive(kind, count, attempt, tmp_path):
    """Call `attempt(rng, directory)` for `count` seeds in a fork; it returns what the input came to.

    A `UserError` is an answer too; anything else that is raised, a crash or a hang fails the test with the seed.
    """
    log, done = tmp_path / "log", tmp_path / "done.json"
    inside = tmp_path / "inside"
    inside.mkdir()

    def body():
        outcomes = Counter()
        for seed in range(count):
            print(f"{kind} {seed}", flush=True)
            faulthandler.dump_traceback_later(INPUT_SECONDS, exit=True)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    outcomes[attempt(random.Random(f"{kind}{seed}"), inside)] += 1
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) > 10
                outcomes["one line"] += 1
            faulthandler.cancel_dump_traceback_later()
        done.write_text(json.dumps(outcomes))
        return 0

    before = sorted(os.listdir(tmp_path))
    ending = fork(body, log=log, hang_after=100_000)
    assert ending.code == 0, f"exit {ending.code} at:\n{ending.text[-3000:]}"
    assert sorted(set(os.listdir(tmp_path)) - {"log", "log.changes", "done.json"}) == before, (
        "a file outside the target"
    )
    outcomes = json.loads(done.read_text())
    assert sum(outcomes.values()) == count
    record(f"fuzz_{kind}", {"inputs": count, **outcomes})
    return outcomes


def test_damaged_yaml(tmp_path):
    recipes = sorted((Path(__file__).resolve().parents[2] / "recipes" / "quickstart").glob("*.yaml"))
    commands = {"build": "build synthetic", "annotate": "annotate oracle"}

    def attempt(rng, inside):
        recipe = rng.choice(recipes)
        path = inside / recipe.name
        path.write_bytes(mutated(recipe.read_bytes(), rng))
        if recipe.stem == "pipeline":
            from visionsam_hf.cli.pipeline import read_stages

            return "understood" if read_stages(inside) else ""
        cli.parse_stage(commands.get(recipe.stem, recipe.stem), [str(path)])
        return "understood"

    outcomes = survive("yaml", inputs(60, 1200), attempt, tmp_path)
    assert outcomes["one line"] and outcomes["understood"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(
    max_examples=400 if LONG else 60, deadline=None, database=None, derandomize=True,
    phases=[Phase.generate], suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(st.data())
def test_settings_of_any_value(tmp_path_factory, data):
    """Any value under any key of any command, through a file and as text on the command line."""
    command = data.draw(
        st.sampled_from(["embed", "sft", "dpo", "candidates", "evaluate", "report", "build masks", "build vision"])
    )
    cls = cli.settings_class(command)
    keys = [field.name for field in cls.__dataclass_fields__.values() if field.init]
    values = data.draw(st.dictionaries(st.sampled_from(keys), VALUES, max_size=4))
    directory = tmp_path_factory.getbasetemp()
    path = directory / "any.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    for given_values, overrides in ((read_yaml(path), {}), ({}, {key: str(value) for key, value in values.items()})):
        try:
            build_settings(cls, given_values, overrides, source=path)
        except UserError:
            pass


def test_damaged_coco_json(tmp_path):
    from datasets_builders.coco import object_rle, read_coco

    mask = disc(20, 30, 12, 9, 5)
    rle = encode_rle(mask)
    good = json.dumps(
        {
            "images": [
                {"id": number, "file_name": f"{number}.png", "width": 30, "height": 20} for number in (1, 2)
            ],
            "categories": [{"id": 1, "name": "scratch"}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]]},
                {"id": 2, "image_id": 2, "category_id": 1, "segmentation": rle},
                {"id": 3, "image_id": 2, "category_id": 1, "segmentation": {"size": [20, 30], "counts": [100, 200, 300]}},
            ],
        }
    ).encode()  # fmt: skip

    def attempt(rng, inside):
        path = inside / "coco.json"
        path.write_bytes(mutated(good, rng))
        images, problems = read_coco(path)
        skipped = len(problems)
        for image in images:
            for item in image.objects:
                try:
                    object_rle(
                        item.segmentation, width=min(max(image.width, 1), 4096), height=min(max(image.height, 1), 4096)
                    )
                except ValueError:
                    skipped += 1
        return "skipped and counted" if skipped else "understood"

    outcomes = survive("coco", inputs(80, 1200), attempt, tmp_path)
    assert outcomes["one line"] and outcomes["understood"] and outcomes["skipped and counted"]


def encoded(mode, kind, **options):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def test_damaged_images_and_masks(tmp_path):
    from datasets_builders.photographs import read_mask, read_photograph
    from visionsam_hf.embeddings.decoding import decode_image

    good = [
        *(encoded(mode, "PNG") for mode in ("RGB", "L", "P", "1", "RGBA", "I;16")),
        *(encoded("RGB", kind) for kind in ("JPEG", "BMP", "TIFF", "WEBP", "GIF")),
        encoded("RGB", "TIFF", compression="tiff_lzw"),
    ]

    def attempt(rng, inside):
        content = mutated(rng.choice(good), rng)
        path = inside / "image.png"
        path.write_bytes(content)
        reader = rng.randrange(3)
        if reader == 0:
            read_photograph(path)
        elif reader == 1:
            read_mask(path, size=(32, 24))
        else:
            decode_image({"bytes": content, "path": "image.png"})
        return "understood"

    outcomes = survive("images", inputs(90, 1500), attempt, tmp_path)
    assert outcomes["one line"] and outcomes["understood"]


def test_damaged_run_length_codes(tmp_path):
    good = [encode_rle(disc(20, 30, 12, 9, 5)), encode_rle(np.zeros((7, 5), bool)), encode_rle(np.ones((64, 64), bool))]

    def attempt(rng, inside):
        code = rng.choice(good)
        counts = mutated(code["counts"].encode(), rng).decode("latin-1")
        size = [rng.choice([side, side, side, 0, -1, 1, 10**6]) for side in code["size"]]
        mask = decode_rle({"size": size, "counts": counts})
        assert mask.shape == tuple(size) and mask.dtype == bool
        return "understood"

    outcomes = survive("rle", inputs(80, 1500), attempt, tmp_path)
    assert outcomes["one line"] and outcomes["understood"]


@pytest.mark.parametrize("kind", ["segmentation", "candidates", "preference"])
def test_damaged_parquet(kind, project, tmp_path):
    """Whole commands on a damaged data set: what they leave is one line, or a result."""
    import datasets

    source = {"segmentation": project.data, "candidates": project.candidates, "preference": project.preferences}[kind]
    file = next(Path(source, "data").glob("train-*.parquet"))
    good, name = file.read_bytes(), file.name

    def attempt(rng, inside):
        number = len(list(inside.iterdir()))
        directory, out = inside / f"{number}", inside / f"out{number}"
        (directory / "data").mkdir(parents=True)
        (directory / "data" / name).write_bytes(mutated(good, rng))
        datasets.config.HF_DATASETS_CACHE = out / "cache"
        result = ["--output_dir", str(out / "result")]
        source = ["--dataset", str(directory), *result]
        look = ["inspect", str(directory), *result]
        judge = ["evaluate", "--model_name_or_path", "baseline:fill_box", "--split", "train", *source]
        choices = {
            "segmentation": [look, judge, ["curate", "--count", "2", *source]],
            "candidates": [look, ["annotate", "oracle", "--candidates", str(directory), *result]],
            "preference": [look],
        }
        command = rng.choice(choices[kind])
        code = cli.main(command)
        assert code in (0, 2), code
        assert (out / "result" / "stage.json").is_file() == (code == 0)
        return "one line" if code else "understood"

    outcomes = survive(f"parquet_{kind}", inputs(12, 150), attempt, tmp_path)
    assert outcomes.get("one line") or outcomes.get("understood")


def test_damaged_http_bodies(project, tmp_path):
    """The annotation server answers nonsense with a 4xx; what it acknowledged stays."""
    pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")

    def make():
        os.environ["XDG_CONFIG_HOME"] = str(tmp_path / "inside")  # in the fork alone
        from visionsam_hf.annotation.access import admit, read_secret
        from visionsam_hf.annotation.database import open_engine
        from visionsam_hf.annotation.server import make_app
        from visionsam_hf.annotation.store import Store
        from visionsam_hf.annotation.task_images import TaskImages
        from visionsam_hf.annotation.tasks import import_tasks
        from visionsam_hf.cli.candidates import load_candidates

        candidates = load_candidates(project.candidates, [])
        engine = open_engine(str(tmp_path / "inside" / "store.sqlite"), create=True)
        token = admit(engine, read_secret(), "127.0.0.1", "store")
        import_tasks(engine, "c", candidates, "f", overlap=2)
        return make_app(Store(engine), TaskImages(candidates, None), read_secret(), ["here"]), token

    async def send(app, path, body, cookie):
        headers = [(b"host", b"here"), (b"origin", b"http://here"), (b"content-type", b"application/json")]
        headers += [(b"cookie", b"visionsam_annotator=" + cookie), (b"content-length", str(len(body)).encode())]
        scope = dict(
            type="http", http_version="1.1", method="POST", scheme="http", path=path, raw_path=path.encode(), query_string=b"",
            headers=headers, client=("127.0.0.1", 1), server=("here", 80), root_path="",
        )  # fmt: skip
        told: list[dict] = []
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def answer(message):
            told.append(message)

        await app(scope, receive, answer)
        return told[0]["status"], b"".join(message.get("body", b"") for message in told)

    loop, held = asyncio.new_event_loop(), {}

    def attempt(rng, inside):
        if not held:
            held["app"], token = make()
            held["cookie"] = (token or "").encode()
            status, body = loop.run_until_complete(send(held["app"], "/api/claim", b"{}", held["cookie"]))
            assert status == 200, body
            task = json.loads(body)["tasks"][0]
            event = {
                "uuid": "5f0c9f6e-7a5c-4f6e-9a39-3d0f6d5c2a11",
                "assignment": task["id"],
                "kind": "submit",
                "ranking": [1, 2, 3],
            }
            bodies = {"/api/events": {"events": [event]}, "/api/session": {"token": token}, "/api/claim": {}, "/api/logout": {}}
            held["good"] = [(path, json.dumps(body).encode()) for path, body in bodies.items()]
        path, body = rng.choice(held["good"][:1] * 3 + held["good"])
        if rng.random() < 0.1:
            path = mutated(path.encode(), rng).decode("latin-1")
        status, _ = loop.run_until_complete(send(held["app"], path, mutated(body, rng), held["cookie"]))
        assert status < 500, status
        return "understood" if status < 300 else "refused"

    outcomes = survive("http", inputs(60, 1200), attempt, tmp_path)
    assert outcomes["refused"] and outcomes["understood"]


def test_whole_builds_from_damaged_folders(tmp_path):
    """`build masks` and `predict` on damaged files, stopping and skipping."""
    rows = segmentation_rows(3)

    def attempt(rng, inside):
        number = len(list(inside.iterdir()))
        folder = inside / f"{number}"
        for row in rows:
            for kind in ("image", "mask"):
                (folder / f"{kind}s").mkdir(parents=True, exist_ok=True)
                buffer = io.BytesIO()
                row[kind].save(buffer, "PNG")
                content = buffer.getvalue()
                (folder / f"{kind}s" / f"{row['image_id']}.png").write_bytes(
                    mutated(content, rng) if rng.random() < 0.3 else content
                )
        skip = rng.random() < 0.5
        code = cli.main(
            [
                "build",
                "masks",
                "--data_dir",
                str(folder),
                "--output_dir",
                f"{folder}-out",
                "--on_error",
                "skip" if skip else "stop",
            ]
        )
        assert code in (0, 2), code
        return "one line" if code else "skipped and counted" if skip else "understood"

    survive("build_masks", inputs(6, 120), attempt, tmp_path)
