"""Tasks that sweeps tune, in the painted world."""

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from worlds.sweep_world import COUNT, search_task, world_images, world_params
from worlds.tiny_models import NETWORK, save_models
from worlds.tiny_networks import random_blobgan
from worlds.tiny_world import HEIGHT, decide, render, scenes, tiny_explainer, tiny_params

from blobex.config.read import load_params
from blobex.core.errors import BlobexError
from blobex.datasets.images import to_array, write_png
from blobex.decisions.source import from_callable
from blobex.explain.explainer import Explainer
from blobex.explain.request import Request
from blobex.sweeps.best import comparison, table
from blobex.sweeps.launch import load_task
from blobex.sweeps.storage import StudyFolder
from blobex.sweeps.study import begin
from blobex.sweeps.sweep import sweep
from blobex.sweeps.sweep_images import split_images
from blobex.sweeps.tune_counterfactual import Answers, CounterfactualTask
from blobex.sweeps.tune_encoder import EncoderTask, explained_by_image
from blobex.sweeps.tune_inversion import InversionTask
from blobex.sweeps.worker import work

FREE = lambda losses, late=False: False  # noqa: E731
HOPELESS = lambda losses, late=False: True  # noqa: E731


def test_starts_are_the_present_and_the_published_settings(tmp_path):
    task = search_task(tmp_path)
    starts = {name: task.settings(values) for name, values in task.starts().items()}
    assert starts["present"] == {"learning_rate": 0.03, "steps": 40, "lambda_prox": 0.01}
    assert starts["published"] == {"learning_rate": 0.01, "steps": 200, "lambda_prox": 0.1}
    assert task.keys(starts["present"])["explain.rect.steps"] == 40


def test_travel_couples_steps_and_learning_rate(tmp_path):
    task = search_task(tmp_path)
    assert task.settings({"travel": 2.0, "steps": 50})["learning_rate"] == 0.04
    assert task.settings({"travel": 2.0, "steps": 100})["learning_rate"] == 0.02
    assert task.settings({"travel": 2.0}) == {"learning_rate": 2 / 40}  # of the present steps


def test_trial_agrees_with_the_explainer(tmp_path):
    task = search_task(tmp_path)
    reported = {}
    settings = {"learning_rate": 0.03, "steps": 40, "lambda_prox": 0.01}
    outcome = task.measure(settings, lambda losses, late=False: reported.update(losses))
    arrays = [to_array(picture) for picture in task.images.seen[1]]
    records = tiny_explainer(world_params()).explain(arrays, Request(["stop"]))
    assert all(record.flipped for record in records)
    price = task.options.blob_price
    costs = [record.perceptual + price * len(record.blobs) for record in records]
    assert outcome.measures["flip_rate"] == 1 and outcome.limits["flip_rate"] < 0
    assert outcome.loss == pytest.approx(np.mean(costs), rel=0.05)  # pictures were rounded to bytes there
    assert sorted(reported) == list(range(COUNT)) and np.mean(list(reported.values())) == pytest.approx(outcome.loss)
    assert outcome.image.dtype == np.uint8 and outcome.stopped_after is None


@pytest.mark.parametrize("chunk", [1, 3])
def test_images_get_one_question_in_turn(tmp_path, chunk):
    params, reported = world_params(chunk=chunk), {}
    params = dataclasses.replace(params, explain=dataclasses.replace(params.explain, attributes=["forward", "stop"]))
    task = CounterfactualTask(tiny_explainer(params), world_images(), tmp_path)
    outcome = task.measure({"steps": 40}, lambda losses, late=False: reported.update(losses))
    every = tiny_explainer(params).explain(
        [to_array(picture) for picture in task.images.seen[1]], Request(["forward", "stop"])
    )
    mine = [every[2 * number + number % 2] for number in range(COUNT)]  # forward of the first picture, stop of the next
    assert [record.attribute for record in mine] == ["forward", "stop"] * (COUNT // 2)
    price = task.options.blob_price
    assert list(reported.values()) == pytest.approx([one.perceptual + price * len(one.blobs) for one in mine], rel=0.05)
    assert outcome.measures["changed_blobs"] == np.mean([len(one.blobs) for one in mine])


def test_stopped_trial_says_after_how_many_images(tmp_path):
    outcome = search_task(tmp_path).measure({"steps": 5}, HOPELESS)
    assert outcome.stopped_after == 2


@pytest.mark.parametrize(("mode", "stopped"), [("single", 2), ("pareto", None)])
def test_a_trial_that_is_far_too_slow_is_hopeless_unless_the_best_is_compared_with_it(tmp_path, mode, stopped):
    task = search_task(tmp_path, seconds=1e-6, mode=mode, pruner="none", flip_rate=0.0)
    study = begin(task, StudyFolder(tmp_path), "study")
    work(study, task, task.explainer.params, 3)
    *starts, other = study.trials()
    assert [trial.user_attrs["name"] for trial in starts] == ["present", "published"]
    assert [trial.user_attrs["stopped_after"] for trial in (*starts, other)] == [None, None, stopped]
    assert all(trial.constraints["seconds"] > 0 for trial in (*starts, other))


def test_image_twice_as_wide_may_take_twice_as_long(tmp_path):
    task = search_task(tmp_path, seconds=1.5, flip_rate=0.5)
    assert task.limits({"flip_rate": 0.5, "seconds": 3.0}, "flip_rate", 0.5) == {"flip_rate": 0.0, "seconds": 0.0}
    other = search_task(tmp_path, seconds=3.0)
    assert task.identity()["limits"] != other.identity()["limits"]


def test_another_perceptual_network_is_another_study_and_other_results(tmp_path):
    task = search_task(tmp_path)
    explainer = task.explainer
    data = dataclasses.replace(explainer.params.data, perceptual="vgg")
    other = dataclasses.replace(explainer, params=dataclasses.replace(explainer.params, data=data))
    assert CounterfactualTask(other, world_images(), tmp_path).identity() != task.identity()
    plan = explainer.plan(task.requests[0])
    assert other.settings(plan) != explainer.settings(plan)


def test_images_are_explained_as_the_variants_in_turn(tmp_path):
    """The answers of a chunk are those of its images one by one, in their order."""
    mixed = search_task(tmp_path, variants=["basic", "targeted"])
    index = torch.arange(COUNT)
    together = mixed.answers(mixed.explainer, mixed.seen, index)
    for number in range(COUNT):
        name = ["basic", "targeted"][number % 2]  # one attribute: every picture is the next variant's turn
        alone = search_task(tmp_path, variants=[name])
        (one,) = alone.answers(alone.explainer, alone.seen, index[number : number + 1]).records
        (same,) = together.records[number : number + 1]
        assert same == one and np.array_equal(same.counterfactual, one.counterfactual)
        assert name == "basic" or set(same.changed_keys) <= {"features", "spatial_style"}
    assert mixed.identity() != search_task(tmp_path).identity()


def test_comparison_has_the_flip_rate_of_each_variant(tmp_path):
    task = search_task(tmp_path, variants=["basic", "targeted"])
    settings = task.settings(task.starts()["present"]) | {"steps": 5}
    compared = task.compare({"best": settings})
    reported = compared["measures"]["best"]
    assert reported["flip_rate"] == pytest.approx((reported["flip_rate_basic"] + reported["flip_rate_targeted"]) / 2)
    assert "flip_rate_targeted" in table(compared)
    alone = search_task(tmp_path).compare({"best": settings})["measures"]["best"]
    assert not [name for name in alone if name.startswith("flip_rate_")]


def test_variants_with_different_numbers_of_answers_cannot_be_swept_together(tmp_path):
    problem = r"different numbers of answers \(basic 1 and diverse 3\): sweep them one at a time"
    with pytest.raises(BlobexError, match=problem):
        search_task(tmp_path, variants=["basic", "diverse"])


def test_settings_out_of_range_fail(tmp_path):
    with pytest.raises(BlobexError, match=r"explain\.rect\.learning_rate is 99"):
        search_task(tmp_path).measure({"learning_rate": 99.0}, FREE)


def test_giving_up_on_hard_pictures_does_not_pay():
    def answers(flipped):
        full = np.ones((2, 2), bool)
        distance = np.array([[0.1, 0.9], [0.1, 0.1]])
        return Answers(6.0, full, np.array(flipped), ~full, distance, np.full((2, 2), 2.0), [])

    whole, part = answers([[True, True], [True, True]]), answers([[True, False], [True, True]])
    assert whole.losses(0.01, 0.5).tolist() == pytest.approx([0.52, 0.12])
    assert part.losses(0.01, 0.5).tolist() == pytest.approx([0.52, 0.12])  # never below what the flip would cost
    assert part.losses(0.01, 2.0).tolist() == pytest.approx([(0.12 + 2.0) / 2, 0.12])
    assert part.measures() == pytest.approx(
        {"flip_rate": 0.75, "perceptual": 0.1, "changed_blobs": 2, "failed": 0, "seconds": 3}
    )


def test_questions_decided_as_wanted_do_not_count():
    valid = np.array([[True, False], [False, False]])
    flipped, nothing = np.array([[True, False], [False, False]]), np.zeros((2, 2), bool)
    found = Answers(1.0, valid, flipped, nothing, np.full((2, 2), 0.3), np.ones((2, 2)), [])
    losses = found.losses(0.0, 1.0)
    assert losses[0] == pytest.approx(0.3) and np.isnan(losses[1])
    assert found.measures()["flip_rate"] == 1


def test_images_are_inverted_once(tmp_path, monkeypatch):
    search_task(tmp_path).prepare()
    (kept,) = tmp_path.glob("inversions-*.pt")
    monkeypatch.setattr(Explainer, "invert", lambda *arguments: pytest.fail("inverted again"))
    task = search_task(tmp_path)
    task.prepare()
    assert task.seen.path == kept


@pytest.mark.slow
def test_sweep_of_the_search(tmp_path, monkeypatch):
    monkeypatch.setattr("blobex.sweeps.sweep.write_plots", lambda opened, task: [])
    task = search_task(tmp_path, flip_rate=0.9)
    study = begin(task, StudyFolder(tmp_path), "study")
    compared = sweep(study, task, task.explainer.params, 3, 1, [])
    assert all(each["loss"]["mean"] <= 0.02 for each in compared["differences"].values())
    assert compared["pictures"] == COUNT and set(compared["measures"]) == {"present", "published", "best"}
    text = table(compared)
    assert "best - published, with 95% intervals over images:" in text and "on 4 held-out images" in text
    assert len(list(tmp_path.glob("inversions-*.pt"))) == 3
    swapped = dataclasses.replace(task.images, seen=task.images.held_out)
    other = CounterfactualTask(tiny_explainer(world_params(flip_rate=0.9)), swapped, tmp_path)
    with pytest.raises(BlobexError, match="another pictures"):
        begin(other, StudyFolder(tmp_path), "study")


SAMPLES = {
    "present": {"loss": np.array([1.0, 2.0, 3.0]), "rate": np.array([1.0, np.nan, 1.0])},
    "best": {"loss": np.array([0.5, 1.5, 2.5]), "rate": np.array([1.0, 1.0, np.nan])},
}


def measured(settings):
    samples = [*SAMPLES.values()][settings["steps"]]
    return {"loss": float(samples["loss"].mean())}, samples


def test_comparison_is_of_pairs():
    found = comparison(3, {"present": {"steps": 0}, "best": {"steps": 1}}, measured, 0)
    assert found["measures"] == {"present": {"loss": 2.0}, "best": {"loss": 1.5}}
    assert found["differences"]["best - present"]["loss"] == {"mean": -0.5, "low": -0.5, "high": -0.5, "count": 3}
    assert found["differences"]["best - present"]["rate"]["count"] == 1
    json.dumps(found)


def test_what_fails_where_settings_are_compared_is_left_out(capsys):
    candidates = {"present": {"steps": 0}, "published": {"steps": 9}, "best": {"steps": 1}}
    found = comparison(3, candidates, measured, 0)
    assert list(found["measures"]) == ["present", "best"] and list(found["differences"]) == ["best - present"]
    assert "published settings fail on what is held out" in capsys.readouterr().out
    assert "best - present" in table(found)
    with pytest.raises(IndexError):
        comparison(3, candidates | {"best": {"steps": 9}}, measured, 0)


def test_the_published_searches_cannot_be_tuned(tmp_path):
    params = world_params()
    explainer = tiny_explainer(dataclasses.replace(params, search=dataclasses.replace(params.search, mode="published")))
    for task in (InversionTask, lambda *images: CounterfactualTask(*images, tmp_path)):
        with pytest.raises(BlobexError, match="no settings to tune"):
            task(explainer, world_images())


def test_more_steps_reconstruct_better():
    task = InversionTask(tiny_explainer(world_params()), world_images())
    starts = {name: task.settings(values) for name, values in task.starts().items()}
    assert starts["published"]["learning_rate"] == 0.02 and starts["published"]["steps"] == 400
    few, many = (task.measure({"learning_rate": 0.02, "steps": steps, "decision_steps": 1}, FREE) for steps in (1, 40))
    assert many.loss < few.loss and many.measures["agreement"] == 1
    assert task.keys({"steps": 3}) == {"invert.rect.steps": 3}
    compared = task.compare({"present": starts["present"], "best": {"steps": 40}})
    assert set(compared["differences"]["best - present"]) == {"perceptual", "agreement"}
    agreement = task.measure({"steps": 1}, HOPELESS)
    assert agreement.stopped_after == 2


def test_agreement_about_numbers_does_not_depend_on_the_chunks():
    """Numbers agree to half of their standard deviation over all images, of which one alone has none."""
    decision = from_callable(lambda images: decide(images)[:, 1:2], "regression", ["speed"])
    measured = []
    for chunk in (1, COUNT):
        params = world_params()
        params = dataclasses.replace(params, sweep_invert=dataclasses.replace(params.sweep_invert, chunk=chunk))
        task = InversionTask(tiny_explainer(params, decision), world_images())
        measured.append(task.measure({"learning_rate": 0.02, "steps": 40, "decision_steps": 1}, FREE).measures)
    assert measured[0]["agreement"] == measured[1]["agreement"] > 0


@pytest.mark.slow
def test_encoder_explains_more_after_more_steps(tmp_path):
    params = load_params(save_models(tmp_path) / "params.yaml")
    pretrain = dataclasses.replace(
        params.encoder_pretrain,
        channels={4: 8, 8: 8, 16: 8, 32: 8},
        training=dataclasses.replace(params.encoder_pretrain.training, batch_size=8, steps=6000, halve_every=2500),
    )
    options = dataclasses.replace(params.sweep_encoder, steps=60, images=32, held_out=32)
    params = dataclasses.replace(params, encoder_pretrain=pretrain, sweep_encoder=options)
    task = EncoderTask(params, "rect", random_blobgan(NETWORK, HEIGHT, 2))
    assert task.starts()["present"] == {"learning_rate": 0.002, "halvings": 6000 / 2500}
    assert task.keys({"learning_rate": 0.01, "halvings": 4.0}) == {
        "encoder_pretrain.training.learning_rate": 0.01,
        "encoder_pretrain.training.halve_every": 1500,
    }
    reported = {}
    outcome = task.measure({"learning_rate": 0.01, "halvings": 2.0}, lambda losses, late=False: reported.update(losses))
    assert list(reported) == [50, 60] and outcome.loss == pytest.approx(1 - outcome.measures["w_explained"])
    stopped = task.measure({"learning_rate": 0.01, "halvings": 2.0}, HOPELESS)
    assert stopped.stopped_after == 50
    barely = task.measure({"learning_rate": 1e-7, "halvings": 2.0}, FREE)
    assert outcome.loss < barely.loss


def test_explained_by_image_is_the_stage_s_measure_taken_apart():
    from blobex.training.encoder import EncoderPretrainModule, explained_variance

    params = tiny_params()
    blobgan = random_blobgan(NETWORK, HEIGHT, 2)
    from worlds.tiny_models import small_encoder

    torch.manual_seed(0)
    module = EncoderPretrainModule(small_encoder(), blobgan, params.encoder_pretrain.training, 0, {})
    assert explained_by_image(module, 256, 0).mean() == pytest.approx(explained_variance(module, 64), rel=1e-4)


def test_too_few_images_are_an_error(tmp_path):
    folder = tmp_path / "photos" / "val"
    folder.mkdir(parents=True)
    (tmp_path / "photos" / "train").mkdir()
    for number, picture in enumerate(render(scenes(6))):
        write_png(folder / f"{number}.png", to_array(picture))
    params = tiny_params()
    data = dataclasses.replace(params.data, source="folder", root=str(tmp_path / "photos"), cache=None)
    params = dataclasses.replace(params, data=data, invert=dataclasses.replace(params.invert, images=2))
    found = split_images(params, "rect", 2, 1, 1)
    names = [*found.seen[0], *found.finals[0], *found.held_out[0]]
    assert [Path(name).name for name in names] == ["2.png", "3.png", "4.png", "5.png"]
    with pytest.raises(BlobexError, match="needs 5, but behind the first 2"):
        split_images(params, "rect", 2, 1, 2)


def test_unknown_kind(tmp_path):
    with pytest.raises(BlobexError, match="unknown sweep 'gan'"):
        load_task("gan", "rect", tiny_params(), tmp_path, tmp_path)


def test_seconds_of_a_trial_are_of_its_own_process_and_one_thread(tmp_path):
    """Waiting costs nothing, and the number of threads, which a sweep shares out, is the same for all trials."""
    task, threads = search_task(tmp_path), []
    answer, before = task.explainer.explain_batch, torch.get_num_threads()

    def slow(*arguments, **options):
        threads.append(torch.get_num_threads())
        time.sleep(1.5)
        return answer(*arguments, **options)

    mine = task.explainer
    task.with_settings = lambda _: SimpleNamespace(
        explain_batch=slow, plan=mine.plan, questions=mine.questions, device=mine.device
    )
    task.warm_up()
    torch.set_num_threads(2)
    try:
        begun, used = time.perf_counter(), time.process_time()
        outcome = task.measure({"steps": 5}, FREE)
        passed, used = time.perf_counter() - begun, time.process_time() - used
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [1, 1]
    assert COUNT * outcome.measures["seconds"] <= used < passed - 2.9
