"""What --isic writes, given to the challenge's own scorer: it takes it, and scores as we do."""

import csv
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks.predict import untrained_run
from skinjax.data.sources.phantom import render
from skinjax.modes.config import classification_config, segmentation_config
from skinjax.modes.predict import ISIC_CLASSES, predict
from skinjax.tasks.classification_metrics import figures
from skinjax.tasks.metrics import SCORES, score_mask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("isic_challenge_scoring") is None,
        reason="the extra isic (the challenge's scorer) is not installed",
    ),
]


def run_scorer(task, truth, prediction):
    """In a process of its own, since its pandas warns of what it will no longer have."""
    command = [sys.executable, "-m", "isic_challenge_scoring", "-o", "json", task]
    done = subprocess.run([*command, str(truth), str(prediction)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def make_run(config, cache_dir, workdir):
    config.image_size = (32, 48)
    config.batch_size = 8
    config.data.dataset = "phantom"
    config.data.num_images = 160
    config.data.size = 150
    config.data.cache_dir = str(cache_dir)
    untrained_run(config, workdir)
    return workdir


@pytest.fixture
def pictures(tmp_path):
    """Three pictures a class, named as the challenge does."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    masks = {}
    for index in range(21):
        image, mask, _ = render(0, index, 45, 60)
        Image.fromarray(image).save(folder / f"ISIC_{index:07}.jpg")
        masks[f"ISIC_{index:07}"] = mask
    return folder, masks


def test_masks_are_scored_as_we_score_them(pictures, cache_dir, tmp_path):
    folder, masks = pictures
    config = segmentation_config()
    config.model.base_features = config.model.reduction = 4
    workdir = make_run(config, cache_dir, tmp_path / "run")
    assert predict([workdir], [str(folder)], tmp_path / "out", isic=True)
    truth = tmp_path / "truth"
    truth.mkdir()
    for image_id, mask in masks.items():
        Image.fromarray(mask * np.uint8(255)).save(truth / f"{image_id}_segmentation.png")
    theirs = run_scorer("segmentation", truth, tmp_path / "out" / "isic")

    ours = []
    for image_id, mask in masks.items():
        with Image.open(tmp_path / "out" / "masks" / f"{image_id}.png") as image:
            ours.append(score_mask(mask == 1, np.asarray(image) > 128))
    mean = {name: np.mean([score[name] for score in ours]) for name in SCORES}
    mean["threshold_jaccard"] = mean["thresholded_jaccard"]
    assert theirs["overall"] == pytest.approx(mean["thresholded_jaccard"])
    assert theirs["macro_average"] == pytest.approx(
        {name: mean[name] for name in theirs["macro_average"]}
    )
    assert 0 < theirs["macro_average"]["jaccard"] < 1


def test_diagnoses_are_scored_as_we_score_them(pictures, cache_dir, tmp_path):
    folder, masks = pictures
    config = classification_config()
    config.model.depth, config.model.stem = 18, "small"
    workdir = make_run(config, cache_dir, tmp_path / "run")
    assert predict([workdir], [str(folder)], tmp_path / "out", isic=True)
    labels = np.arange(len(masks)) % len(ISIC_CLASSES)
    with (tmp_path / "truth.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *(name.upper() for name in ISIC_CLASSES)])
        for image_id, label in zip(masks, labels, strict=True):
            writer.writerow([image_id, *np.eye(len(ISIC_CLASSES))[label]])
    response = tmp_path / "out" / "isic" / "response.csv"
    theirs = run_scorer("classification", tmp_path / "truth.csv", response)

    with response.open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    probabilities = np.array(
        [[float(rows[image_id][name.upper()]) for name in ISIC_CLASSES] for image_id in masks]
    )
    ours, _ = figures(probabilities, labels, list(masks), ISIC_CLASSES)
    assert theirs["overall"] == pytest.approx(ours["balanced_accuracy"])
    assert theirs["macro_average"]["auc"] == pytest.approx(ours["auroc"])
