"""Prediction: pictures in; masks or diagnoses, a table, and what else is asked for, out."""

import csv
import io
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from skinjax import __version__
from skinjax.data.archives import cache_folder
from skinjax.data.images import BrokenPicture
from skinjax.data.pictures import find_pictures
from skinjax.data.sources.files import File
from skinjax.data.threads import map_in_order
from skinjax.errors import UserError
from skinjax.modes import bucket
from skinjax.modes.config import segmentation_config
from skinjax.modes.journal import Entry, Journal
from skinjax.modes.predictor import ModelOutput, Predictor
from skinjax.modes.workdir import write_bytes
from skinjax.process import num_cores
from skinjax.progress import progress
from skinjax.tasks.predictions import ClassificationPrediction, SegmentationPrediction

TABLE = "predictions.csv"
# Sub-folders of the output, which are never read as input.
MASKS, OVERLAYS, PROBABILITIES, ISIC = "masks", "overlays", "probabilities", "isic"
EXPLANATIONS = "explanations"
# The columns of the ISIC challenge's Task 3, and the class of each.
ISIC_CLASSES = ("mel", "nv", "bcc", "akiec", "bkl", "df", "vasc")

_MASK_COLUMNS = ("width", "height", "lesion_fraction", "num_regions", "mean_confidence")
_CLASS_COLUMNS = ("predicted", "confidence", "entropy")
_MAX_TOLD = 5  # broken pictures that the last lines name
_PNG_LEVEL = 1  # zlib's quickest


def predict(
    workdirs: Sequence[Path],
    inputs: Sequence[str],
    output: Path,
    checkpoint: str = "best",
    tta: str = "",
    overlay: bool = False,
    probabilities: bool = False,
    isic: bool = False,
    min_region: float = 0.0,
    explain: bool = False,
) -> bool:
    """Predicts pictures with the averaged models of some runs and writes what they say.

    The output folder gets predictions.csv, a row a picture; of segmentation also masks/NAME.png,
    grey, 0 and 255, of the picture's own size (upright, as viewers show it). Pictures that are
    there already, unchanged, are not predicted again.

    Args:
        workdirs: the runs' folders, at least one.
        inputs: files, folders, zips and patterns (`find_pictures`).
        output: the folder to write to.
        checkpoint: 'best' by the run's metric on val, 'last', or a step, of each run.
        tta: what predictions are averaged over: '', 'flips' or 'zooms' (`skinjax.tasks.views`).
        overlay: whether overlays/NAME.jpg are written, pictures with the lesion's outline.
        probabilities: whether probabilities/NAME.png are written: grey, 255 times the probability
            of lesion; at least 128 is the mask, before anything was taken out of it.
        isic: whether the form is written, too, in which the ISIC challenge wants them: of
            segmentation isic/NAME_segmentation.png, of classification isic/response.csv.
        min_region: of segmentation: the share of a picture that an island or a hole must have to
            stay; 0 leaves masks as they are.
        explain: whether explanations/NAME.png are written, of a single run: what the prediction
            rests on (`skinjax.modes.explain`).

    Returns:
        Whether all pictures could be read.

    Raises:
        UserError: where there is nothing to predict, two pictures would be written to one place, or
            the output holds something else or predictions made otherwise.
    """
    if not inputs:
        raise UserError("--input is missing: name pictures, folders or zips of them, or globs.")
    if explain and len(workdirs) > 1:
        raise UserError("--explain looks into one model: give one --workdir.")
    cache_dir = cache_folder(segmentation_config().data.cache_dir)
    ours = [output / name for name in (MASKS, OVERLAYS, PROBABILITIES, ISIC, EXPLANATIONS)]
    pictures = find_pictures(inputs, cache_dir, left_out=ours)
    predictor = Predictor(workdirs, checkpoint, tta, min_region)
    if predictor.task == "segmentation":
        writer: MaskWriter | ClassWriter = MaskWriter(
            predictor, output, overlay, probabilities, isic, explain
        )
    elif overlay or probabilities or min_region:
        raise UserError(
            f"{workdirs[0]} tells diagnoses apart and outlines nothing: leave out --overlay, "
            "--probabilities and --min_region."
        )
    else:
        writer = ClassWriter(predictor, output, isic, explain)
    return predict_pictures(predictor, pictures, output, writer)


def predict_pictures(
    predictor: Predictor,
    pictures: Sequence[File],
    output: Path,
    writer: "MaskWriter | ClassWriter",
) -> bool:
    """Predicts the pictures that are not done yet, and writes the table of all.

    Args:
        predictor: the models.
        pictures: to be predicted.
        output: the folder to write to.
        writer: writes what is said of each.

    Returns:
        Whether all pictures could be read.

    Raises:
        UserError: as `predict`.
    """
    asked = [file.relative for file in pictures]
    _refuse_same_output(asked, writer)
    about = {
        "skinjax": __version__,
        "workdirs": [bucket.address_of(workdir) for workdir in predictor.workdirs],
    }
    with Journal(output, predictor.settings, about) as journal:
        # What was predicted into the folder from elsewhere stays there; what could not be read and
        # is no longer asked for is forgotten.
        others = journal.entries.keys() - set(asked)
        kept = [name for name in others if journal.entries[name].row[0] == "ok"]
        _refuse_same_output([*kept, *asked], writer)
        todo = [file for file in pictures if not _is_done(file, journal, writer)]
        if len(todo) < len(pictures):
            print(f"{len(pictures) - len(todo):,} of {len(pictures):,} are done already, skipped.")
        with (
            ThreadPoolExecutor(num_cores()) as pool,
            progress("predicting", len(todo)) as update,
        ):
            outputs = predictor.stream(todo, lambda file: predictor.read_file(file.path))
            written = map_in_order(
                pool, lambda one: _write(writer, *one), outputs, predictor.batch_size
            )
            for (file, _), row in written:
                kinds = [kind for kind in writer.paths(file) if kind != EXPLANATIONS]
                journal.add(_entry(file, journal, row, kinds))
                update(1)
        if writer.explains:
            from skinjax.modes.explain import explain  # matplotlib

            readable = [file for file in todo if journal.entries[file.relative].row[0] == "ok"]
            sheets = [writer.paths(file)[EXPLANATIONS] for file in readable]
            (model,) = predictor.ensemble.members
            chances = None
            if predictor.task == "classification":  # as the table has them
                rows = [journal.entries[file.relative].row for file in readable]
                chances = np.array([row[-len(predictor.classes) :] for row in rows], float)
            explain(model.workdir, readable, sheets, str(model.step), chances)
            for file in readable:
                row = journal.entries[file.relative].row
                journal.add(_entry(file, journal, row, [EXPLANATIONS]))
        rows = [[name, *journal.entries[name].row] for name in sorted([*asked, *kept])]
        write_bytes(output / TABLE, _csv([["file", "status", *writer.columns], *rows]))
        entries = [journal.entries[name] for name in asked]
        writer.close(entries)
    broken = [entry for entry in entries if entry.row[0] != "ok"]
    print(f"{len(pictures):,} pictures, {len(broken):,} of them not readable: {output / TABLE}")
    for entry in broken[:_MAX_TOLD]:
        print(f"  {entry.name}: {entry.row[0]}")
    if len(broken) > _MAX_TOLD:
        print(f"  and {len(broken) - _MAX_TOLD:,} more")
    return not broken


class MaskWriter:
    """Writes outlines: masks, and what else is asked for.

    Args:
        predictor: the models.
        output: the folder to write to.
        overlay: see `predict`, as the others.
        probabilities: likewise.
        isic: likewise.
        explains: likewise.
    """

    columns = _MASK_COLUMNS

    def __init__(
        self,
        predictor: Predictor,
        output: Path,
        overlay: bool,
        probabilities: bool,
        isic: bool,
        explains: bool,
    ):
        self._predictor, self._output = predictor, output
        self._overlay, self._probabilities, self._isic = overlay, probabilities, isic
        self.explains = explains

    def paths(self, file: File) -> dict[str, Path]:
        """The files that a picture's prediction is written to, by their sub-folder."""
        name = PurePosixPath(file.relative)
        paths = {MASKS: self._output / MASKS / name.with_suffix(".png")}
        if self._overlay:
            paths[OVERLAYS] = self._output / OVERLAYS / name.with_suffix(".jpg")
        if self._probabilities:
            paths[PROBABILITIES] = self._output / PROBABILITIES / name.with_suffix(".png")
        if self._isic:
            paths[ISIC] = self._output / ISIC / f"{name.stem}_segmentation.png"
        if self.explains:
            paths[EXPLANATIONS] = self._output / EXPLANATIONS / name.with_suffix(".png")
        return paths

    def key(self, name: str) -> str:
        """What two pictures, by their `File.relative`, may not share: the place of a mask."""
        path = PurePosixPath(name)
        return path.stem if self._isic else str(path.with_suffix(".png"))

    def write(self, file: File, output: ModelOutput) -> list[str]:
        """Writes a picture's files and gives its columns."""
        prediction = self._predictor.finish(output)
        assert isinstance(prediction, SegmentationPrediction)
        mask = _encode_mask(prediction.mask)
        for kind, path in self.paths(file).items():
            if kind == EXPLANATIONS:
                continue  # drawn when all is predicted
            data = mask  # which is the challenge's form as well
            if kind == OVERLAYS:
                data = self._draw(file, prediction.mask)
            elif kind == PROBABILITIES:
                levels = np.floor(prediction.probabilities * 255 + np.float32(0.5))
                data = _encode_png(levels.astype(np.uint8))
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, data)
        height, width = prediction.mask.shape
        return [
            str(width),
            str(height),
            f"{prediction.lesion_fraction:.6f}",
            str(prediction.num_regions),
            f"{prediction.mean_confidence:.6f}",
        ]

    def _draw(self, file: File, mask: np.ndarray) -> bytes:
        # Read once more rather than kept since: a batch of large pictures is a gigabyte.
        from skinjax.report.overlay import draw_outline  # matplotlib's colours

        buffer = io.BytesIO()
        drawn = draw_outline(self._predictor.read_file(file.path), mask)
        Image.fromarray(drawn).save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    def close(self, asked: Sequence[Entry]) -> None:
        """Nothing is left to be written at the end."""


class ClassWriter:
    """Writes diagnoses: the columns of the table, and the challenge's table where asked for.

    Args:
        predictor: the models.
        output: the folder to write to.
        isic: see `predict`.
        explains: likewise.

    Raises:
        UserError: where the challenge's form is asked for and the classes are not the challenge's.
    """

    def __init__(self, predictor: Predictor, output: Path, isic: bool, explains: bool):
        self._predictor, self._output, self._isic = predictor, output, isic
        self.explains = explains
        self.columns = (*_CLASS_COLUMNS, *predictor.classes)
        if isic and set(predictor.classes) != set(ISIC_CLASSES):
            raise UserError(
                f"--isic: the challenge's Task 3 has the classes {', '.join(ISIC_CLASSES)}, and "
                f"{predictor.workdirs[0]} tells {', '.join(predictor.classes)} apart. Leave it out."
            )

    def paths(self, file: File) -> dict[str, Path]:
        """The files that are written for a picture, by their sub-folder: a sheet, if any."""
        if not self.explains:
            return {}
        name = PurePosixPath(file.relative).with_suffix(".png")
        return {EXPLANATIONS: self._output / EXPLANATIONS / name}

    def key(self, name: str) -> str:
        """What two pictures, by their `File.relative`, may not share: the name in a table."""
        if self._isic:
            return PurePosixPath(name).stem
        return str(PurePosixPath(name).with_suffix(".png")) if self.explains else name

    def write(self, file: File, output: ModelOutput) -> list[str]:
        """A picture's columns."""
        prediction = self._predictor.finish(output)
        assert isinstance(prediction, ClassificationPrediction)
        figures = (prediction.confidence, prediction.entropy, *prediction.probabilities)
        return [prediction.predicted, *(f"{figure:.8f}" for figure in figures)]

    def close(self, asked: Sequence[Entry]) -> None:
        """Writes the challenge's table, of the pictures that were asked for and could be read."""
        if not self._isic:
            return
        # After the status and the three columns before the classes.
        places = [1 + self.columns.index(name) for name in ISIC_CLASSES]
        rows = [["image", *(name.upper() for name in ISIC_CLASSES)]]
        for entry in asked:
            if entry.row[0] == "ok":
                stem = PurePosixPath(entry.name).stem
                rows.append([stem, *(entry.row[place] for place in places)])
        (self._output / ISIC).mkdir(exist_ok=True)
        write_bytes(self._output / ISIC / "response.csv", _csv(rows))


def _write(
    writer: MaskWriter | ClassWriter, file: File, output: ModelOutput | OSError | BrokenPicture
) -> list[str]:
    """Writes what is said of one picture and gives its row, or the reason why there is nothing."""
    if isinstance(output, ModelOutput):
        return ["ok", *writer.write(file, output)]
    for path in writer.paths(file).values():
        path.unlink(missing_ok=True)  # of what the file was before
    if isinstance(output, BrokenPicture):
        reason = output.kind
    else:
        reason = f"cannot be read: {output.strerror or output}"
    return [reason, *[""] * len(writer.columns)]


def _is_done(file: File, journal: Journal, writer: MaskWriter | ClassWriter) -> bool:
    """Whether a picture was predicted, has not changed since, and all its files are there."""
    entry = journal.entries.get(file.relative)
    if entry is None or not entry.is_of(file):
        return False
    paths = writer.paths(file)
    return paths.keys() <= {*entry.kinds} and all(path.exists() for path in paths.values())


def _entry(file: File, journal: Journal, row: list[str], kinds: Sequence[str]) -> Entry:
    """The entry of a picture of which files have been written now, and some perhaps before."""
    before = journal.entries.get(file.relative)
    kept = before.kinds if before is not None and before.is_of(file) else []
    return Entry(file.relative, file.num_bytes, file.mtime_ns, row, sorted({*kept, *kinds}))


def _refuse_same_output(names: Sequence[str], writer: MaskWriter | ClassWriter) -> None:
    """Refuses pictures of which one would overwrite another's output."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(writer.key(name), name)
        if other != name:
            raise UserError(
                f"{other} and {name} would be written to one place, {writer.key(name)}: rename "
                "one, or give each an --output of its own."
            )


def _encode_mask(mask: np.ndarray) -> bytes:
    """A grey PNG, 0 and 255, of a mask bool [H, W].

    Pillow tries five filters on each row, which takes longer than all else and does a mask no good.
    """
    height, width = mask.shape
    rows = np.zeros((height, 1 + width), np.uint8)  # a row begins with its filter: 0 for none
    rows[:, 1:] = mask * np.uint8(255)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)  # 8 bits, grey, not interlaced
    chunks = [
        (b"IHDR", header),
        (b"IDAT", zlib.compress(rows.tobytes(), _PNG_LEVEL)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _encode_png(array: np.ndarray) -> bytes:
    """A grey PNG of an array uint8 [H, W]."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    # A file's name need not be text; its bytes come back as they were.
    return buffer.getvalue().encode("utf-8", "surrogateescape")
