"""Reports through their mode, on evaluations of runs whose model is played by the truth."""

import csv
import html.parser
import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from skinjax.data import splits as splitting
from skinjax.data.images import decode_image, decode_mask, fit_mask
from skinjax.errors import UserError
from skinjax.modes import datasets
from skinjax.modes.config import classification_config, segmentation_config
from skinjax.modes.evaluate import evaluate
from skinjax.modes.report import report
from skinjax.modes.workdir import read_classes, read_config, write_classes, write_config
from skinjax.tasks.boundary import score_boundary
from skinjax.tasks.metrics import score_mask
from skinjax.tasks.skin_tone import individual_typology_angle

NUM_IMAGES = 150
SIZE = (32, 48)


class PlayedRun:
    """What evaluate asks of a trained run; its answers are the truth, moved or blurred a little."""

    def __init__(
        self, workdir, checkpoint="best", tta="", dataset="", source="", others=(), *, split
    ):
        self.workdir, self.tta, self.is_own, self.step, self.is_best = workdir, tta, True, 40, True
        self.members = [self]
        self.config, self.classes = read_config(workdir), read_classes(workdir)
        self.prepared = datasets.prepare_data(self.config)

    def positions(self, split):
        return datasets.read_split(self.workdir / "splits.csv", self.prepared, split)

    def predict(self, positions):
        for position in positions:
            row, generator = self.prepared.table[position], np.random.default_rng(position)
            if self.config.task == "segmentation":
                mask = decode_mask(self.prepared.read(position)[1], row.image_id)
                moved = np.roll(fit_mask(mask, SIZE, "squash"), position % 5, axis=1)
                yield moved.astype(np.float32), np.array([0, 0, *SIZE]), position
            else:
                chances = generator.dirichlet(np.ones(len(self.classes)))
                chances[self.classes.index(row.label)] += generator.random()
                yield np.log(chances / chances.sum()).astype(np.float32)[None], None, position


def make_run(workdir, cache_dir, config):
    """The folder of a run as training leaves it, but for its checkpoints, which are played."""
    config.image_size, config.batch_size, config.dtype = SIZE, 8, "float32"
    config.data.dataset, config.data.num_images, config.data.size = "phantom", NUM_IMAGES, 48
    config.data.cache_dir, config.data.num_threads = str(cache_dir), 2
    config.data.folds = 3  # a third of the images to be scored
    workdir.mkdir()
    prepared = datasets.prepare_data(config)
    splits = datasets.split_data(config, prepared)
    splitting.write_splits(workdir / "splits.csv", prepared.table, splits)
    write_classes(workdir / "classes.json", prepared.classes)
    write_config(workdir / "config.json", config)
    lines = []
    for step in range(10, 70, 10):
        event = {"step": step, "epoch": step / 10}
        rates = {"learning_rate": 0.1 / step, "images_per_second": 50.0}
        lines.append(event | {"split": "train", "train/loss": 10 / step} | rates)
        lines.append(event | {"split": "val", config.best_metric: 0.5 + step / 200})
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in lines) + '{"st')
    with pytest.MonkeyPatch.context() as patch:
        for module in ("evaluate", "evaluate_classes"):
            patch.setattr(f"skinjax.modes.{module}.TrainedRun", PlayedRun)
        evaluate(workdir)
        evaluate(workdir, split="val")
    return workdir


@pytest.fixture(scope="module")
def segmentation(cache_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "outlines"
    make_run(workdir, cache_dir, segmentation_config())
    report(workdir)
    return workdir


@pytest.fixture(scope="module")
def classification(cache_dir, tmp_path_factory):
    config = classification_config()
    config.model.depth = 18
    workdir = tmp_path_factory.mktemp("runs") / "diagnoses"
    make_run(workdir, cache_dir, config)
    report(workdir)
    return workdir


@pytest.fixture(params=["segmentation", "classification"])
def either(request):
    return request.getfixturevalue(request.param)


class Elements(html.parser.HTMLParser):
    """The elements of a page in order, as (tag, attributes), and all its text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(page.replace("\N{NO-BREAK SPACE}", " "))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def skin_of(run, position):
    """The prepared picture, and its mask at the picture's size."""
    image_bytes, mask_bytes = run.prepared.read(position)
    picture, mask = decode_image(image_bytes, "image"), decode_mask(mask_bytes, "mask")
    return picture, fit_mask(mask, picture.shape[:2], "squash").astype(bool)


def page_of(workdir):
    page = (workdir / "report" / "index.html").read_text()
    return page, Elements(page)


def sections_of(elements):
    return [attributes["id"] for tag, attributes in elements.elements if tag == "section"]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_evaluation_keeps_masks_distances_and_metadata(segmentation):
    folder = segmentation / "evaluate" / "test"
    run = PlayedRun(segmentation, split="test")
    rows = rows_of(folder / "per_image.csv")
    positions = run.positions("test")
    assert len(rows) == len(positions) >= 40
    for row, position in list(zip(rows, positions, strict=True))[:8]:
        known = run.prepared.table[position]
        assert row["image_id"] == known.image_id
        assert {key: row[key] for key in known.metadata} == known.metadata
        path = folder / "masks" / f"{known.image_id}.png"
        with Image.open(path) as image:
            assert image.mode == "1"
            prediction = np.asarray(image)
        truth = decode_mask(run.prepared.read(position)[1], "mask").astype(bool)
        scores = score_mask(truth, prediction) | score_boundary(truth, prediction)
        for name in ("jaccard", "hd95", "surface_dice"):
            assert float(row[name]) == pytest.approx(scores[name], abs=1e-6)
        expected = individual_typology_angle(*skin_of(run, position))
        assert float(row["ita"]) == pytest.approx(expected, abs=0.06)
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["hd95"] == pytest.approx(np.mean([float(row["hd95"]) for row in rows]), abs=1e-5)
    assert figures["hd95_low"] < figures["hd95"] < figures["hd95_high"]


def test_an_evaluation_of_diagnoses_keeps_metadata_and_reliability(classification):
    folder = classification / "evaluate" / "test"
    rows = rows_of(folder / "predictions.csv")
    run = PlayedRun(classification, split="test")
    for row, position in zip(rows, run.positions("test"), strict=True):
        assert row["age"] == run.prepared.table[position].metadata["age"]
        assert row["ita"]
    bins = rows_of(folder / "reliability.csv")
    for model in ("before the temperature", "after"):
        own = [int(row["num_images"]) for row in bins if row["model"] == model]
        assert sum(own) == len(rows)


def test_the_melanoma_threshold_is_vals_and_is_applied_to_test(classification):
    """The tables have nine digits: a score at the threshold itself may fall on either side."""
    (file,) = (classification / "calibration").iterdir()
    threshold = json.loads(file.read_text())["melanoma_threshold"]
    figures = json.loads((classification / "evaluate" / "test" / "metrics.json").read_text())
    assert figures["melanoma_threshold_from_val"] == threshold
    found = {}
    for split in ("val", "test"):
        rows = rows_of(classification / "evaluate" / split / "predictions.csv")
        scores = np.array([float(row["mel"]) for row in rows])
        is_mel = np.array([row["truth"] == "mel" for row in rows])
        found[split] = scores[is_mel], scores[~is_mel]
    of_mel, _ = found["val"]
    assert np.mean(of_mel >= threshold - 1e-6) >= 0.95 > np.mean(of_mel > threshold + 1e-6)
    of_mel, others = found["test"]
    for name, shares in (
        ("sensitivity", [np.mean(of_mel >= threshold + d) for d in (1e-6, -1e-6)]),
        ("specificity", [np.mean(others < threshold + d) for d in (-1e-6, 1e-6)]),
    ):
        assert shares[0] <= figures[f"melanoma_{name}_at_val_threshold"] <= shares[1]
    assert figures["temperature"] != 1 and figures["ece_uncalibrated"] != figures["ece"]


def test_the_page_is_whole_and_needs_nothing_else(either):
    page, elements = page_of(either)
    sections = sections_of(elements)
    assert sections[0] == "card" and sections[-1] == "checklists"
    assert {"data", "people", "recipe", "training", "scores", "groups", "gallery"} <= {*sections}
    assert elements.text.index("Not a medical device") < elements.text.index("Model card")
    assert "Limits:" in elements.text and "What it is not for:" in elements.text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "http" not in page and "<script" not in page and "url(" not in page
    images = [attributes for tag, attributes in elements.elements if tag == "img"]
    assert len(images) > 20 and all(len(image["alt"]) > 10 for image in images)
    targets = {a["href"][1:] for tag, a in elements.elements if tag == "a"}
    assert targets <= {*sections}
    # A page may be passed on: it names no folder of this machine.
    assert read_config(either).data.cache_dir not in page and str(either.parent) not in page
    assert len(page) < 6e6


def test_scores_have_intervals_and_baselines(segmentation, classification):
    figures = json.loads((segmentation / "evaluate" / "test" / "metrics.json").read_text())
    shown = page_of(segmentation)[1].text
    for name in ("jaccard", "dice", "accuracy", "surface_dice"):
        value, low, high = (figures[name + end] for end in ("", "_low", "_high"))
        assert f"{value:.3f} ({low:.3f} to {high:.3f})" in shown
    assert f"{figures['background_accuracy']:.3f}" in shown
    figures = json.loads((classification / "evaluate" / "test" / "metrics.json").read_text())
    shown = page_of(classification)[1].text
    value, low, high = (figures["accuracy" + end] for end in ("", "_low", "_high"))
    assert f"{value:.3f} ({low:.3f} to {high:.3f})" in shown
    assert f"{figures['majority_accuracy']:.3f}" in shown


FIGURES = {
    "segmentation": {"curves", "jaccard", "hd95", "surface_dice", "groups"},
    "classification": {
        "curves", "confusion", "roc", "precision_recall", "reliability", "coverage_risk", "groups",
    },
}  # fmt: skip


@pytest.mark.parametrize("task", FIGURES)
def test_every_figure_has_its_files_for_a_paper(task, request):
    workdir = request.getfixturevalue(task)
    folder = workdir / "report" / "figures"
    expected = {f"{n}.{end}" for n in FIGURES[task] for end in ("png", "svg", "csv")}
    assert {path.name for path in folder.iterdir()} == expected
    assert all(rows_of(folder / f"{name}.csv") for name in FIGURES[task])
    for name in FIGURES[task]:
        with Image.open(folder / f"{name}.png") as image:
            assert image.width > 1000


def test_the_numbers_of_the_figures_are_those_of_the_tables(segmentation, classification):
    per_image = rows_of(segmentation / "evaluate" / "test" / "per_image.csv")
    figures = segmentation / "report" / "figures"
    for row in rows_of(figures / "jaccard.csv"):
        inside = [
            r for r in per_image if float(row["from"]) <= float(r["jaccard"]) < float(row["to"])
        ]
        if float(row["to"]) < 1:
            assert int(row["images"]) == len(inside)
    groups = {(r["factor"], r["group"]): r for r in rows_of(figures / "groups.csv")}
    women = [float(r["jaccard"]) for r in per_image if r["sex"] == "female"]
    assert int(groups["sex", "female"]["images"]) == len(women)
    assert float(groups["sex", "female"]["Jaccard"]) == pytest.approx(np.mean(women), abs=1e-5)
    factors = {factor for factor, _ in groups}
    assert factors == {"diagnosis", "age", "sex", "site", "confirmation", "skin tone"}
    for factor in factors:
        total = sum(int(r["images"]) for (f, _), r in groups.items() if f == factor)
        assert total == len(per_image)

    predictions = rows_of(classification / "evaluate" / "test" / "predictions.csv")
    figures = classification / "report" / "figures"
    for row in rows_of(figures / "confusion.csv"):
        for predicted in ("mel", "nv"):
            pair = row["truth"], predicted
            expected = [r for r in predictions if (r["truth"], r["predicted"]) == pair]
            assert int(row[predicted]) == len(expected)
    last = rows_of(figures / "coverage_risk.csv")[-1]
    wrong = np.mean([row["truth"] != row["predicted"] for row in predictions])
    assert float(last["coverage"]) == 1 and float(last["risk"]) == pytest.approx(wrong, abs=1e-5)
    curves = rows_of(figures / "curves.csv")
    assert {row["figure"] for row in curves} == {
        "train/loss", "val/balanced_accuracy", "learning_rate",
    }  # fmt: skip


def test_the_histogram_opens_to_every_image(segmentation):
    _, elements = page_of(segmentation)
    for row in rows_of(segmentation / "evaluate" / "test" / "per_image.csv"):
        assert row["image_id"] in elements.text


def test_another_evaluation_is_reported_by_its_name(segmentation, tmp_path):
    workdir = shutil.copytree(segmentation, tmp_path / "run")
    report(workdir, evaluation="val")
    _, elements = page_of(workdir)
    assert "Report: run, val" in elements.text and "val (this page)" in elements.text
    with pytest.raises(UserError, match=r"--evaluation=tset: .* has test, val"):
        report(workdir, evaluation="tset")


def test_of_other_data_what_is_not_known_is_not_said(classification, tmp_path):
    workdir = shutil.copytree(classification, tmp_path / "run")
    report(workdir)
    answered = "test on the run's own data 32"
    assert answered + " answered" in _words(workdir)
    assert "test on other data, and how they differ 33 16 left to the authors" in _words(workdir)
    folder = (workdir / "evaluate" / "test").rename(workdir / "evaluate" / "all-ph2")
    figures = json.loads((folder / "metrics.json").read_text())
    figures |= {"is_own_data": False, "dataset": "ph2", "split": "all", "source": "/gone"}
    (folder / "metrics.json").write_text(json.dumps(figures))
    report(workdir, "all-ph2")
    words = _words(workdir)
    assert answered + " left to the authors" in words
    assert "test on other data, and how they differ 33 16 in part" in words
    num_classes = len({row["truth"] for row in rows_of(folder / "predictions.csv")})
    assert re.search(r"train \d+ \d+" + " \N{EN DASH}" * num_classes, words)
    assert re.search(r"all-ph2 \d+ \d+" + r" \d+" * num_classes, words)


def _words(workdir):
    """What a page says, with a space between any two cells and lines."""
    page = re.sub(r"<[^>]+>", " ", page_of(workdir)[0])
    return " ".join(html.unescape(page).split())


def test_where_the_data_are_gone_the_page_says_so(either, tmp_path, capsys):
    workdir = shutil.copytree(either, tmp_path / "run")
    config = read_config(workdir)
    config.data.dataset, config.data.source = "ham10000", str(tmp_path / "moved")
    write_config(workdir / "config.json", config)
    report(workdir)
    page, elements = page_of(workdir)
    assert "The pictures are left out" in elements.text and "image/jpeg" not in page
    assert {"scores", "groups"} <= {*sections_of(elements)}
    assert "no photographs" in capsys.readouterr().out


def test_what_is_missing_is_named_with_its_mend(segmentation, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        report(tmp_path)
    workdir = shutil.copytree(segmentation, tmp_path / "run")
    mask = next((workdir / "evaluate" / "test" / "masks").iterdir())
    mask.unlink()
    with pytest.raises(UserError, match=rf"{mask.name} cannot be read.*evaluate the run again"):
        report(workdir)
    table = workdir / "evaluate" / "test" / "per_image.csv"
    table.write_text(table.read_text().replace(",hd95,", ",other,"))
    with pytest.raises(UserError, match="older version"):
        report(workdir)
    shutil.rmtree(workdir / "evaluate")
    with pytest.raises(UserError, match=r"has not been evaluated.*--mode=evaluate"):
        report(workdir)


def test_without_curves_and_metadata_it_is_a_page_still(classification, tmp_path):
    workdir = shutil.copytree(classification, tmp_path / "run")
    (workdir / "metrics.jsonl").unlink()
    table = workdir / "evaluate" / "test" / "predictions.csv"
    rows = list(csv.reader(table.read_text().splitlines()))
    end = rows[0].index("ita") + 1
    bare = [row[: end - 1] + (["ita"] if i == 0 else [""]) for i, row in enumerate(rows)]
    table.write_text("".join(",".join(row) + "\n" for row in bare))
    report(workdir)
    _, elements = page_of(workdir)
    assert "no curves" in elements.text
    assert "The data do not tell: age, sex, site, confirmation, skin tone." in elements.text


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The lowest contrast of any text on the page with what is behind it, and what text that is.
LOWEST_CONTRAST = """() => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = c => c.slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let lowest = [21, ''];
  for (const element of document.body.querySelectorAll('*')) {
    if (![...element.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    let ground = [255, 255, 255];
    for (let above = element; above; above = above.parentElement) {
      const behind = channels(getComputedStyle(above).backgroundColor);
      if (behind.length < 4 || behind[3] > 0) { ground = behind; break; }
    }
    const both = [luminance(channels(getComputedStyle(element).color)), luminance(ground)];
    both.sort((a, b) => b - a);
    const ratio = (both[0] + 0.05) / (both[1] + 0.05);
    if (ratio < lowest[0]) lowest = [ratio, element.textContent.slice(0, 40)];
  }
  return lowest;
}"""


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, where this machine has one."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = [os.environ.get("SKINJAX_TEST_CHROMIUM", ""), *BROWSERS]
    path = next(filter(None, (shutil.which(name) for name in names)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)}, nor SKINJAX_TEST_CHROMIUM")
    with playwright.sync_playwright() as driver:
        # Chromium's sandbox wants more than a container gives; the page is ours.
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(either, browser, width):
    requests, complaints = [], []
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    address = (either / "report" / "index.html").as_uri()
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.evaluate("Promise.all([...document.images].map(i => i.decode()))")
    assert not complaints
    assert {url for url in requests if not url.startswith("data:")} == {address}
    broken = "[...document.images].filter(i => !i.naturalWidth || !i.alt).length"
    assert page.evaluate(broken) == 0
    # Nothing but what scrolls by itself is wider than the screen.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ratio, text = page.evaluate(LOWEST_CONTRAST)
    assert ratio >= 4.5, text
    page.close()


def test_an_average_of_runs_is_told_as_one(segmentation, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(segmentation, workdir)
    averaged = workdir / "evaluate" / "test-with-other"
    shutil.copytree(workdir / "evaluate" / "test", averaged)
    figures = json.loads((averaged / "metrics.json").read_text())
    both = [
        {"workdir": f"/x/{name}", "name": name, "checkpoint_step": 40}
        for name in ("outlines", "other")
    ]
    (averaged / "metrics.json").write_text(json.dumps(figures | {"averaged": both}))
    report(workdir, "test-with-other")
    page = (workdir / "report" / "index.html").read_text()
    assert "averaged with other, step 40" in page
    assert "One training with one seed" not in page and "Trainings done but once" in page
