"""A report: one page on a run and an evaluation of it, with its figures for papers beside it."""

import csv
import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from skinjax import __version__
from skinjax.data.about import ABOUT, About
from skinjax.data.combined import Combined
from skinjax.errors import UserError
from skinjax.modes.build import create_task
from skinjax.modes.evaluations import list_evaluations, read_evaluation
from skinjax.modes.report_classes import class_headline, class_sections
from skinjax.modes.report_groups import COLUMNS, people_section
from skinjax.modes.report_masks import mask_headline, mask_sections
from skinjax.modes.reported import Reported, estimate_text, known, temperature_text
from skinjax.modes.workdir import make_folder, read_classes, read_config, write_text
from skinjax.report import model_card
from skinjax.report.checklists import checklist_table
from skinjax.report.page import Block, Facts, Plots, Section, Table, Text, render
from skinjax.report.run_figures import curves
from skinjax.tasks.views import TTA

_FEW = 30  # test images of a class below which its figures are called weak
# The figures of other evaluations that are listed, by task.
_LISTED = {
    "segmentation": ("jaccard", "dice", "accuracy", "hd95"),
    "classification": ("auroc", "balanced_accuracy", "accuracy", "ece"),
}


def report(workdir: Path, evaluation: str = "", source: str = "") -> Path:
    """Writes workdir/report/index.html, and its figures into workdir/report/figures/.

    Args:
        workdir: the folder of a run that was evaluated.
        evaluation: the name of the evaluation to report, a folder of workdir/evaluate; unless told,
            'test', or else the first by name.
        source: where the data of that evaluation lie now; empty for where they lay.

    Returns:
        The page.

    Raises:
        UserError: where the run, the evaluation or what it kept is missing.
    """
    config = read_config(workdir)
    run = Reported(workdir, config, read_evaluation(workdir, config.task, evaluation), source)
    segments = config.task == "segmentation"
    sections = [_card(run), *_data(run), _recipe(run), _training(run)]
    sections += mask_sections(run) if segments else class_sections(run)
    sections += _others(run)
    own, split = (run.evaluation.figures[name] for name in ("is_own_data", "split"))
    answers = {section.name: section.name for section in sections}
    answers |= {"own_test": "scores"} if own and split == "test" else {}
    if not all(figures.get("is_own_data", True) for _, figures in list_evaluations(workdir)):
        answers["other_data"] = "others" if own else "scores"
    checklists = (
        "The items of CLAIM 2024 (Tejani et al., Radiol Artif Intell 6:e240300) and TRIPOD+AI "
        "(Collins et al., BMJ 385:e078378, 2024) that this page answers, and those it cannot. In "
        "our words: read theirs before you submit."
    )
    blocks: list[Block] = [Text(checklists), checklist_table(answers)]
    sections.append(Section("checklists", "For a paper: CLAIM and TRIPOD+AI", blocks))

    output = workdir / "report"
    figures = output / "figures"
    make_folder("workdir", figures)
    plots = [
        plot
        for section in sections
        for block in section.blocks
        if isinstance(block, Plots)
        for plot in block.plots
    ]
    for plot in plots:
        plot.write(figures)
    headline = mask_headline(run) if segments else class_headline(run)
    num_lesions = len(set(run.lesion_ids))
    found = run.evaluation
    page = render(
        "report.html",
        title=f"Report: {workdir.absolute().name}, {found.name}",
        date=datetime.date.today().isoformat(),
        warning=model_card.WARNING,
        headline=f"On {len(found.rows):,} images of {num_lesions:,} lesions: {headline}.",
        sections=sections,
    )
    write_text(output / "index.html", page)
    print(
        f"{found.name}: {len(found.rows):,} images of {num_lesions:,} lesions\n"
        f"the page: {output / 'index.html'} ({len(page) / 2**20:.1f} MB); {len(plots)} figures as "
        f"PNG, SVG and CSV: {figures}/"
    )
    if run.gone:
        print(f"The page has no photographs: {run.gone}")
    return output / "index.html"


def _learnt_from(run: Reported) -> list[About]:
    """The data sets that the run was trained on."""
    data = run.config.data
    return [ABOUT[name] for name in (data.dataset, *(name for name, _, _ in data.also))]


def _card(run: Reported) -> Section:
    settings, figures = run.settings, run.evaluation.figures
    classes = read_classes(run.workdir)
    learnt_from = _learnt_from(run)
    task = create_task(run.config, classes)
    shapes = jax.eval_shape(lambda: task.init(jax.random.key(0)))
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    if run.config.task == "segmentation":
        purpose = "outlines the lesion of a dermoscopic picture"
        output = "the probability of lesion at each pixel, cut at one half"
    else:
        purpose = f"tells {', '.join(classes)} apart in dermoscopic pictures"
        output = (
            f"a probability for each class, at temperature {temperature_text(figures)}; the "
            "largest is the answer"
        )
    tested = ABOUT[figures["dataset"]]
    checkpoint = f"step {figures['checkpoint_step']:,}, {figures['weights']} weights"
    checkpoint += f", the best by {run.config.best_metric}" if figures["is_best"] else ""
    checkpoint += f"; predictions averaged over {TTA[figures['tta']]}" if figures["tta"] else ""
    for member in figures.get("averaged", [])[1:]:
        checkpoint += f"; averaged with {member['name']}, step {member['checkpoint_step']:,}"
    rows = [
        ("what it does", purpose),
        ("model", model_card.describe_model(settings, num_parameters)),
        ("its output", output),
        ("learnt from", "; ".join(f"{about.name}, {about.title}" for about in learnt_from)),
        ("tested on", f"{tested.name}, {figures['split']}"),
        ("checkpoint", checkpoint),
        ("licence of the data", _joined(about.licence for about in learnt_from)),
        ("to be cited", _joined(about.cite for about in [*learnt_from, tested])),
        ("code", f"skinjax {__version__}, Apache-2.0"),
    ]
    purposes = model_card.not_for(settings, classes, [about.licence for about in learnt_from])
    blocks: list[Block] = [
        Facts(rows),
        Text("What it is not for:", items=purposes),
        Text("Limits:", items=_limits(run)),
    ]
    return Section("card", "Model card", blocks)


def _joined(texts: Iterable[str]) -> str:
    """Texts without those that come again."""
    return "; ".join(dict.fromkeys(texts))


def _limits(run: Reported) -> list[str]:
    """What the scores do not tell, as far as the run's own files show it."""
    found = run.evaluation
    abouts = dict.fromkeys([*_learnt_from(run), ABOUT[found.figures["dataset"]]])
    limits = [f"{about.name}: {limit}" for about in abouts for limit in about.limits]
    labels = found.column("label", "truth")
    counts = {name: labels.count(name) for name in sorted({*labels} - {""})}
    few = [f"{name} {count}" for name, count in counts.items() if count < _FEW]
    if few:
        limits.append(
            f"Of some classes there are few images to be scored on ({', '.join(few)}): their "
            "figures say little."
        )
    proofs = [proof for proof in found.column(*COLUMNS["confirmation"]) if proof]
    if proofs and run.config.task == "classification":
        share = np.mean([proof.lower().startswith("histo") for proof in proofs])
        limits.append(
            f"{share:.0%} of the diagnoses that it is scored on are confirmed by histology; of the "
            "others some may be wrong."
        )
    if run.config.task == "segmentation":
        limits.append(
            "What is called truth is an outline by one hand or a program; two experts differ, too, "
            "by more the fuzzier a lesion is."
        )
    num_averaged = len(run.evaluation.figures.get("averaged", [run]))
    trainings = "One training with one seed" if num_averaged == 1 else "Trainings done but once"
    limits.append(
        f"{trainings}: the intervals tell how the scores change with the test images, not how they "
        "change from training to training."
    )
    return limits


def _data(run: Reported) -> list[Section]:
    """How the data were divided, and who is in them."""
    parts = _read_parts(run.workdir / "splits.csv")
    rows_of: dict[str, Sequence[Mapping[str, str]]] = {}
    counts: dict[str, dict[str, int]] = {}
    classes: list[str] = list(read_classes(run.workdir))
    own = run.evaluation.figures["is_own_data"]
    table = {row.image_id: row for row in run.prepared.table} if run.prepared and own else {}
    for part, members in parts.items():
        counts[part] = {"images": len(members), "lesions": len({lesion for _, lesion in members})}
        known_rows = [table[image_id] for image_id, _ in members if image_id in table]
        if not table or len(known_rows) < len(members):  # of some, as of one set, it says little
            continue
        named = [row.label for row in known_rows]
        counts[part] |= {name: named.count(name) for name in classes}
        if members:
            rows_of[part] = [row.metadata for row in known_rows]
    name = run.evaluation.name
    if not rows_of:
        rows_of[name] = run.evaluation.rows
    if not own:
        labels = run.evaluation.column("label", "truth")
        counts[name] = {"images": len(labels), "lesions": len(set(run.lesion_ids))}
        counts[name] |= {label: labels.count(label) for label in {*labels} - {""}}
        classes += sorted({*labels} - {"", *classes})
    trained = {lesion for _, lesion in parts["train"]}
    leaked = [lesion for _, lesion in parts["test"] if lesion in trained]
    if run.prepared is None or not own:  # where lesions are not told, each picture counts as one
        tells_lesions = any(image != lesion for pairs in parts.values() for image, lesion in pairs)
    elif isinstance(run.prepared, Combined):
        tells_lesions = run.prepared.tells_lesions[0]
    else:
        tells_lesions = run.prepared.has_lesion_ids
    num_test = len(parts["test"])
    words = model_card.split_words(
        run.settings, tells_lesions, len(leaked) / max(num_test, 1), num_test
    )
    section = Section("data", "Data and split", [*words, model_card.split_table(counts, classes)])
    people = people_section(rows_of)
    return [section, people] if people else [section]


def _read_parts(path: Path) -> dict[str, list[tuple[str, str]]]:
    """The image and lesion ids of each part, as splits.csv has them."""
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "val": [], "test": []}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                parts[row["split"]].append((row["image_id"], row["lesion_id"]))
    except (OSError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): restore it from a copy, or train the run again."
        ) from error
    return parts


def _recipe(run: Reported) -> Section:
    return Section("recipe", "Recipe", model_card.recipe(run.settings))


def _training(run: Reported) -> Section:
    path = run.workdir / "metrics.jsonl"
    events = _read_events(path)
    if not events:
        return Section("training", "Training", [Text(f"{path} is gone or empty: no curves.")])
    rates = [event["images_per_second"] for event in events if "images_per_second" in event]
    last = events[-1]
    words = f"{last['step']:,} steps, {last['epoch']:.1f} epochs"
    if rates:
        words += f", {np.median(rates):,.0f} images a second (median)"
    best = run.evaluation.figures["checkpoint_step"]
    plot = curves(events, run.config.best_metric, best)
    return Section("training", "Training", [Text(f"{words}."), Plots([plot])])


def _read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a metrics.jsonl up to a line that a kill has torn; none where it is gone."""
    if not path.exists():
        return []
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return events


def _others(run: Reported) -> list[Section]:
    """The run's other evaluations: other parts, data sets, checkpoints and ways to predict."""
    names = _LISTED[run.config.task]
    rows: list[Sequence[str]] = [
        [
            f"{name} (this page)" if name == run.evaluation.name else name,
            f"{figures.get('num_images', 0):,}",
            *(estimate_text(known(figures, figure)) for figure in names),
        ]
        for name, figures in list_evaluations(run.workdir)
    ]
    if len(rows) < 2:
        return []
    words = "NAME is the part, with the data set where it is another, -stepN, -tta and -tta-zooms."
    header = ("evaluation", "images", *(name.replace("_", " ") for name in names))
    return [Section("others", "Other evaluations of this run", [Text(words), Table(header, rows)])]
