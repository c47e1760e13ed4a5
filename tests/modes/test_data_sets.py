"""Every data set, in miniature, from its official files to a score; and sets across each other."""

import csv
import json
import shutil
import types

import jax
import numpy as np
import pytest
from layouts import LAYOUTS

from skinjax.data.sources.example import CLASSES
from skinjax.data.table import Row
from skinjax.errors import UserError
from skinjax.modes import datasets
from skinjax.modes.config import classification_config, segmentation_config
from skinjax.modes.evaluate import evaluate
from skinjax.modes.train import train
from skinjax.modes.workdir import read_config, write_config

TWO = jax.devices()[:2]


def tiny_config(task, name, source, cache_dir):
    config = segmentation_config() if task == "segmentation" else classification_config()
    config.image_size = (32, 32)
    config.batch_size = 8
    config.log_every_steps = 1
    # The same program whatever the number of steps, so that it is compiled once.
    config.schedule.name = "constant"
    config.schedule.warmup_epochs = 0.0
    config.data.dataset = name
    config.data.source = str(source)
    config.data.size = 32
    config.data.cache_dir = str(cache_dir)
    config.data.num_threads = 2
    if name == "folder":
        config.data.table.group_column = "patient"
    if task == "segmentation":
        config.model.base_features = 4
        config.model.reduction = 4
    else:
        config.model.depth = 18
        config.model.stem = "small"
    # Two steps, whatever the number of training images.
    config.num_epochs = 0.4
    return config


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The miniatures, each made when it is asked for."""
    made = {}

    def root(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "data"
            LAYOUTS[name][0](made[name])
        return made[name]

    return root


@pytest.fixture(scope="module")
def ham10000_runs(roots, cache_dir, tmp_path_factory):
    """A run of each task on the miniature HAM10000, of two steps."""
    runs = {}
    for task in ("segmentation", "classification"):
        runs[task] = tmp_path_factory.mktemp("runs") / task
        train(tiny_config(task, "ham10000", roots("ham10000"), cache_dir), runs[task], TWO)
    return runs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task"), [(name, task) for name, (_, tasks) in LAYOUTS.items() for task in tasks]
)
def test_it_trains_and_is_scored(name, task, roots, cache_dir, tmp_path):
    config = tiny_config(task, name, roots(name), cache_dir)
    train(config, tmp_path / "run", TWO)
    figures = evaluate(tmp_path / "run")
    assert figures["num_images"] >= 4 and figures["checkpoint_step"] >= 2
    assert 0 <= figures["accuracy"] <= 1
    lines = (tmp_path / "run" / "splits.csv").read_text().splitlines()[1:]
    assert {line.split(",")[2] for line in lines} == {"train", "val", "test"}
    if task == "classification":  # its own classes are told apart as they are
        assert figures["classes"] == json.loads((tmp_path / "run" / "classes.json").read_text())


@pytest.mark.slow
def test_outlines_are_scored_on_a_set_that_was_never_seen(ham10000_runs, roots, tmp_path):
    workdir = ham10000_runs["segmentation"]
    figures = evaluate(workdir, dataset="ph2", source=str(roots("ph2")))
    assert figures["num_images"] == 60
    written = json.loads((workdir / "evaluate" / "all-ph2" / "metrics.json").read_text())
    assert written["jaccard"] == figures["jaccard"]
    part = evaluate(workdir, dataset="isic2016", source=str(roots("isic2016")), split="test")
    assert part["num_images"] == 20
    assert (workdir / "evaluate" / "test-isic2016" / "per_image.csv").exists()


@pytest.mark.slow
def test_diagnoses_are_scored_in_the_classes_that_both_have(ham10000_runs, roots, capsys):
    workdir = ham10000_runs["classification"]
    figures = evaluate(workdir, dataset="isic2019", source=str(roots("isic2019")))
    assert figures["num_images"] == 60 and "recall/akiec" in figures and "recall/scc" not in figures
    assert "akiec: model's akiec = data set's ak, scc" in capsys.readouterr().out
    folder = workdir / "evaluate" / "all-isic2019"
    header, *rows = (folder / "predictions.csv").read_text().splitlines()
    assert ",predicted,akiec,bcc,bkl,df,mel,nv,vasc," in header and len(rows) == 60

    binary = evaluate(workdir, dataset="isic2016", source=str(roots("isic2016")))
    assert binary["auroc/benign"] == pytest.approx(binary["auroc/mel"])
    assert binary["majority_accuracy"] == pytest.approx(0.75)
    folder = workdir / "evaluate" / "all-isic2016"
    with open(folder / "predictions.csv", newline="") as file:
        binary_rows = list(csv.DictReader(file))
    names = [name for name in binary_rows[0] if name in (*CLASSES, "benign")]
    assert names == ["benign", "mel"]
    probabilities = np.array([[row[name] for name in names] for row in binary_rows], float)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=2e-6)


@pytest.mark.slow
def test_a_set_that_shares_trained_pictures_is_refused_with_their_number(ham10000_runs, roots):
    workdir = ham10000_runs["segmentation"]
    lines = (workdir / "splits.csv").read_text().splitlines()
    num_learnt = sum(line.endswith((",train", ",val")) for line in lines)
    told = f"{num_learnt} of the 60 images of isic2017 are in the run's train or val"
    with pytest.raises(UserError, match=told):
        evaluate(workdir, dataset="isic2017", source=str(roots("isic2017")))


@pytest.mark.slow
def test_data_that_moved_is_found_and_data_that_is_gone_is_told(roots, cache_dir, tmp_path, caplog):
    shutil.copytree(roots("ham10000"), tmp_path / "there")
    config = tiny_config("segmentation", "ham10000", tmp_path / "there", cache_dir)
    train(config, tmp_path / "run", TWO)
    before = evaluate(tmp_path / "run")
    (tmp_path / "there").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="there does not exist"):
        evaluate(tmp_path / "run")
    moved = str(tmp_path / "moved")
    assert evaluate(tmp_path / "run", source=moved) == before | {"source": moved}
    # Without it, pictures are compared by their numbers alone: PH2 has others, ISIC 2017 the same.
    assert evaluate(tmp_path / "run", dataset="ph2", source=str(roots("ph2")))["num_images"] == 60
    assert "by their numbers in the ISIC archive alone" in caplog.text
    with pytest.raises(
        UserError, match="of the 60 images of isic2017 are in the run's train or val"
    ):
        evaluate(tmp_path / "run", dataset="isic2017", source=str(roots("isic2017")))


@pytest.mark.slow
def test_diagnoses_are_scored_elsewhere_without_the_runs_own_data(
    ham10000_runs, roots, tmp_path, caplog
):
    run = tmp_path / "run"
    shutil.copytree(ham10000_runs["classification"], run)
    shutil.rmtree(run / "calibration", ignore_errors=True)
    config = read_config(run)
    config.data.source = str(tmp_path / "gone")
    write_config(run / "config.json", config)
    figures = evaluate(run, dataset="ph2", source=str(roots("ph2")))
    assert figures["num_images"] == 60 and figures["temperature"] == 1.0
    assert "at no temperature: evaluate it once where its data is" in caplog.text
    assert not (run / "calibration").exists()


def test_without_the_runs_own_data_lesions_are_still_told_by_their_names(tmp_path):
    config = tiny_config("classification", "ham10000", tmp_path / "gone", tmp_path)
    splits = tmp_path / "splits.csv"
    splits.write_text(
        "image_id,lesion_id,split\nISIC_0000001,HAM_0000001,train\nISIC_0000002,HAM_0000002,test\n"
    )

    def refuse(*pictures):
        table = [Row(*names, label=None, part=None, metadata={}) for names in pictures]
        tested = types.SimpleNamespace(name="folder", table=table)
        datasets.refuse_trained(config, splits, tested, list(range(len(table))))

    refuse(("ISIC_0000002", "HAM_0000002"), ("other", "other"))
    for image_id, lesion_id in (("ISIC_0000001", "other"), ("other", "HAM_0000001")):
        with pytest.raises(UserError, match=rf"1 of the 2 .*\(ISIC_0000001 = {image_id}\)"):
            refuse(("ISIC_0000002", "HAM_0000002"), (image_id, lesion_id))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_several_sets_train_together_and_the_first_is_scored(task, roots, cache_dir, tmp_path):
    config = tiny_config(task, "ham10000", roots("ham10000"), cache_dir)
    config.data.also = (("isic2016", str(roots("isic2016")), 2.0), ("ph2", str(roots("ph2")), 1.0))
    train(config, tmp_path / "run", TWO)
    rows = [line.split(",") for line in (tmp_path / "run" / "splits.csv").read_text().splitlines()]
    by_part = {part: [row[0] for row in rows if row[2] == part] for part in ("train", "test")}
    assert not any("/" in image_id for image_id in by_part["test"])
    sets = {image_id.split("/")[0] for image_id in by_part["train"] if "/" in image_id}
    assert sets == {"isic2016", "ph2"}
    if task == "classification":
        # Of ISIC 2016 'malignant' is mel, and 'benign' is no class of ours.
        malignant = [i for i in by_part["train"] if i.startswith("isic2016/")]
        assert 5 <= len(malignant) <= 10
    assert evaluate(tmp_path / "run")["num_images"] == len(by_part["test"])
    # The same command goes on, and finds its data as it was, also where they lie elsewhere now.
    assert train(config, tmp_path / "run", TWO) == {}
    shutil.copytree(roots("ph2"), tmp_path / "moved")
    config.data.also = (config.data.also[0], ("ph2", str(tmp_path / "moved"), 1.0))
    assert train(config, tmp_path / "run", TWO) == {}
    shutil.rmtree(tmp_path / "moved")
    assert evaluate(tmp_path / "run")["num_images"] == len(by_part["test"])


def test_sets_that_share_pictures_do_not_train_one_and_test_the_other(roots, cache_dir, tmp_path):
    config = tiny_config("segmentation", "ham10000", roots("ham10000"), cache_dir)
    config.data.also = (("isic2017", str(roots("isic2017")), 1.0),)
    with pytest.raises(UserError, match=r"\d+ of the val and test images are in training, too"):
        train(config, tmp_path / "run", TWO)
    assert not (tmp_path / "run" / "config.json").exists()
