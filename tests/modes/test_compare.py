"""Comparison of two runs by the files that their evaluations left."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from skinjax.errors import UserError
from skinjax.modes.compare import compare


def write_masks(workdir, jaccards, first_id=0, name="test"):
    rows = [["image_id", "lesion_id", "jaccard", "dice", "thresholded_jaccard", "accuracy"]]
    for i, jaccard in enumerate(jaccards, first_id):
        rows.append([f"i{i}", f"l{i // 2}", jaccard, jaccard, jaccard, 0.5])
    write(workdir / "evaluate" / name / "per_image.csv", rows)
    (workdir / "evaluate" / name / "metrics.json").write_text('{"checkpoint_step": 1200}')
    return workdir


def write_classes(workdir, probabilities, labels, classes=("mel", "nv")):
    rows = [["image_id", "lesion_id", "truth", "predicted", *classes]]
    for i, (row, label) in enumerate(zip(probabilities, labels, strict=True)):
        rows.append([f"i{i}", f"l{i}", classes[label], classes[np.argmax(row)], *row])
    write(workdir / "evaluate" / "test" / "predictions.csv", rows)
    metrics = {"classes": list(classes), "checkpoint_step": 1200}
    (workdir / "evaluate" / "test" / "metrics.json").write_text(json.dumps(metrics))
    return workdir


def write(path, rows):
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_outlines_are_told_apart_where_they_differ_and_only_there(tmp_path, capsys):
    rng = np.random.default_rng(0)
    jaccards = rng.uniform(0.3, 0.9, 60)
    first = write_masks(tmp_path / "a", jaccards)
    # The images stand in another order: rows are matched by their ids.
    second = write_masks(tmp_path / "b", jaccards + 0.05)
    path = second / "evaluate" / "test" / "per_image.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(rows)]) + "\n")
    differences = compare([first], [second], output=tmp_path / "out")
    assert differences["jaccard"].low == pytest.approx(0.05)
    assert differences["jaccard"].high == pytest.approx(0.05)
    told = capsys.readouterr().out
    assert "60 images of 30 lesions" in told
    assert f"A: {first / 'evaluate' / 'test'} (step 1,200)" in told
    assert [line.split(")")[-1].strip() for line in told.splitlines()[4:]] == [
        "B is better",
        "B is better",
        "B is better",
        "no difference shown",
    ]
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["figures"]["jaccard"]["low"] == differences["jaccard"].low


def test_of_few_lesions_no_side_is_called_better(tmp_path, capsys):
    jaccards = np.linspace(0.3, 0.9, 18)  # of nine lesions
    compare([write_masks(tmp_path / "a", jaccards)], [write_masks(tmp_path / "b", jaccards + 0.05)])
    told = capsys.readouterr().out
    assert told.count("of fewer than 10 lesions nothing can be told") == 4
    assert "better" not in told


def test_of_calibration_errors_the_lower_is_better(tmp_path, capsys):
    labels = np.arange(80) % 2
    sure, unsure = np.full((80, 2), 0.01), np.full((80, 2), 0.4)
    sure[np.arange(80), labels], unsure[np.arange(80), labels] = 0.99, 0.6
    compare(
        [write_classes(tmp_path / "a", unsure, labels)],
        [write_classes(tmp_path / "b", sure, labels)],
    )
    line = next(text for text in capsys.readouterr().out.splitlines() if " ece" in text)
    assert line.endswith("B is better") and "-0.390" in line


def test_what_is_undefined_is_said_and_written_as_null(tmp_path, capsys):
    probabilities, labels = np.full((6, 2), 0.5), np.array([0, 1, 1, 1, 1, 1])
    runs = [write_classes(tmp_path / name, probabilities, labels) for name in "ab"]
    compare(runs[:1], runs[1:], output=tmp_path / "out")
    assert "undefined: too many draws" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["figures"]["auroc"]["low"] is None


def test_columns_of_the_data_set_hide_none_of_ours(tmp_path):
    labels = np.arange(12) % 2
    runs = [
        write_classes(tmp_path / name, np.tile(row, (12, 1)), labels)
        for name, row in (("a", [0.9, 0.1]), ("b", [0.1, 0.9]))
    ]
    plain = compare(runs[:1], runs[1:])
    for run in runs:  # the truth one-hot, and a lesion for all, as its metadata may have them
        path = run / "evaluate" / "test" / "predictions.csv"
        header, *rows = path.read_text().splitlines()
        rows = [f"{row},{1 - label},{label},x" for row, label in zip(rows, labels, strict=True)]
        path.write_text("\n".join([f"{header},mel,nv,lesion_id", *rows]) + "\n")
    assert compare(runs[:1], runs[1:]) == plain


def test_runs_that_cannot_be_compared_are_refused_with_the_mend(tmp_path):
    labels = np.arange(4) % 2
    first = write_masks(tmp_path / "a", [0.5] * 4)
    with pytest.raises(UserError, match="--mode=evaluate --workdir"):
        compare([first], [tmp_path / "none"])
    with pytest.raises(UserError, match=r"2 are in one alone, as i0"):
        compare([first], [write_masks(tmp_path / "b", [0.5] * 4, first_id=1)])
    classes = write_classes(tmp_path / "c", np.full((4, 2), 0.5), labels)
    with pytest.raises(UserError, match="runs of one task"):
        compare([first], [classes])
    other = write_classes(tmp_path / "d", np.full((4, 2), 0.5), labels, ("bkl", "nv"))
    with pytest.raises(UserError, match="same classes"):
        compare([classes], [classes, other])


@pytest.mark.parametrize("kind", ["masks", "classes"])
def test_a_damaged_evaluation_is_told_by_its_file(tmp_path, kind):
    labels = np.arange(4) % 2
    runs = [
        write_masks(tmp_path / name, [0.5] * 4)
        if kind == "masks"
        else write_classes(tmp_path / name, np.full((4, 2), 0.5), labels)
        for name in "ab"
    ]
    path = runs[1] / "evaluate" / "test" / "metrics.json"
    path.write_text("{")
    with pytest.raises(UserError, match=f"{path} is damaged: evaluate"):
        compare(runs[:1], runs[1:])


def test_several_runs_a_side_are_averaged(tmp_path, capsys):
    labels = np.arange(80) % 2
    right, wrong = np.full((80, 2), 0.1), np.full((80, 2), 0.1)
    right[np.arange(80), labels] = wrong[np.arange(80), 1 - labels] = 0.9
    runs = {
        name: write_classes(tmp_path / name, probabilities, labels)
        for name, probabilities in (("a0", wrong), ("a1", right), ("b0", right), ("b1", right))
    }
    sides = [runs["a0"], runs["a1"]], [runs["b0"], runs["b1"]]
    found = compare(*sides, output=tmp_path / "out")["accuracy"]
    assert (found.first, found.second) == (0.5, 1.0)
    # Another run of the first side might have been as good as the second side's.
    assert (found.low, found.high) == (0.0, 1.0)
    folders = {name: str(run / "evaluate" / "test") for name, run in runs.items()}
    told = capsys.readouterr().out
    a0, a1 = (f"{folders[name]} (step 1,200)" for name in ("a0", "a1"))
    assert f"  A: {a0}, {a1} (their mean)\n" in told
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["second"] == [folders["b0"], folders["b1"]]


def test_two_evaluations_of_one_run_are_compared_by_their_folders(tmp_path):
    run = write_masks(tmp_path / "a", [0.5] * 8)
    write_masks(tmp_path / "a", [0.6] * 8, name="test-tta")
    difference = compare([run], [run / "evaluate" / "test-tta"])["jaccard"]
    assert (difference.first, difference.second) == (0.5, 0.6)
    # A folder stands for itself, whatever else is asked for; a run for what is asked.
    difference = compare([run / "evaluate" / "test"], [run], tta="flips")["jaccard"]
    assert (difference.first, difference.second) == (0.5, 0.6)


def test_an_evaluation_that_was_not_finished_is_not_compared(tmp_path):
    run, other = (write_masks(tmp_path / name, [0.5] * 8) for name in "ab")
    folder = other / "evaluate" / "test"
    (folder / "metrics.json").unlink()
    told = f"{folder} holds no evaluation that was finished: .* --workdir={other} "
    for named in (other, folder):
        with pytest.raises(UserError, match=told):
            compare([run], [named])
    (folder / "metrics.json").write_text("{}")
    (folder / "per_image.csv").unlink()
    for named in (other, folder):
        with pytest.raises(UserError, match=told):
            compare([run], [named])


def test_the_command_line_tells_two_runs_or_two_sides_apart(tmp_path):
    runs = {
        n: write_masks(tmp_path / n, [j] * 20) for n, j in {"a": 0.5, "b": 0.6, "c": 0.7}.items()
    }
    command = [sys.executable, "-m", "skinjax.main", "--mode=compare"]
    for flags, second in (
        ([f"--workdir={runs['a']}", f"--workdir={runs['c']}"], "0.700  +0.200"),
        ([f"--workdir={runs['a']}", f"--against={runs['b']}", f"--against={runs['c']}"], "0.650"),
    ):
        told = subprocess.run([*command, *flags], capture_output=True, text=True, check=True).stdout
        jaccard = next(line for line in told.splitlines() if line.split()[:1] == ["jaccard"])
        assert f"0.500  {second}" in jaccard and jaccard.endswith("B is better")
