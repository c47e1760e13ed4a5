"""The command line: flags to a mode, a mode to one function."""

import errno
import runpy
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from skinjax.errors import Interrupted, UserError
from skinjax.process import set_up_jax, use_huge_pages

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration of the training: a file of configs/.", lock_config=True
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "audit"], "What to do.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.")
_SPLIT = flags.DEFINE_enum(
    "split",
    None,
    ["train", "val", "test", "all"],
    "evaluate: which split; unless told, 'test' of the run's data and 'all' of another --dataset.",
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "evaluate: 'best', 'last' or a step that was kept."
)
_TTA = flags.DEFINE_bool("tta", False, "evaluate: average over flips (and turns of a square).")
_DATASET = flags.DEFINE_string(
    "dataset", "", "evaluate: a data set that the run was not trained on; audit: what --source is."
)
_SOURCE = flags.DEFINE_multi_string(
    "source",
    [],
    "audit: folder or zip of a data set, given once or more; evaluate: that of --dataset, or where "
    "the run's own data lies now.",
)
_OUTPUT = flags.DEFINE_string("output", None, "audit: the folder to write to.")


def main(argv: list[str]) -> None:
    """Runs the mode that the flags name; ends the process with its exit status."""
    try:
        if len(argv) > 1:
            raise UserError(f"{argv[1]!r} is not understood: flags begin with --.")
        _run()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"skinjax: the disk is full ({error.filename or 'no file named'}): make room and start "
            "the same command again.",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        print("skinjax: stopped; nothing was half-written.", file=sys.stderr)
        sys.exit(130)
    except UserError as error:
        print(f"skinjax: {error}", file=sys.stderr)
        sys.exit(2)


def _run() -> None:
    if _MODE.value == "audit":
        from skinjax.modes.audit import audit

        output = _named(_OUTPUT.value, "output", "the folder to write to")
        sys.exit(0 if audit(_SOURCE.value, output, _DATASET.value) else 1)
    workdir = _named(_WORKDIR.value, "workdir", "the run's folder")
    set_up_jax()
    # Each mode is imported when it is asked for: the others' libraries cost seconds.
    if _MODE.value == "train":
        if _CONFIG.value is None:
            raise UserError("--config is missing: name a file, as --config=configs/quickstart.py.")
        from skinjax.modes.train import train

        try:
            train(_CONFIG.value, workdir)
        except Interrupted as interruption:
            print(f"skinjax: {interruption}", file=sys.stderr)
            sys.exit(interruption.exit_status)
    else:
        from skinjax.modes.evaluate import evaluate

        if len(_SOURCE.value) > 1:
            raise UserError("--source is given more than once: evaluate one data set at a time.")
        evaluate(
            workdir,
            split=_SPLIT.value,
            checkpoint=_CHECKPOINT.value,
            tta=_TTA.value,
            dataset=_DATASET.value,
            source="".join(_SOURCE.value),
        )


def _named(value: str | None, flag: str, what: str) -> Path:
    """The path of a flag that the mode needs."""
    if not value:
        raise UserError(f"--{flag} is missing: name {what}.")
    return Path(value)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags; a configuration key that does not exist is met with the nearest one."""
    try:
        return app.parse_flags_with_usage(argv)
    except AttributeError:
        # What ml_collections raises for such a key, while the flag still has no value: the file is
        # read once more by itself.
        from skinjax.modes.config import flatten, unknown_key

        given = [arg.split("=")[0] for arg in argv if arg.startswith("--config.")]
        file = next(arg for arg in argv if arg.startswith("--config=")).removeprefix("--config=")
        path, _, variant = file.partition(":")
        get_config = runpy.run_path(path)["get_config"]
        config = get_config(variant) if variant else get_config()
        unknown = [
            k for k in (g.removeprefix("--config.") for g in given) if k not in flatten(config)
        ]
        if not unknown:
            raise
        print(f"skinjax: {unknown_key(config, unknown[0])}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    use_huge_pages()
    logging.set_verbosity(logging.WARNING)
    app.run(main, flags_parser=_parse_flags)
