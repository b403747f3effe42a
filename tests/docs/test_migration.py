"""The page for users of the published code: every term of the scripts has a row, and every counterpart exists."""

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from blobex.cli import main as cli
from blobex.config.params import Params
from blobex.config.read import parse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "migration.md").read_text()
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
ROWS = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
# Commands, options and files of the published scripts' description, in its order.
PUBLISHED = """
+experiment=blobgan40, src/configs, wandb.entity, WANDB_API_KEY, wandb.offline=true, python src/run.py, logs/wandb,
run-DATE_TIME_id, resume.id=36lxjdji, resume.id=null, checkpoint.every_n_train_steps, save_top_k, mode, monitor,
monitor: train/fid, monitor: step, model.fid_stats_name, trainer.accumulate_grad_batches, trainer.gpus, batch_size,
model.generator.size_in, model.aspect_ratio, generator.override_c_in, layout_net.feature_dim, setup_fid.py,
--action compute_new, --action download, --n_imgs, --shuffle, --name, -bs, --device, --path, site-packages/cleanfid,
fid_stats/, compute_fast_fid.py, compute_clean_fid.py, --num_gen, --batch_size, --dataset_name, pretrain_encoder.py,
mlp_idx, train_encoder.py, blobex_inv_cf.py, Config, inv_optim, cf_optim, target_attributes, target_features,
blobex_inv_cf_target_blobs.py, target_blob, blobex_inv_cf_diversity.py, snapshot, metadata.pt, latent_enc, demo.ipynb,
blobgan_256x256.ckpt, blobgan_256x512.ckpt, encoder_256x256.ckpt, encoder_256x512.ckpt, decision_densenet.tar,
decision_densenet_biased.tar, detection, sem_seg, panoptic, drivable
"""
# A value that the page names for a parameter, of which `<setup>` and `<variant>` are `rect` and `basic`.
ASSIGNMENT = re.compile(r"`((?:[a-z_]+|<\w+>)(?:\.(?:[a-z_0-9]+|<\w+>))+)(?:: ([^`]+))?`")


@pytest.mark.parametrize("term", [term.strip() for term in PUBLISHED.replace("\n", " ").split(", ")])
def test_each_published_term_has_a_row(term):
    assert any(term in cells[0] for cells in ROWS), term


def counterparts():
    for *_, cell in ROWS:
        for name, value in ASSIGNMENT.findall(cell):
            path = name.replace("<setup>", "rect").replace("<variant>", "basic").split(".")
            if path[0] in PARAMS:
                yield path, value


def test_every_parameter_exists_and_takes_the_value():
    seen = list(counterparts())
    assert len(seen) > 30
    for path, value in seen:
        tree = yaml.safe_load((ROOT / "params.yaml").read_text())
        *sections, name = path
        section = tree
        for key in sections:
            section = section[key]
        assert name in section, path
        if value and not re.search(r"\.\.\.|^\{\w+(, \w+)*\}$| or ", value):
            section[name] = yaml.safe_load(value)
            parse(Params, tree)
        elif re.fullmatch(r"\{\w+(, \w+)*\}", value):  # names of keys
            assert set(re.findall(r"\w+", value)) <= set(section[name]), path


def test_values_without_a_section_are_accepted_by_the_training():
    """Rows about resume and checkpoint name keys of blobgan.training."""
    training = PARAMS["blobgan"]["training"]
    for source in ("none", "last", "best", "step"):
        assert f"source: {source}" in PAGE
        training["resume"]["source"] = source
        parse(Params, PARAMS)
    for monitor, mode in (("fid_clean", "min"), ("step", "max")):
        training["checkpoint"] |= {"monitor": monitor, "mode": mode}
        parse(Params, PARAMS)


def test_every_command_and_option_exists():
    lines = [line for line in re.findall(r"`(blobex [^`]+)`", PAGE) if line != "blobex explain"]
    assert len(lines) >= 5
    for line in lines:
        name, *words = line.split()[1:]
        text = CliRunner().invoke(cli.app, [name, "--help"], env={"COLUMNS": "200"}).output
        for option in (word for word in words if word.startswith("-")):
            assert re.search(rf"(?<!\S){option}(?![\w-])", text), (line, option)
    for stage in re.findall(r"`dvc repro (\w+)`", PAGE):
        assert stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"], stage
