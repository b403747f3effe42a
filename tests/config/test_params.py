"""Parameters as a whole: setups, batch sizes and published values."""

import dataclasses

import pytest
from pydantic import ValidationError
from worlds.profiles import profile_params

from blobex.config.data import ImageSize
from blobex.config.params import IMAGE_TRAININGS
from blobex.core.errors import BlobexError
from blobex.counterfactual import published as counterfactual
from blobex.inversion import published as inversion


@pytest.fixture(scope="module")
def params():
    return profile_params("smoke")


def test_parameters_are_frozen(params):
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.run.seed = 1


def test_replaced_values_are_validated(params):
    assert dataclasses.replace(params.invert, truncation=1).truncation == 1.0
    with pytest.raises(ValidationError, match="truncation"):
        dataclasses.replace(params.invert, truncation=1.5)


def test_image_size_of_a_setup(params):
    assert params.setup("square") == ImageSize(32, 1) and params.setup("square").width == 32
    assert params.setup("rect") == ImageSize(32, 2) and params.setup("rect").width == 64


@pytest.mark.parametrize(("batches", "divisor"), [("pixels", 2), ("pictures", 1)])
def test_batches_of_wide_images(params, batches, divisor):
    params = dataclasses.replace(params, run=dataclasses.replace(params.run, batches=batches))
    wide = params.for_setup("rect")
    for section in IMAGE_TRAININGS:
        size = getattr(params, section).training.batch_size
        assert getattr(wide, section).training.batch_size == size // divisor
    for name in ("decision", "reading"):
        size = getattr(params.witness, name).training.batch_size
        assert getattr(wide.witness, name).training.batch_size == size // divisor
    assert wide.blobgan_pretrain.layout == params.blobgan_pretrain.layout  # its batches hold layouts, not images
    assert params.for_setup("square").blobgan == params.blobgan
    assert wide.for_setup("rect") == wide  # logged parameters reproduce the run


def test_unknown_setup(params):
    for function in (params.setup, params.for_setup):
        with pytest.raises(BlobexError, match=r"'round'.*square or rect"):
            function("round")


def test_unknown_variant(params):
    with pytest.raises(BlobexError, match="'wild': choose from basic, targeted, diverse"):
        params.explain.variant("wild")


def test_published_parameters_start_at_the_encoder(params):
    published = params.published()
    assert (published.search.mode, published.invert.start) == ("published", "encoder")
    assert dataclasses.replace(published, search=params.search, invert=params.invert) == params


def test_published_searches_have_the_values_of_the_paper():
    """OCTET's inversion and basic search; profiles hold the parameters of the fast search only."""
    assert (inversion.STEPS, inversion.HALVE_EVERY) == (400, 100)
    assert (inversion.LEARNING_RATE, inversion.SIZE_LEARNING_RATE) == (0.02, 0.04)
    assert inversion.WEIGHTS == {"perceptual": 1, "l2": 0.1, "decision": 0.1, "blobs": 0.1, "density": 0}
    assert (counterfactual.STEPS, counterfactual.LAMBDA_PROX) == (200, 0.1)
    assert (counterfactual.LEARNING_RATE, counterfactual.SIZE_LEARNING_RATE) == (0.08 / 8, 0.08)
    weights = {"xs": 6, "ys": 6, "covs": 1, "sizes": 1, "features": 20, "spatial_style": 20}
    assert weights == counterfactual.LAMBDA_KEY
    for name in ("smoke", "short", "synthetic", "bdd100k", "published"):
        params = profile_params(name)
        assert params.search.mode == ("published" if name == "published" else "fast")
        assert params.explain.square.lambda_key == params.explain.rect.lambda_key == weights
