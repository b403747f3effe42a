"""Answers of a person: kept in a file, read strictly, and turned into labels."""

import base64
import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from blobex.core.errors import BlobexError
from blobex.explain.feedback import Feedback, add_feedback, image_digest, images_of, labels_of, read_feedback

IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
DIGEST = image_digest(IMAGE)


def answer(text: str, decided: bool = True, output: str = "left", digest: str = DIGEST, png: str | None = None):
    return Feedback(digest, "scene-1.jpg", output, decided, text, png)


def test_digest_is_that_of_size_and_pixels():
    assert hashlib.sha256(b"4x2 " + bytes(range(24))).hexdigest() == DIGEST
    assert image_digest(IMAGE.reshape(4, 2, 3)) != DIGEST


@pytest.mark.parametrize(
    ("decided", "text", "label"),
    [(True, "true", True), (True, "false", False), (False, "true", False), (False, "false", True)],
)
def test_label_follows_from_decision_and_answer(decided, text, label):
    assert labels_of([answer(text, decided)]) == {(DIGEST, "left"): label}


def test_later_answers_replace_earlier_ones(tmp_path):
    path = tmp_path / "answers" / "feedback.json"
    assert add_feedback(path, answer("true")) == 1
    assert add_feedback(path, answer("true", output="stop")) == 2
    assert add_feedback(path, answer("false")) == 2
    assert read_feedback([path]) == [answer("true", output="stop"), answer("false")]
    assert [entry.name for entry in path.parent.iterdir()] == ["feedback.json"]


def test_answers_that_contradict_each_other_are_refused():
    with pytest.raises(BlobexError, match=r"left for a change of scene-1.jpg contradict each other: remove one"):
        labels_of([answer("true"), answer("false")])
    with pytest.raises(BlobexError, match="contradict"):
        labels_of([answer("true"), answer("true", decided=False)])
    assert labels_of([answer("true"), answer("false", decided=False), answer("not sensible")]) == {
        (DIGEST, "left"): True
    }


def test_no_answer_that_teaches_anything():
    for answers in ([], [answer("not sensible")]):
        with pytest.raises(BlobexError, match="no answer says what the model should decide"):
            labels_of(answers)


def test_images_come_from_results_or_from_the_file():
    file = io.BytesIO()
    Image.fromarray(IMAGE).save(file, "PNG")
    held = answer("true", png=base64.b64encode(file.getvalue()).decode())
    assert (images_of([held], {})[DIGEST] == IMAGE).all()
    assert (images_of([answer("true")], {DIGEST: IMAGE})[DIGEST] == IMAGE).all()
    damaged = answer("true", png="AAAA")
    for missing in (answer("true"), damaged, answer("true", digest="0" * 64, png=held.png)):
        with pytest.raises(BlobexError, match="give the folder of its explanations"):
            images_of([missing], {})


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"answer": "true"}]', '[{"digest": "../x"}]'])
def test_damaged_files_are_one_sentence(tmp_path, content):
    path = tmp_path / "feedback.json"
    path.write_text(content)
    with pytest.raises(BlobexError) as refused:
        read_feedback([path])
    assert "\n" not in str(refused.value)


def test_unknown_answers_and_keys_are_refused(tmp_path):
    path = tmp_path / "feedback.json"
    add_feedback(path, answer("true"))
    row = json.loads(path.read_text())[0]
    for wrong in ({**row, "answer": "perhaps"}, {**row, "mood": "good"}):
        path.write_text(json.dumps([wrong]))
        with pytest.raises(BlobexError, match=r"feedback\.json"):
            read_feedback([path])
