"""`visionsam demo IMAGE`: a page on this machine; a box drawn on the photograph is answered by any model."""

import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import uvicorn

from visionsam_hf.annotation.access import allowed_hosts, bind
from visionsam_hf.annotation.demo import make_demo
from visionsam_hf.cli.options import DemoSettings
from visionsam_hf.cli.predict import read_image
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import PACKAGED_MODEL
from visionsam_hf.data.windows import choose_rule
from visionsam_hf.inference.prediction import answer_prompts, look_at
from visionsam_hf.models.loading import load_model, load_processor, to_best_device
from visionsam_hf.models.pretrained import pretrained_here

_HOST = "127.0.0.1"


def run(settings: DemoSettings) -> None:
    """Serve the page until interrupted."""
    path = Path(settings.image)
    if not path.is_file():
        raise UserError(f"{path}: no such photograph")
    image = read_image(path)
    name = settings.model or pretrained_here() or PACKAGED_MODEL
    model, processor = to_best_device(load_model(name)).eval(), load_processor(name)
    rule, size = choose_rule(settings, processor), (image.height, image.width)
    look, one_at_a_time = look_at(model, processor, image), threading.Lock()

    def answer(box: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        boxes, points = np.array([box], np.float32), np.zeros((1, 2, 2), np.float32)
        with one_at_a_time:
            masks, scores = answer_prompts(model, look, boxes, points, size, "box", [rule.of_box(box, size)])
        return masks[0], scores[0]

    listener = bind(_HOST, settings.port)
    port = listener.getsockname()[1]
    app = make_demo(np.asarray(image), path.name, name, answer, allowed_hosts(_HOST, port))
    address = f"http://{_HOST}:{port}/"
    print(f"Draw a box at {address} ({name}). Stop with Ctrl+C.", flush=True)
    webbrowser.open(address)
    config = uvicorn.Config(app, log_level="warning", proxy_headers=False, server_header=False, access_log=False)
    uvicorn.Server(config).run(sockets=[listener])
