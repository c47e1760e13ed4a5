"""The sections of a report that tell of diagnoses."""

import csv
from collections.abc import Sequence

import numpy as np
from scipy.stats import entropy

from skinjax.errors import UserError
from skinjax.modes.report_groups import groups_section
from skinjax.modes.reported import (
    LEFT_OUT,
    Reported,
    estimate_text,
    known,
    temperature_text,
)
from skinjax.report.classification_figures import ReliabilityBin
from skinjax.report.gallery import extremes
from skinjax.report.page import NO_VALUE, Block, Gallery, Picture, Plots, Section, Table, Text
from skinjax.report.run_class_figures import (
    confusion_plot,
    coverage_risk_plot,
    precision_recall_plot,
    reliability_plot,
    roc_plot,
)
from skinjax.tasks.calibration import area_under_risk, coverage_risk
from skinjax.tasks.classification_metrics import find_melanoma
from skinjax.tasks.subgroups import Estimate, Figure, auroc_estimate, mean_estimate

_OF_A_CLASS = 3  # worst, median and best pictures each


def class_headline(run: Reported) -> str:
    """The run's scores in one sentence."""
    figures = run.evaluation.figures
    return (
        f"AUROC {estimate_text(known(figures, 'auroc'))}, balanced accuracy "
        f"{estimate_text(known(figures, 'balanced_accuracy'))}, accuracy "
        f"{estimate_text(known(figures, 'accuracy'))}, where always answering the most frequent "
        f"class has {figures['majority_accuracy']:.3f}"
    )


def class_sections(run: Reported) -> list[Section]:
    """Scores, curves, groups and gallery of an evaluation of diagnoses."""
    return _Classes(run).sections()


class _Classes:
    """The table of an evaluation of diagnoses as arrays, and the sections made of it."""

    def __init__(self, run: Reported):
        self._run = run
        self._figures = run.evaluation.figures
        self._classes: list[str] = self._figures["classes"]
        self._melanoma = find_melanoma(self._classes)
        index = {name: k for k, name in enumerate(self._classes)}
        columns = [run.evaluation.numbers(name) for name in self._classes]
        self._probabilities = np.stack(columns, axis=1)
        truth, predicted = (run.evaluation.column(name) for name in ("truth", "predicted"))
        self._truth = truth
        self._labels = np.array([index[name] for name in truth])
        self._predicted = np.array([index[name] for name in predicted])
        self._correct = self._labels == self._predicted

    def sections(self) -> list[Section]:
        """In the order in which they are read."""
        probabilities, labels, classes = self._probabilities, self._labels, self._classes
        confusion = confusion_plot(labels, self._predicted, classes)
        curves = [
            roc_plot(probabilities, labels, classes),
            precision_recall_plot(probabilities, labels, classes),
        ]
        return [
            self._scores(),
            self._by_class(),
            Section("confusion", "What was taken for what", [Plots([confusion])]),
            Section("discrimination", "ROC and precision-recall", [Plots(curves)]),
            self._confidence(),
            self._groups(),
            self._gallery(),
        ]

    def _scores(self) -> Section:
        figures = self._figures

        def value(name: str) -> str:
            return estimate_text(known(figures, name))

        frequent = f"{figures['majority_accuracy']:.3f}"
        shares = np.bincount(self._labels) / len(self._labels)
        rows = [
            ("AUROC, mean over classes", value("auroc"), "0.5"),
            ("balanced accuracy", value("balanced_accuracy"), value("majority_balanced_accuracy")),
            ("accuracy", value("accuracy"), frequent),
            ("F1, mean over classes", value("f1_macro"), NO_VALUE),
            (
                "accuracy by lesion",
                value("lesion_accuracy"),
                value("lesion_majority_accuracy"),
            ),
            (
                "balanced accuracy by lesion",
                value("lesion_balanced_accuracy"),
                value("majority_balanced_accuracy"),
            ),
            ("expected calibration error", value("ece"), "0 is best"),
            ("Brier score", value("brier"), f"{1 - np.sum(shares**2):.3f}"),
            ("log loss", value("log_loss"), f"{entropy(shares):.3f}"),
        ]
        if self._melanoma is not None:
            rows += [
                ("melanoma: AUROC", value(f"auroc/{self._melanoma}"), "0.5"),
                (
                    "melanoma: best specificity at 95% sensitivity",
                    value("melanoma_specificity_at_95_sensitivity"),
                    "0.05",
                ),
            ]
        if "melanoma_threshold_from_val" in figures:
            threshold = figures["melanoma_threshold_from_val"]
            rows += [
                (
                    f"melanoma: {what} at the threshold chosen on val, {threshold:.3f}",
                    value(f"melanoma_{what}_at_val_threshold"),
                    NO_VALUE,
                )
                for what in ("sensitivity", "specificity")
            ]
        words = (
            "In brackets a 95% interval by a bootstrap over lesions, since the pictures of one "
            "lesion are not independent. The baseline always answers the most frequent class, or "
            "guesses; of the Brier score and the log loss, it gives each class its share. By "
            "lesion: the probabilities of a lesion's pictures are averaged."
        )
        blocks: list[Block] = [Text(words), Table(("score", "value", "baseline"), rows)]
        undefined = sorted(set(figures["undefined"].values()))
        if undefined:
            blocks.append(Text(f"Undefined: {'; '.join(undefined)}.", soft=True))
        if "class_match" in figures:
            blocks.append(Text("Classes in which both are told:", items=figures["class_match"]))
        return Section("scores", "Scores", blocks)

    def _by_class(self) -> Section:
        figures = self._figures
        rows = []
        lesion_ids = np.array(self._run.lesion_ids, dtype=object)
        for k, name in enumerate(self._classes):
            positive = self._labels == k
            lesions = lesion_ids[positive].tolist()
            recall = mean_estimate(self._correct[positive], lesions) if positive.any() else None
            auroc = auroc_estimate(self._probabilities[:, k], positive, lesion_ids.tolist())
            rows.append(
                [
                    name,
                    f"{positive.sum():,}",
                    f"{len(set(lesions)):,}",
                    estimate_text(recall),
                    estimate_text(known(figures, f"precision/{name}")),
                    estimate_text(auroc),
                    estimate_text(known(figures, f"average_precision/{name}")),
                ]
            )
        header = (
            "class",
            "images",
            "lesions",
            "recall (sensitivity)",
            "precision",
            "AUROC against the rest",
            "average precision",
        )
        return Section("classes", "Each class", [Table(header, rows)])

    def _confidence(self) -> Section:
        figures = self._figures
        coverage, risk = coverage_risk(self._probabilities.max(1), self._correct)
        plots = [
            reliability_plot(_read_bins(self._run), figures["ece"], figures["ece_uncalibrated"]),
            coverage_risk_plot(coverage, risk, area_under_risk(coverage, risk)),
        ]
        fitted = "which was fitted on val"
        if not figures.get("is_calibrated", True):
            fitted = "which is no fit where it is 1: val was gone, or all of it told rightly"
        words = (
            f"The logits are divided by a temperature of {temperature_text(figures)}, {fitted}. "
            "The ECE's interval lies high: a draw of the bootstrap has noise of its own, which "
            "counts as miscalibration."
        )
        return Section("confidence", "Can its confidence be believed", [Text(words), Plots(plots)])

    def _groups(self) -> Section:
        lesion_ids = self._run.lesion_ids
        correct, labels = self._correct.astype(float), self._labels
        majority = self._classes[int(np.bincount(labels).argmax())]
        frequent = labels == self._classes.index(majority)
        melanoma = self._melanoma

        def score(positions: np.ndarray) -> dict[str, Figure]:
            lesions = [lesion_ids[position] for position in positions]
            found: dict[str, Figure] = {
                "accuracy": mean_estimate(correct[positions], lesions),
                f"always {majority}": Estimate(float(frequent[positions].mean())),
            }
            if melanoma is not None:
                k = self._classes.index(melanoma)
                positive = labels[positions] == k
                scores = self._probabilities[positions, k]
                found[f"AUROC of {melanoma}"] = auroc_estimate(scores, positive, lesions)
                found[f"images of {melanoma}"] = int(positive.sum())
            return found

        note = (
            f"Accuracy follows the share of {majority} in a group, which is what always answering "
            f"{majority} scores there: compare with that. By diagnosis, accuracy is recall."
        )
        return groups_section(self._run, self._truth, score, "accuracy", [note])

    def _gallery(self) -> Section:
        run = self._run
        title = "Gallery: the worst, the median, the best"
        if run.prepared is None:
            return Section("gallery", title, [Text(LEFT_OUT)])
        words = "By the probability that was given to the true class."
        blocks: list[Block] = [Text(words)]
        given = self._probabilities[np.arange(len(self._labels)), self._labels]
        for k, name in enumerate(self._classes):
            members = np.flatnonzero(self._labels == k)
            if not len(members):
                continue
            pictures = [
                self._picture(int(members[place]), kind)
                for kind, places in extremes(given[members], _OF_A_CLASS).items()
                for place in places
            ]
            blocks.append(Gallery(f"{name} ({len(members):,})", pictures))
        return Section("gallery", title, blocks)

    def _picture(self, position: int, kind: str) -> Picture:
        image_id = self._run.evaluation.rows[position]["image_id"]
        image, _ = self._run.picture(image_id)
        truth, predicted = (
            self._classes[k] for k in (self._labels[position], self._predicted[position])
        )
        given = self._probabilities[position, self._labels[position]]
        answer = f"{given:.0%} {truth}"
        if truth != predicted:
            answer += f", taken for {predicted} ({self._probabilities[position].max():.0%})"
        start = "" if kind == "all" else f"{kind}: "
        return Picture(image, f"{start}{image_id}, {answer}", f"{image_id}, {truth}: {answer}")


def _read_bins(run: Reported) -> Sequence[ReliabilityBin]:
    """What evaluate kept of the confidence before and after the temperature."""
    path = run.evaluation.folder / "reliability.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): evaluate the run again."
        ) from error
    return [
        ReliabilityBin(
            row["model"],
            float(row["low"]),
            float(row["high"]),
            int(row["num_images"]),
            *(float(row[name]) for name in ReliabilityBin._fields[4:]),
        )
        for row in rows
    ]
