"""The command line: flags to a mode, a mode to one function."""

import contextlib
import errno
import itertools
import os
import runpy
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from skinjax.errors import Interrupted, ToldElsewhere, UserError
from skinjax.process import end_at_once, set_up_jax, use_huge_pages

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration of the training: a file of configs/.", lock_config=True
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "folds", "evaluate", "compare", "report", "predict", "export", "audit"],
    "What to do; folds: train, evaluate and pool each fold of config.data.folds.",
)
_WORKDIR = flags.DEFINE_multi_string(
    "workdir",
    [],
    "The run's folder; evaluate, predict: given more than once, the runs' probabilities are "
    "averaged; compare: the two runs, or with --against those of one side; an evaluation's folder "
    "stands for itself.",
)
_AGAINST = flags.DEFINE_multi_string(
    "against",
    [],
    "compare: the other side's runs, where a side has several (seeds); their figures are averaged.",
)
_SPLIT = flags.DEFINE_enum(
    "split",
    None,
    ["train", "val", "test", "all"],
    "evaluate, compare: which split; unless told, 'test' of the run's data and 'all' of another "
    "--dataset.",
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    "best",
    "evaluate, predict, export: 'best', 'last' or a step that was kept.",
)


class _TtaParser(flags.ArgumentParser[str]):
    """Of --tta, which needs no value: without one, it is 'flips'."""

    def parse(self, argument: str) -> str:
        """A value of `skinjax.tasks.views.TTA`, which the mode checks: that module imports jax."""
        return {"true": "flips", "false": ""}.get(argument, argument)


_TTA = flags.DEFINE(
    _TtaParser(),
    "tta",
    "",
    "folds, evaluate, compare, predict, export: average over flips (and turns of a square); "
    "--tta=zooms: over these at five magnifications.",
    boolean=True,
)
_DATASET = flags.DEFINE_string(
    "dataset", "", "evaluate, compare: one that no run was trained on; audit: what --source is."
)
_SOURCE = flags.DEFINE_multi_string(
    "source",
    [],
    "audit: folder or zip of a data set, given once or more; evaluate, report: that of --dataset, "
    "or where the run's own data lies now.",
)
_EVALUATION = flags.DEFINE_string(
    "evaluation",
    "",
    "report: the folder of WORKDIR/evaluate that is reported; 'test', unless told.",
)
_INPUT = flags.DEFINE_multi_string(
    "input",
    [],
    "predict: a picture, a folder or zip of pictures, or a glob; once or more.",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "compare, predict, audit: the folder to write to; export: the file, .stablehlo, .onnx "
    "or .safetensors.",
)
_OVERLAY = flags.DEFINE_bool("overlay", False, "predict: also draw each lesion's outline.")
_PROBABILITIES = flags.DEFINE_bool(
    "probabilities", False, "predict: also write each pixel's probability of lesion, as a PNG."
)
_EXPLAIN = flags.DEFINE_bool(
    "explain", False, "predict: also draw what each prediction rests on, a sheet a picture."
)
_ISIC = flags.DEFINE_bool(
    "isic", False, "predict: also write the ISIC challenge's form, masks or response.csv."
)
_MIN_REGION = flags.DEFINE_float(
    "min_region",
    0.0,
    "predict: the share of a picture below which islands of lesion, but the largest, are taken out "
    "and holes are filled.",
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "train, evaluate: this is one of several processes, which are all started with the same flags.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "distributed: HOST:PORT of process 0; needed, like the next two, where JAX does not find the "
    "processes by itself (it does on TPU, SLURM, GKE and Open MPI).",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "distributed: how many there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "distributed: which one this is, from 0 on.")


_OF_PROCESSES = (_DISTRIBUTED, _COORDINATOR, _NUM_PROCESSES, _PROCESS_ID)
# What each mode reads: any other flag would be left aside without a word.
_READ = {
    "train": (_CONFIG, _WORKDIR, *_OF_PROCESSES),
    "folds": (_CONFIG, _WORKDIR, _TTA),
    "evaluate": (_WORKDIR, _SPLIT, _CHECKPOINT, _TTA, _DATASET, _SOURCE, *_OF_PROCESSES),
    "compare": (_WORKDIR, _AGAINST, _SPLIT, _DATASET, _TTA, _OUTPUT),
    "report": (_WORKDIR, _EVALUATION, _SOURCE),
    "predict": (
        *(_WORKDIR, _INPUT, _OUTPUT, _CHECKPOINT, _TTA, _OVERLAY, _PROBABILITIES, _EXPLAIN, _ISIC),
        _MIN_REGION,
    ),
    "export": (_WORKDIR, _OUTPUT, _CHECKPOINT, _TTA),
    "audit": (_SOURCE, _DATASET, _OUTPUT),
}


def main(argv: list[str]) -> None:
    """Runs the mode that the flags name; ends the process with its exit status."""
    try:
        if len(argv) > 1:
            raise UserError(f"{argv[1]!r} is not understood: flags begin with --.")
        _check_flags()
        with _copied_from_bucket():
            _run()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            _end_unforeseen(error)
        place = error.filename or _OUTPUT.value or ", ".join(_WORKDIR.value)
        print(
            f"skinjax: the disk is full ({place}): make room and start the same command again.",
            file=sys.stderr,
        )
        _end(2)  # as where a checkpoint finds it full: no restart makes room
    except KeyboardInterrupt:
        print("skinjax: stopped; nothing was half-written.", file=sys.stderr)
        _end(130)
    except UserError as error:
        if not isinstance(error, ToldElsewhere):
            print(f"skinjax: {_in_own_words(str(error))}", file=sys.stderr)
        _end(2)
    except Exception as error:
        _end_unforeseen(error)


def _in_own_words(message: str) -> str:
    """A message on data with the flags of the mode, where it has them, for a training's fields."""
    for name in {"source", "dataset"} & {flag.name for flag in _READ[_MODE.value]}:
        message = message.replace(f"config.data.{name}", f"--{name}")
    return message


def _end_unforeseen(error: Exception) -> NoReturn:
    """Ends with the traceback, or with a sentence where it is the loss of another process."""
    if not _DISTRIBUTED.value:
        raise error
    from skinjax.modes.processes import describe_failure

    lost = describe_failure(error)
    print(f"skinjax: {lost}" if lost else traceback.format_exc(), file=sys.stderr)
    if lost:
        # At once: where it was the first process, JAX is about to abort this one. Not with the
        # status that says "start me again": whether to, the one that ended first has said.
        end_at_once(1)
    _end(1)


def _end(exit_status: int) -> NoReturn:
    """Ends the process; where it is one of several, without waiting for those that go on."""
    if _DISTRIBUTED.value:
        from skinjax.modes.processes import leave

        leave(exit_status)
    sys.exit(exit_status)


@contextlib.contextmanager
def _copied_from_bucket() -> Iterator[None]:
    """Has the mode work in copies of the runs' folders where one lies in a bucket."""
    named = (_WORKDIR, _AGAINST)
    if not any(folder.startswith("gs://") for flag in named for folder in flag.value):
        yield
        return
    set_up_jax()
    from skinjax.modes.bucket import opened

    with contextlib.ExitStack() as stack:
        for flag in named:
            copies = [stack.enter_context(opened(folder)) for folder in flag.value]
            flags.FLAGS[flag.name].value = [str(copy) for copy in copies]
        yield


def _check_flags() -> None:
    """Refuses flags that the mode does not read."""
    read = [flag.name for flag in _READ[_MODE.value]]
    others = {flag.name for flags_of_mode in _READ.values() for flag in flags_of_mode} - {*read}
    given = sorted(name for name in others if flags.FLAGS[name].present)
    if given:
        raise UserError(
            f"--{given[0]} is nothing that --mode={_MODE.value} reads: it takes --"
            f"{', --'.join(read)}."
        )
    if (_OUTPUT.value or "").startswith("gs://"):
        raise UserError(
            f"--output={_OUTPUT.value} is in a bucket: name a place on this machine, and copy what "
            "is written there."
        )


def _run() -> None:
    if _MODE.value == "audit":
        from skinjax.modes.audit import audit

        output = _named(_OUTPUT.value, "output", "the folder to write to")
        sys.exit(0 if audit(_SOURCE.value, output, _DATASET.value) else 1)
    workdirs = [_path(value) for value in _WORKDIR.value if value]
    workdir = _named("".join(_WORKDIR.value[:1]), "workdir", "the run's folder")
    if _MODE.value == "compare":
        from skinjax.modes.compare import compare

        against = [_path(value) for value in _AGAINST.value]
        if not against and len(workdirs) != 2:
            raise UserError(
                "--mode=compare wants --workdir twice, the two runs to compare; or --workdir for "
                "each run of one side and --against for each of the other."
            )
        first, second = (workdirs, against) if against else (workdirs[:1], workdirs[1:])
        written = _path(_OUTPUT.value) if _OUTPUT.value else None
        compare(first, second, _SPLIT.value, _DATASET.value, _TTA.value, written)
        return
    if len(workdirs) > 1 and _MODE.value not in ("evaluate", "predict"):
        raise UserError(f"--workdir is given more than once: --mode={_MODE.value} wants one run.")
    set_up_jax()
    speaks = _join_processes()
    # Each mode is imported when it is asked for: the others' libraries cost seconds.
    if _MODE.value in ("train", "folds"):
        if _CONFIG.value is None:
            raise UserError("--config is missing: name a file, as --config=configs/quickstart.py.")
        try:
            _train(workdir)
        except Interrupted as interruption:
            if speaks:
                print(f"skinjax: {interruption}", file=sys.stderr)
            sys.exit(interruption.exit_status)
    elif _MODE.value == "export":
        from skinjax.modes.export import export

        output = _named(_OUTPUT.value, "output", "the file to write")
        export(workdir, output, _CHECKPOINT.value, _TTA.value)
    elif _MODE.value == "predict":
        from skinjax.modes.predict import predict

        all_read = predict(
            workdirs,
            _INPUT.value,
            _named(_OUTPUT.value, "output", "the folder to write to"),
            checkpoint=_CHECKPOINT.value,
            tta=_TTA.value,
            overlay=_OVERLAY.value,
            probabilities=_PROBABILITIES.value,
            isic=_ISIC.value,
            min_region=_MIN_REGION.value,
            explain=_EXPLAIN.value,
        )
        sys.exit(0 if all_read else 1)
    elif _MODE.value == "report":
        from skinjax.modes.report import report

        report(workdir, _EVALUATION.value, _one_source())
    else:
        from skinjax.modes.evaluate import evaluate

        evaluate(
            workdir,
            split=_SPLIT.value,
            checkpoint=_CHECKPOINT.value,
            tta=_TTA.value,
            dataset=_DATASET.value,
            source=_one_source(),
            others=workdirs[1:],
        )


def _train(workdir: Path) -> None:
    """Trains one run, or one for each fold."""
    if _MODE.value == "train":
        from skinjax.modes.train import train

        train(_CONFIG.value, workdir)
        return
    from skinjax.modes.folds import train_folds

    train_folds(_CONFIG.value, workdir, _TTA.value)


def _one_source() -> str:
    """The data set's place, where one is named."""
    if len(_SOURCE.value) > 1:
        raise UserError("--source is given more than once: take one data set at a time.")
    return "".join(_SOURCE.value)


def _join_processes() -> bool:
    """Joins the other processes of the run, if any; returns whether this is the one that speaks."""
    if not _DISTRIBUTED.value:
        for flag in (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID):
            if flag.value is not None:
                raise UserError(f"--{flag.name} is for several processes: say --distributed too.")
        return True
    from skinjax.modes.processes import join

    return join(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)


def _path(value: str) -> Path:
    """What a flag names; a shell leaves the ~ of --flag=~/folder as it is."""
    return Path(os.path.expanduser(value))


def _named(value: str | None, flag: str, what: str) -> Path:
    """The path of a flag that the mode needs."""
    if not value:
        raise UserError(f"--{flag} is missing: name {what}.")
    return _path(value)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags; ends with a sentence and status 2 where they cannot be."""
    given = [arg.lstrip("-").partition("=") for arg in argv if arg.startswith("-")]
    # A file is named by --config=FILE or --config FILE.
    files = [value for name, equals, value in given if name == "config" and equals]
    files += [arg for before, arg in itertools.pairwise(argv) if before.lstrip("-") == "config"]
    try:
        if files and not Path(files[0].partition(":")[0]).is_file():
            raise UserError(f"--config={files[0]} is missing: name a file, as those in configs/.")
        return flags.FLAGS(argv)
    except UserError as error:
        told: object = error
    except (flags.Error, ValueError) as error:
        told = f"{error}\n--helpshort lists the flags."
    except Exception as error:
        told = traceback.format_exc()  # the file's own code fails
        if isinstance(error, AttributeError) and files:
            # What ml_collections raises for an unknown key, while the flag still has no value.
            keys = [name.removeprefix("config.") for name, _, _ in given if name[:7] == "config."]
            told = _unknown_key(files[0], keys) or told
    print(f"skinjax: {told}", file=sys.stderr)
    sys.exit(2)


def _unknown_key(file: str, keys: list[str]) -> UserError | None:
    """What to tell of the first key that the configuration lacks: the file is read once more.

    None where it lacks none, or does not get so far.
    """
    from skinjax.modes.config import flatten, unknown_key

    path, _, variant = file.partition(":")
    get_config = runpy.run_path(path)["get_config"]
    try:
        config = get_config(variant) if variant else get_config()
    except AttributeError:
        return None  # the file's own: its traceback is told
    unknown = [key for key in keys if key not in flatten(config)]
    return unknown_key(config, unknown[0]) if unknown else None


if __name__ == "__main__":
    use_huge_pages()
    logging.set_verbosity(logging.WARNING)
    app.run(main, flags_parser=_parse_flags)
