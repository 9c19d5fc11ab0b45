"""What of a directory goes to the Hub, checked: kind, files and card, that the content is sound, and nothing private.

Private are paths of a machine, passwords, tokens, addresses, and the names of annotators.
"""

import fnmatch
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pyarrow.parquet as pq
import torch
from huggingface_hub import DatasetCard, ModelCard
from PIL import Image
from safetensors import safe_open

from visionsam_hf.data.dataset_directory import load_split, rows_of, split_names
from visionsam_hf.data.errors import UserError, decoding
from visionsam_hf.data.inspection import kind_of
from visionsam_hf.data.records import PACKAGED_MODEL, PUBLISHED, looks_local
from visionsam_hf.evaluation.result_files import stage_record
from visionsam_hf.hub.card_figures import data_examples
from visionsam_hf.hub.model_card import FIGURE, PLACEHOLDER, TRAINED, complete_model_card, write_model_card
from visionsam_hf.hub.provenance import UNKNOWN, card_path, license_of, parts_of, published_as, settle, valid_yaml
from visionsam_hf.hub.results import eval_result_files, find_results
from visionsam_hf.inference.finders.finder_files import is_finder, load_finder
from visionsam_hf.models.auto_classes import code_files, needs_code
from visionsam_hf.models.loading import load_model, load_processor

# What each kind of repository is made of; anything else stays here. Checkpoints, optimisers and pickles are in none, and
# Python files only as this package has them (`_add_code`).
_TOP = ("README.md", "LICENSE*", "*.json", "*.png", "*.jpg")
_FILES = {
    "model": (*_TOP, "*.safetensors", ".eval_results/*.yaml"),
    "adapter": (*_TOP, "adapter_model.safetensors", ".eval_results/*.yaml"),
    "finder": (*_TOP, "model.safetensors"),
    "data": (*_TOP, "data/*.parquet", "*.csv", "*.jsonl", "*.html"),
}
_NEVER = (PUBLISHED, "optimizer*", "scheduler*", "training_args*", "rng_state*")
_TEXT = {".md", ".json", ".jsonl", ".csv", ".yaml", ".html", ".txt", ""}
_LARGEST_FILE = 50 * 10**9  # bytes; the Hub takes no larger one

# Nothing of base64, a URL or a relative path before it.
_BEFORE = r"(?<![\w.~/:+=\\-])"
_PATH = re.compile(
    rf"{_BEFORE}/(?P<top>[\w.+-]+)/[^\s\"'`<>|()\[\],;]+"
    rf"|{_BEFORE}[A-Za-z]:\\[^\s\"'`<>|]+"
    r"|file://[^\s\"'`<>]+"
)
_USUAL_TOPS = {"home", "Users", "root", "tmp", "mnt", "media", "var", "opt", "srv", "private", "Volumes", "scratch"}
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
_PASSWORD = re.compile(r"(?P<scheme>\w+://)[^\s/@:\"']*:[^\s/@\"']+@")
_PSEUDONYM = re.compile(r"(annotator|oracle)-\d+")
_NAMED_COLUMNS = ("image_id", "source")


@dataclass
class Publication:
    """A directory as it would be pushed.

    Attributes:
        directory: where it is.
        kind: "model", "adapter", "finder", "segmentation", "candidates" or "preference".
        license: the settled one.
        files: path in the repository -> the file, or its content where that differs from the file.
        left_out: files and folders of the directory that are not sent.
        base: of an adapter, the Hub id of its base model.
        needs_code: whether transformers alone loads it only with `trust_remote_code`.
    """

    directory: Path
    kind: str
    license: str = UNKNOWN
    files: dict[str, Path | bytes] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    base: str = ""
    needs_code: bool = False

    @property
    def repo_type(self) -> str:
        """As the Hub calls it: "model" or "dataset"."""
        return "model" if self.kind in ("model", "adapter", "finder") else "dataset"

    def size(self, path: str) -> int:
        """Bytes of one of `files`."""
        content = self.files[path]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def prepare(directory: str | Path, repo_id: str, *, license: str = "", base_model: str = "") -> Publication:
    """Check a directory and collect what goes to the Hub.

    Args:
        directory: of a model, an adapter or a data set. Nothing in it is changed, but for a trained model's missing
            card, which is written.
        repo_id: the name it will have; it goes into the card.
        license: stated by the user, or "".
        base_model: the Hub id of the base model, where it was trained from a directory.

    Raises:
        UserError: the first thing that keeps it from being published, with the file and the fix.
    """
    directory = Path(directory)
    kind = _kind(directory)
    publication = Publication(directory, kind)
    _require_card(directory)
    _collect(publication)
    if kind == "adapter":
        _check_adapter(publication, base_model)
    elif kind == "model":
        _check_model(directory)
    elif kind == "finder":
        load_finder(directory)
    else:
        _check_rows(directory, kind)
    _add_code(publication)
    parts = {f"the {part.repo_type} '{part.name}'": part.license for part in parts_of(directory)}
    if publication.repo_type == "dataset" or not parts:
        # A data set's own card outweighs what follows from its parts; a model's was itself combined from them.
        parts = {f"{directory.name}/README.md": license_of(directory)} if license_of(directory) != UNKNOWN else parts
    publication.license = settle(license, parts)
    publication.files["README.md"] = _card(publication, repo_id, base_model).encode()
    _check_contents(publication)
    return publication


def _kind(directory: Path) -> str:
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; give one that a stage wrote")
    if directory.name.endswith(".partial"):
        raise UserError(f"{directory}: is unfinished; run its stage to the end, then push {directory.with_suffix('')}")
    if (directory / "adapter_config.json").is_file():
        return "adapter"
    if is_finder(directory):
        return "finder"
    if (directory / "config.json").is_file():
        return "model"
    shard = next(iter(sorted(directory.glob("data/*.parquet"))), None)
    if shard is None:
        raise UserError(
            f"{directory}: holds no model (config.json), no adapter (adapter_config.json) and no data set"
            " (data/*.parquet); give the directory that a stage wrote"
        )
    return kind_of(pq.read_schema(shard).names)


def _collect(publication: Publication) -> None:
    patterns = _FILES[publication.kind if publication.repo_type == "model" else "data"]
    for path in sorted(publication.directory.rglob("*")):
        name = path.relative_to(publication.directory).as_posix()
        if path.is_file() and _matches(name, patterns) and not _matches(path.name, _NEVER):
            publication.files[name] = cleaned_json(path) if path.suffix == ".json" else path
        elif path.is_file() and path.name != PUBLISHED:
            top = name if "/" not in name else name.split("/")[0] + "/"
            if top not in publication.left_out:
                publication.left_out.append(top)


def _add_code(publication: Publication) -> None:
    """The code of a MobileSAM or LiteMedSAM: this package's, not the directory's, which anybody may have changed."""
    code = {path.name: path for path in code_files(publication.directory)}
    publication.files |= code
    publication.left_out = [name for name in publication.left_out if name not in code]
    publication.needs_code = needs_code(publication.directory)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    # A star does not reach into folders.
    return any(fnmatch.fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)


def _require_card(directory: Path) -> None:
    """A trained model's card is written when it is missing; nobody else's can be."""
    if card_path(directory).is_file():
        return
    if (stage_record(directory) or {}).get("stage") not in TRAINED:
        raise UserError(f"{directory}: has no README.md; write a card that says what it is, from what, and for what")
    write_model_card(directory)


def _card(publication: Publication, repo_id: str, base_model: str) -> str:
    path = card_path(publication.directory)
    with valid_yaml(path):
        text = path.read_text(encoding="utf-8")
        card = ModelCard(text) if publication.repo_type == "model" else DatasetCard(text)
    if publication.repo_type == "dataset":
        return _data_card(card, publication, repo_id)
    record, results = stage_record(publication.directory), find_results(publication.directory)
    publication.files |= eval_result_files(results)
    base = publication.base or base_model
    return str(complete_model_card(card, record, results, name=repo_id, license=publication.license, base=base))


def _data_card(card: DatasetCard, publication: Publication, repo_id: str) -> str:
    card.data.license = publication.license
    if not re.search(r"!\[", card.text):
        picture = data_examples(publication.directory, publication.kind)
        if picture is not None:
            publication.files[FIGURE] = picture
            heading = re.search(r"^## ", card.text, flags=re.M)
            place = heading.start() if heading else len(card.text)
            figure = f"![Some of its rows]({FIGURE})"
            card.text = f"{card.text[:place].rstrip()}\n\n{figure}\n\n{card.text[place:]}"
    card.text = card.text.replace(PLACEHOLDER, repo_id)
    return str(card)


def _check_model(directory: Path) -> None:
    shards = sorted(directory.glob("*.safetensors"))
    if not shards:
        raise UserError(f"{directory}: has no model.safetensors; save the model as safetensors")
    model = load_model(str(directory))
    load_processor(str(directory))
    stored: set[str] = set()
    for shard in shards:
        with safe_open(shard, "pt") as file:
            stored |= set(file.keys())
    # The positional encoding stands in two places and is stored in one.
    wanted = {name for name in model.state_dict() if not name.startswith("prompt_encoder.shared_embedding")}
    if missing := sorted(wanted - stored):
        raise UserError(f"{directory}: its weights lack {missing[0]} ({len(missing)} in all); save the model again")
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise UserError(f"{directory}: {name} is not finite everywhere; train again with a lower learning_rate")


def _check_adapter(publication: Publication, base_model: str) -> None:
    directory = publication.directory
    if not (directory / "adapter_model.safetensors").is_file():
        raise UserError(f"{directory}: has no adapter_model.safetensors; save the adapter as safetensors")
    config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    stated = str(config.get("base_model_name_or_path") or "")
    base = base_model or (published_as(stated) if Path(stated).is_dir() else stated)
    if not base or looks_local(base) or base == PACKAGED_MODEL:
        raise UserError(
            f"{directory / 'adapter_config.json'}: its base model '{stated}' is not on the Hub, so nobody else can load"
            " it; push the base first and pass --base_model OWNER/NAME, or merge the adapter"
        )
    publication.base = base
    if base != stated:
        content = json.dumps(config | {"base_model_name_or_path": base}, indent=2) + "\n"
        publication.files["adapter_config.json"] = content.encode()


def _check_rows(directory: Path, kind: str) -> None:
    splits = split_names(directory)
    for split in splits:
        # Checks the columns of every kind, and every row of preferences.
        rows = load_split(directory, split, kind=kind)
        if kind == "segmentation":
            for number, row in enumerate(rows_of(rows.select_columns(["image", "mask"]))):
                sizes = [_image_size(row[name]) for name in ("image", "mask")]
                if None in sizes or sizes[0] != sizes[1]:
                    raise UserError(
                        f"{directory}, split {split}: row {number}: the mask is not of its image's size, or one of them"
                        " is no image; build the data set again"
                    )
    for shard in sorted(directory.glob("data/*.parquet")):
        check_data(shard)


def _image_size(value: dict[str, Any]) -> tuple[int, int] | None:
    try:
        with Image.open(io.BytesIO(value["bytes"])) as image:
            return image.size
    except (OSError, TypeError):
        return None


def _check_contents(publication: Publication) -> None:
    for name, text in _texts(publication):
        check_text(name, text)
    for name in publication.files:
        if publication.size(name) > _LARGEST_FILE:
            raise UserError(f"{publication.directory / name}: is larger than 50 GB; write it in several shards")


def _texts(publication: Publication) -> Iterator[tuple[str, str]]:
    for name, content in publication.files.items():
        if Path(name).suffix in _TEXT:
            try:
                yield name, content.decode() if isinstance(content, bytes) else content.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                file = publication.directory / name
                raise UserError(f"{file}: is no UTF-8 text; remove it, or save it as UTF-8") from None


def find_path(text: str) -> str | None:
    """The first absolute path of a machine in a text."""
    return next((match[0] for match in _PATH.finditer(text) if _is_path(match)), None)


def _is_path(match: re.Match[str]) -> bool:
    top = match["top"]
    return top is None or top in _USUAL_TOPS or Path("/", top).is_dir()


def without_machine(value: Any) -> Any:
    """JSON values with every absolute path cut to its last part and passwords taken out of URLs, in keys too."""
    if isinstance(value, dict):
        return {without_machine(key): without_machine(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_machine(item) for item in value]
    if isinstance(value, str):
        value = _PATH.sub(lambda match: _last_part(match) if _is_path(match) else match[0], value)
        return _PASSWORD.sub(r"\g<scheme>", value)
    return value


def _last_part(match: re.Match[str]) -> str:
    path = match[0].removeprefix("file://")
    return (PurePosixPath(path) if path.startswith("/") else PureWindowsPath(path)).name


def cleaned_json(path: Path) -> Path | bytes:
    """A JSON file as it may be published: itself where it names no machine, else its cleaned text."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error}); remove it, or write it again") from None
    cleaned = without_machine(value)
    return path if cleaned == value else (json.dumps(cleaned, indent=2) + "\n").encode()


def check_text(name: str, text: str) -> None:
    """Raise `UserError` naming file and line of the first thing in a text that must not be published."""
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{name}:{number}"
        if _TOKEN.search(line):
            raise UserError(f"{where}: holds an access token; revoke it on the Hub, and remove it")
        if _PASSWORD.search(line):
            raise UserError(f"{where}: holds a URL with a password; remove it")
        if path := find_path(line):
            raise UserError(f"{where}: names '{path}', a path of this machine; remove it")
        if address := _EMAIL.search(line):
            raise UserError(f"{where}: holds the address '{address[0]}'; remove it")


def check_data(path: Path) -> None:
    """Raise `UserError` for a path, an address or an annotator's own name in a Parquet file's columns of words."""
    with decoding(path.name):
        file = pq.ParquetFile(path)
    with file:
        columns = [name for name in (*_NAMED_COLUMNS, "annotations") if name in file.schema_arrow.names]
        columns += [f"{name}.path" for name in ("image", "mask") if name in file.schema_arrow.names]
        first = 0
        for group in range(file.num_row_groups):
            with decoding(path.name):
                rows = file.read_row_group(group, columns=columns).to_pylist()
            for number, row in enumerate(rows, first):
                where = f"{path.name}: row {number}"
                for word in _words(row):
                    if (found := find_path(word)) or (found := getattr(_EMAIL.search(word), "string", None)):
                        raise UserError(f"{where} holds '{found}'; build the data set again without it")
                for annotation in row.get("annotations") or []:
                    if not _PSEUDONYM.fullmatch(annotation["annotator"] or ""):
                        raise UserError(
                            f"{where}: the annotator '{annotation['annotator']}' is no pseudonym (annotator-1, ...);"
                            " export the preferences again"
                        )
            first += len(rows)


def _words(row: dict[str, Any]) -> Iterable[str]:
    for name in _NAMED_COLUMNS:
        if row.get(name):
            yield row[name]
    for name in ("image", "mask"):
        path = (row.get(name) or {}).get("path")
        if path:
            yield path
