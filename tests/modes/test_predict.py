"""Pictures in, answers out: from the mode and from the public API, which are one path."""

import csv
import dataclasses
import io
import itertools
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import ExifTags, Image

import skinjax
from benchmarks.predict import untrained_run
from skinjax.data.images import BrokenPicture, decode_image
from skinjax.data.sources.phantom import render
from skinjax.errors import UserError
from skinjax.modes import datasets, evaluate_classes
from skinjax.modes.config import classification_config, segmentation_config
from skinjax.modes.evaluate import evaluate
from skinjax.modes.predict import _encode_mask, predict
from skinjax.modes.predictor import Predictor
from skinjax.modes.workdir import read_config, write_config
from skinjax.tasks.predictions import clean_mask

TASKS = ("segmentation", "classification")
ISIC_HEADER = ["image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]


def tiny_config(task, cache_dir):
    config = segmentation_config() if task == "segmentation" else classification_config()
    config.image_size = (32, 48)
    config.fit = "letterbox"
    config.batch_size = 8
    config.data.dataset = "phantom"
    config.data.num_images = 160
    config.data.size = 150
    config.data.cache_dir = str(cache_dir)
    config.data.num_threads = 2
    if task == "segmentation":
        config.model.base_features = 4
        config.model.reduction = 4
    else:
        config.model.depth = 18
        config.model.stem = "small"
    return config


@pytest.fixture(scope="module")
def runs(cache_dir, tmp_path_factory):
    """Two runs of each task, by task, with random weights that differ."""
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for task in TASKS:
        made[task] = [folder / task / name for name in ("first", "second")]
        config = tiny_config(task, cache_dir)
        state = untrained_run(config, made[task][0])
        # Not those of another seed, which would be compiled anew.
        params = jax.jit(lambda params: jax.tree.map(lambda x: 1.2 * x, params))(state.params)
        untrained_run(config, made[task][1], state.replace(params=params))
    return made


@pytest.fixture(scope="module")
def models(runs):
    """A predictor of each task."""
    return {task: skinjax.load(runs[task][0]) for task in TASKS}


@pytest.fixture(scope="module")
def images():
    """Nineteen pictures of three sizes: not a whole number of batches."""
    sizes = itertools.cycle([(64, 80), (48, 48), (90, 40)])
    return [render(0, index, *size)[0] for index, size in zip(range(19), sizes, strict=False)]


@pytest.fixture
def pictures(tmp_path, images):
    """A folder with sub-folders, a turned picture, and two that cannot be read."""
    folder = tmp_path / "pictures"
    (folder / "clinic" / "a").mkdir(parents=True)
    Image.fromarray(images[0]).save(folder / "one.jpg")
    Image.fromarray(images[1]).save(folder / "clinic" / "two.png")
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.fromarray(images[2]).save(folder / "clinic" / "a" / "three.jpg", exif=turned)
    (folder / "clinic" / "empty.jpg").touch()
    (folder / "text.png").write_text("no picture")
    (folder / "notes.txt").write_text("nor this")
    return folder


def copy_run(workdir, target):
    """A run of its own with another's checkpoints, not yet evaluated."""
    made_later = shutil.ignore_patterns("checkpoints", "calibration", "evaluate")
    shutil.copytree(workdir, target, ignore=made_later)
    (target / "checkpoints").symlink_to(workdir / "checkpoints")
    return target


def table(output):
    with (output / "predictions.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def read_grey(path):
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def test_masks_and_their_table(runs, models, pictures, tmp_path, images, capsys):
    output = tmp_path / "out"
    options = dict(overlay=True, probabilities=True, isic=True)
    assert not predict(runs["segmentation"][:1], [str(pictures)], output, **options)
    assert "5 pictures, 2 of them not readable" in capsys.readouterr().out

    rows = table(output)
    assert list(rows) == sorted(rows)
    assert rows["text.png"]["status"] == "does not decode"
    assert rows["clinic/empty.jpg"]["status"] == "empty file"
    assert not any(rows["text.png"][name] for name in ("width", "num_regions", "mean_confidence"))
    good = ["clinic/a/three", "clinic/two", "one"]
    for folder, suffix in (("masks", "png"), ("overlays", "jpg"), ("probabilities", "png")):
        written = sorted(p for p in (output / folder).rglob("*") if p.is_file())
        assert [str(p.relative_to(output / folder)) for p in written] == [
            f"{name}.{suffix}" for name in good
        ]
    row = rows["clinic/a/three.jpg"]
    # Stored as 90 x 40, to be shown turned by a quarter.
    assert (row["status"], row["width"], row["height"]) == ("ok", "90", "40")
    for name in good:
        mask = read_grey(output / "masks" / f"{name}.png")
        assert set(np.unique(mask)) <= {0, 255}
        levels = read_grey(output / "probabilities" / f"{name}.png")
        np.testing.assert_array_equal(levels >= 128, mask == 255)
        (picture,) = pictures.rglob(f"{Path(name).name}.*")
        chances = models["segmentation"].predict(picture).probabilities
        np.testing.assert_allclose(levels, 255 * chances, atol=0.51)
        isic = output / "isic" / f"{Path(name).name}_segmentation.png"
        np.testing.assert_array_equal(read_grey(isic), mask)
        row = next(row for file, row in rows.items() if file.startswith(name))
        assert mask.shape == (int(row["height"]), int(row["width"]))
        assert float(row["lesion_fraction"]) == pytest.approx((mask == 255).mean(), abs=1e-6)
        with Image.open(output / "overlays" / f"{name}.jpg") as overlay:
            assert overlay.size == mask.shape[::-1]

    # The same from the API.
    prediction = models["segmentation"].predict(pictures / "clinic" / "two.png")
    mask = read_grey(output / "masks" / "clinic" / "two.png")
    np.testing.assert_array_equal(prediction.mask, mask == 255)
    assert prediction.num_regions == int(rows["clinic/two.png"]["num_regions"])


def test_diagnoses_and_their_table(runs, models, pictures, tmp_path, capsys):
    output = tmp_path / "out"
    assert not predict(runs["classification"][:1], [str(pictures)], output, isic=True)
    rows = table(output)
    model = models["classification"]
    classes = model.classes
    assert list(rows["one.jpg"]) == [
        "file",
        "status",
        "predicted",
        "confidence",
        "entropy",
        *classes,
    ]
    assert rows["text.png"]["status"] == "does not decode" and not rows["text.png"]["predicted"]
    row = rows["clinic/two.png"]
    prediction = model.predict(pictures / "clinic" / "two.png")
    assert row["predicted"] == prediction.predicted
    probabilities = [float(row[name]) for name in classes]
    np.testing.assert_allclose(probabilities, prediction.probabilities, atol=1e-8)
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)
    assert float(row["confidence"]) == max(probabilities)
    assert float(row["entropy"]) == pytest.approx(prediction.entropy, abs=1e-8)

    with (output / "isic" / "response.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ISIC_HEADER
    assert [line[0] for line in lines] == ["three", "two", "one"]
    assert lines[1][1:] == [row[name.lower()] for name in ISIC_HEADER[1:]]


def test_what_is_done_is_skipped_and_what_changed_is_not(runs, pictures, images, tmp_path, capsys):
    output = tmp_path / "out"
    workdirs = runs["segmentation"][:1]
    predict(workdirs, [str(pictures)], output)
    masks = sorted((output / "masks").rglob("*.png"))
    before = {path: path.stat().st_mtime_ns for path in masks}
    first_table = (output / "predictions.csv").read_bytes()

    def written_anew():
        predict(workdirs, [str(pictures)], output)
        return [p.stem for p in masks if p.stat().st_mtime_ns != before[p]]

    capsys.readouterr()
    assert written_anew() == []
    assert "3 of 5 are done already" in capsys.readouterr().out
    assert (output / "predictions.csv").read_bytes() == first_table
    masks[0].unlink()
    assert written_anew() == ["three"]
    Image.fromarray(images[7]).save(pictures / "one.jpg")
    before[masks[0]] = masks[0].stat().st_mtime_ns
    assert written_anew() == ["one"]
    # What could not be read is tried again; and what is no longer there is no longer told of.
    Image.fromarray(images[3]).save(pictures / "text.png")
    (pictures / "clinic" / "empty.jpg").unlink()
    assert predict(workdirs, [str(pictures)], output)
    assert "clinic/empty.jpg" not in table(output)
    # No mask is left of what can no longer be read.
    (pictures / "text.png").write_text("no picture again")
    assert (output / "masks" / "text.png").exists()
    assert not predict(workdirs, [str(pictures)], output)
    assert not (output / "masks" / "text.png").exists()
    (pictures / "text.png").unlink()
    # Pictures from elsewhere come to those that are there.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.fromarray(images[4]).save(elsewhere / "four.png")
    assert predict(workdirs, [str(elsewhere)], output)
    assert {"four.png", "one.jpg", "clinic/two.png"} <= table(output).keys()


def test_a_stop_in_the_middle_is_made_up_for(runs, images, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:02}.png")
    workdirs = runs["classification"][:1]
    assert predict(workdirs, [str(folder)], tmp_path / "whole")

    read = Predictor.read_file

    def stop(self, path):
        if path.endswith("18.png"):
            raise KeyboardInterrupt
        return read(self, path)

    output = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "read_file", stop)
        with pytest.raises(KeyboardInterrupt):
            predict(workdirs, [str(folder)], output)
    # As a kill would leave it.
    with (output / ".journal.jsonl").open("a") as journal:
        journal.write('["07.png", 12')
    capsys.readouterr()
    assert predict(workdirs, [str(folder)], output)
    assert "are done already" in capsys.readouterr().out
    ours, theirs = (tmp_path / name / "predictions.csv" for name in ("stopped", "whole"))
    assert ours.read_text() == theirs.read_text()


def test_other_settings_and_other_folders_are_refused(runs, pictures, tmp_path):
    output = tmp_path / "out"
    first, second = runs["segmentation"]
    predict([first], [str(pictures)], output)
    with pytest.raises(UserError, match='tta "" there, "flips" now'):
        predict([first], [str(pictures)], output, tta="flips")
    with pytest.raises(UserError, match="weights"):
        predict([second], [str(pictures)], output)
    with pytest.raises(UserError, match=r"min_region 0\.0 there, 0\.1 now"):
        predict([first], [str(pictures)], output, min_region=0.1)
    with pytest.raises(UserError, match=r"min_region=1\.5"):
        predict([first], [str(pictures)], output, min_region=1.5)
    with pytest.raises(UserError, match="holds no predictions"):
        predict([first], [str(pictures)], pictures)
    with pytest.raises(UserError, match="--input is missing"):
        predict([first], [], output)
    with pytest.raises(UserError, match="leave out --overlay"):
        predict(runs["classification"][:1], [str(pictures)], tmp_path / "other", overlay=True)
    assert not (tmp_path / "other").exists()


def test_an_output_among_the_pictures_is_not_read_again(runs, pictures, capsys):
    for _ in range(2):
        predict(runs["segmentation"][:1], [str(pictures)], pictures / "out", overlay=True)
        assert len(table(pictures / "out")) == 5


def test_two_pictures_for_one_mask_are_refused(runs, pictures, images, tmp_path):
    Image.fromarray(images[0]).save(pictures / "one.png")
    with pytest.raises(UserError, match=r"one\.jpg and one\.png would be written to one place"):
        predict(runs["segmentation"][:1], [str(pictures)], tmp_path / "out")
    # Nor one after the other.
    predict(runs["segmentation"][:1], [str(pictures / "one.jpg")], tmp_path / "later")
    with pytest.raises(UserError, match=r"one\.jpg and one\.png would be written to one place"):
        predict(runs["segmentation"][:1], [str(pictures / "one.png")], tmp_path / "later")
    # Diagnoses are told apart by the file's whole name, but in the challenge's table.
    predict(runs["classification"][:1], [str(pictures)], tmp_path / "classes")
    with pytest.raises(UserError, match="one place"):
        predict(runs["classification"][:1], [str(pictures)], tmp_path / "isic", isic=True)


@pytest.mark.parametrize("task", TASKS)
def test_a_picture_gets_one_answer_alone_and_in_any_company(models, images, task):
    model = models[task]
    together = model.predict(images)
    turned = model.predict(images[::-1])[::-1]
    assert len(together) == len(images)
    for image, one, other in zip(images, together, turned, strict=True):
        if task == "segmentation":
            assert one.probabilities.shape == one.mask.shape == image.shape[:2]
            assert one.probabilities.dtype == np.float32 and one.mask.dtype == bool
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    for index in (0, 10, 18):
        alone = model.predict(images[index])
        np.testing.assert_allclose(alone.probabilities, together[index].probabilities, atol=1e-5)


def test_a_picture_gets_one_answer_in_any_form(models, images, tmp_path):
    model = models["segmentation"]
    path = tmp_path / "picture.png"
    Image.fromarray(images[2]).save(path)
    with Image.open(path) as opened:
        forms = [images[2], images[2][np.newaxis], path, str(path), opened, [path], iter([opened])]
        answers = [model.predict(form) for form in forms]
    answers = [answer[0] if isinstance(answer, list) else answer for answer in answers]
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer.probabilities, answers[0].probabilities)
    # A picture that Pillow opens is turned upright, as its file is.
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.fromarray(images[2]).save(tmp_path / "turned.png", exif=turned)
    with Image.open(tmp_path / "turned.png") as opened:
        upright = model.predict(opened)
    assert upright.mask.shape == images[2].shape[1::-1]
    np.testing.assert_array_equal(
        upright.probabilities, model.predict(tmp_path / "turned.png").probabilities
    )
    assert model.predict([]) == []
    assert model.task == "segmentation" and model.classes == ("background", "lesion")


def test_small_regions_go_where_that_is_asked(models, runs, images):
    cleaning = Predictor(runs["segmentation"][:1], min_region=0.05)
    plain, cleaned = (model.predict(images[:6]) for model in (models["segmentation"], cleaning))
    for ours, theirs in zip(cleaned, plain, strict=True):
        np.testing.assert_array_equal(ours.mask, clean_mask(theirs.mask, 0.05))
    assert any(not np.array_equal(a.mask, b.mask) for a, b in zip(cleaned, plain, strict=True))


def test_what_is_no_picture_is_refused(models, images, tmp_path):
    model = models["classification"]
    with pytest.raises(UserError, match=r"float64 \[4, 4, 3\] is no picture"):
        model.predict(np.zeros((4, 4, 3)))
    with pytest.raises(UserError, match=r"uint8 \[4, 4\] is no picture"):
        model.predict(np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match="cannot be read: No such file"):
        model.predict([images[0], tmp_path / "nowhere.jpg"])
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(BrokenPicture, match=r"broken\.jpg cannot be decoded"):
        model.predict(tmp_path / "broken.jpg")
    with pytest.raises(UserError, match="wants the folder"):
        skinjax.load()
    with pytest.raises(UserError, match="holds no run"):
        skinjax.load(tmp_path)


def test_pictures_are_taken_only_as_there_is_room_for_them(models, images):
    """However long the stream is: what is taken and not yet given back stays bounded."""
    model = models["segmentation"]
    taken, lock = [], threading.Lock()

    def read(index):
        with lock:
            taken.append(index)
        if index % 3 == 0:
            raise BrokenPicture("does not decode", "every third")
        return images[index % len(images)]

    bound = 8 * model.batch_size
    for count, (index, output) in enumerate(model.stream(range(20 * model.batch_size), read)):
        assert index == count
        assert isinstance(output, BrokenPicture) == (index % 3 == 0)
        assert len(taken) - count <= bound
    assert count + 1 == len(taken) == 20 * model.batch_size


def test_predicting_gives_the_masks_that_evaluation_scores(runs, cache_dir, tmp_path):
    workdir = runs["segmentation"][0]
    figures = evaluate(workdir)
    with (workdir / "evaluate" / "test" / "per_image.csv").open() as file:
        scored = {row["image_id"]: float(row["jaccard"]) for row in csv.DictReader(file)}
    prepared = datasets.prepare_data(tiny_config("segmentation", cache_dir))
    folder = tmp_path / "pictures"
    folder.mkdir()
    truths = {}
    for position, row in enumerate(prepared.table):
        if row.image_id in scored:
            image, truths[row.image_id] = prepared.read(position)
            (folder / f"{row.image_id}.jpg").write_bytes(image)
    assert predict([workdir], [str(folder)], tmp_path / "out")
    jaccard = {}
    for image_id, truth in truths.items():
        truth = decode_image(truth, image_id)[..., 0] > 0
        mask = read_grey(tmp_path / "out" / "masks" / f"{image_id}.png") == 255
        jaccard[image_id] = (truth & mask).sum() / (truth | mask).sum()
    assert jaccard == pytest.approx(scored, abs=1e-3)
    assert np.mean(list(jaccard.values())) == pytest.approx(figures["jaccard"], abs=1e-3)


def test_predicting_gives_the_probabilities_that_evaluation_scores(
    runs, cache_dir, tmp_path, caplog
):
    workdir = copy_run(runs["classification"][0], tmp_path / "run")
    uncalibrated = skinjax.load(workdir)
    figures = evaluate(workdir)
    model = skinjax.load(workdir)
    assert uncalibrated.temperatures == (1.0,)
    assert "no temperature for step" in caplog.text and "--checkpoint" not in caplog.text
    caplog.clear()
    skinjax.load(workdir, checkpoint=str(figures["checkpoint_step"]), tta="flips")
    assert "--tta=flips fits one" in caplog.text and "--checkpoint" not in caplog.text
    (member,) = uncalibrated.ensemble.members
    shutil.rmtree(workdir / "calibration")
    uncalibrated._temperature(dataclasses.replace(member, is_best=False))
    assert f"--checkpoint={member.step} fits one" in caplog.text
    assert model.temperatures == (figures["temperature"],)
    assert figures["temperature"] != 1
    with (workdir / "evaluate" / "test" / "predictions.csv").open() as file:
        scored = {row["image_id"]: row for row in csv.DictReader(file)}
    prepared = datasets.prepare_data(tiny_config("classification", cache_dir))
    for position, row in enumerate(prepared.table):
        if row.image_id in scored:
            image = decode_image(prepared.read(position)[0], row.image_id)
            expected = [float(scored[row.image_id][name]) for name in model.classes]
            np.testing.assert_allclose(model.predict(image).probabilities, expected, atol=1e-5)


def test_several_runs_are_averaged_in_predict_and_in_evaluate(runs, images, tmp_path):
    for task in TASKS:
        both = skinjax.load(*runs[task]).predict(images[:3])
        each = [skinjax.load(workdir).predict(images[:3]) for workdir in runs[task]]
        for mean, *members in zip(both, *each, strict=True):
            expected = np.mean([member.probabilities for member in members], axis=0)
            np.testing.assert_allclose(mean.probabilities, expected, atol=1e-6)
            assert np.abs(members[0].probabilities - expected).max() > 1e-4
    first, second = runs["segmentation"]
    figures = evaluate(first, others=[second])
    assert [one["workdir"] for one in figures["averaged"]] == [str(first), str(second)]
    written = first / "evaluate" / "test-with-second" / "metrics.json"
    assert json.loads(written.read_text()) == figures
    assert figures["jaccard"] != evaluate(first)["jaccard"]
    assert evaluate(first, tta="flips")["jaccard"] != evaluate(first)["jaccard"]
    # Parts of joint trainings and folds have the same names.
    others = [copy_run(second, tmp_path / name / "first") for name in ("J1", "J2")]
    for other in others:
        evaluate(first, others=[other])
    names = {path.name for path in (first / "evaluate").iterdir()}
    assert {"test-with-J1", "test-with-J2"} <= names


@pytest.mark.parametrize("task", TASKS)
def test_what_is_asked_to_be_averaged_over_is(task, runs, models):
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), np.uint8)

    def predict_by(predictor):
        ensemble = predictor.ensemble
        return jax.device_get(ensemble.predict(ensemble.put({"images": images})["images"]))

    plain, averaged = models[task], Predictor(runs[task][:1], tta="flips")
    (member,) = averaged.ensemble.members
    direct = jax.jit(lambda variables, x: member.task.predict(variables, x, tta="flips"))
    expected = np.asarray(direct(member.variables, images))
    found = predict_by(averaged)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)
    assert np.abs(found - predict_by(plain)).max() > 1e-3


@pytest.mark.slow
def test_each_of_several_runs_has_its_own_temperature(runs, tmp_path):
    copies = [copy_run(workdir, tmp_path / workdir.name) for workdir in runs["classification"]]
    figures = evaluate(copies[0], others=copies[1:])
    assert len(figures["temperature"]) == 2
    for workdir in copies:
        assert list((workdir / "calibration").iterdir())


def test_val_is_predicted_once_for_its_scores_and_its_temperature(runs, tmp_path, monkeypatch):
    predictions, calls = evaluate_classes._predictions, []

    def counted(*arguments):
        calls.append(arguments)
        return predictions(*arguments)

    monkeypatch.setattr(evaluate_classes, "_predictions", counted)
    of_val, of_test = (copy_run(runs["classification"][0], tmp_path / n) for n in ("val", "test"))
    evaluate(of_val, split="val")
    assert len(calls) == 1
    evaluate(of_test, split="test")
    assert len(calls) == 3
    calibration = f"calibration/{next((of_val / 'calibration').iterdir()).name}"
    assert (of_val / calibration).read_text() == (of_test / calibration).read_text()


def test_runs_that_do_not_go_together_are_refused(runs, cache_dir, tmp_path):
    with pytest.raises(UserError, match=r"cannot be averaged: config\.task"):
        skinjax.load(runs["segmentation"][0], runs["classification"][0])
    other = copy_run(runs["classification"][0], tmp_path / "other")
    (other / "classes.json").write_text('["a", "b", "c", "d", "e", "f", "g"]')
    with pytest.raises(UserError, match="tell other classes apart"):
        skinjax.load(runs["classification"][0], other)
    config = read_config(other)
    config.image_size = (32, 32)
    write_config(other / "config.json", config)
    with pytest.raises(UserError, match=r"config\.image_size is \(32, 48\) in the first"):
        skinjax.load(runs["classification"][0], other)
    # A fold's test images are another's training.
    fold = tmp_path / "fold"
    config = tiny_config("segmentation", cache_dir)
    config.data.folds = 3
    untrained_run(config, fold)
    with pytest.raises(UserError, match=r"of the test split of .* were trained on by .*fold"):
        evaluate(runs["segmentation"][0], others=[fold])
    # And its val, where its checkpoint was chosen, another's test images.
    parts = (runs["segmentation"][0] / "splits.csv").read_text()
    turned = parts.replace(",val\n", ",x\n").replace(",test\n", ",val\n").replace(",x\n", ",test\n")
    assert turned != parts
    (fold / "splits.csv").write_text(turned)
    with pytest.raises(UserError, match=r"fold, or are its val, that its checkpoint was chosen"):
        evaluate(runs["segmentation"][0], others=[fold])


def test_the_package_is_light_until_it_is_used():
    command = "import sys, skinjax; print(*sorted({'jax', 'numpy', 'PIL'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "", done.stderr


@pytest.mark.slow
def test_the_command_line(runs, pictures, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "skinjax.main", "--mode=predict", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    where = f"--workdir={runs['segmentation'][0]}", f"--output={tmp_path / 'out'}"
    result = run(*where, f"--input={pictures}", "--overlay")
    assert result.returncode == 1 and "clinic/empty.jpg: empty file" in result.stdout
    assert "Traceback" not in result.stderr
    result = run(
        *where,
        f"--workdir={runs['segmentation'][1]}",
        f"--output={tmp_path / 'both'}",
        f"--input={pictures / 'one.jpg'}",
        f"--input={pictures / '*' / 'two.png'}",
    )
    assert result.returncode == 0, result.stderr
    assert len(table(tmp_path / "both")) == 2
    result = run(*where, f"--input={pictures}", "--tta")
    assert result.returncode == 2 and "predictions made otherwise" in result.stderr
    result = subprocess.run(
        [sys.executable, "-m", "skinjax.main", "--workdir=a", "--workdir=b"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2 and "more than once" in result.stderr


@pytest.mark.parametrize("task", TASKS)
def test_explanations_lie_beside_and_are_drawn_once(task, runs, pictures, tmp_path, capsys):
    def call():
        predict(runs[task][:1], [str(pictures)], tmp_path / "out", explain=True)

    call()
    folder = tmp_path / "out" / "explanations"
    sheets = {str(p.relative_to(folder)): p for p in folder.rglob("*.png")}
    assert sorted(sheets) == ["clinic/a/three.png", "clinic/two.png", "one.png"]
    for sheet in sheets.values():
        assert decode_image(sheet.read_bytes(), sheet.name).shape[1] > 1000

    # What is missing is drawn, and nothing else.
    drawn = {name: sheet.stat().st_mtime_ns for name, sheet in sheets.items()}
    sheets["one.png"].unlink()
    call()
    assert "2 of 5 are done already" in capsys.readouterr().out
    changed = [name for name, sheet in sheets.items() if sheet.stat().st_mtime_ns != drawn[name]]
    assert changed == ["one.png"]


def test_files_of_a_picture_are_those_of_what_it_is_now(runs, images, tmp_path):
    picture, output = tmp_path / "one.png", tmp_path / "out"
    everything = dict(overlay=True, probabilities=True, isic=True, explain=True)

    def call(**options):
        assert predict(runs["segmentation"][:1], [str(picture)], output, **options)
        return {path.parent.name: path.read_bytes() for path in output.glob("*/*")}

    Image.fromarray(images[0]).save(picture)
    before = call(**everything)
    assert sorted(before) == ["explanations", "isic", "masks", "overlays", "probabilities"]
    # What is there stays where less is asked for, and where more is.
    (output / "explanations" / "one.png").unlink()
    assert call(overlay=True) == {k: v for k, v in before.items() if k != "explanations"}
    assert call(explain=True).keys() == before.keys()
    # Of a picture that has changed, files that were not asked for since are no longer its own.
    Image.fromarray(images[3]).save(picture)
    call()
    after = call(**everything)
    assert after.keys() == before.keys()
    assert all(after[kind] != before[kind] for kind in before)


def test_several_models_are_not_explained_at_once(runs, pictures, tmp_path):
    with pytest.raises(UserError, match="give one --workdir"):
        predict(runs["segmentation"], [str(pictures)], tmp_path / "out", explain=True)


def test_two_pictures_for_one_sheet_are_refused(runs, pictures, images, tmp_path):
    Image.fromarray(images[0]).save(pictures / "one.png")
    with pytest.raises(UserError, match=r"one\.jpg and one\.png would be written to one place"):
        predict(runs["classification"][:1], [str(pictures)], tmp_path / "out", explain=True)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (450, 600)])
def test_mask_is_grey_png(size):
    mask = np.random.default_rng(0).random(size) < 0.5
    with Image.open(io.BytesIO(_encode_mask(mask))) as image:
        image.verify()  # the chunks' sums
    with Image.open(io.BytesIO(_encode_mask(mask))) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(image), mask * 255)
