"""The command line: flags to a mode, a mode to one function."""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from skinjax.errors import Interrupted, UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration of the training: a file of configs/.", lock_config=True
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.")
_SPLIT = flags.DEFINE_enum("split", "test", ["train", "val", "test"], "evaluate: which split.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "evaluate: 'best', 'last' or a step that was kept."
)
_TTA = flags.DEFINE_bool("tta", False, "evaluate: average over flips (and turns of a square).")


def main(argv: list[str]) -> None:
    """Runs the mode that the flags name; ends the process with its exit status."""
    try:
        if len(argv) > 1:
            raise UserError(f"{argv[1]!r} is not understood: flags begin with --.")
        if not _WORKDIR.value:
            raise UserError("--workdir is missing: name the run's folder.")
        _run(Path(_WORKDIR.value))
    except UserError as error:
        print(f"skinjax: {error}", file=sys.stderr)
        sys.exit(2)


def _run(workdir: Path) -> None:
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

        evaluate(workdir, split=_SPLIT.value, checkpoint=_CHECKPOINT.value, tta=_TTA.value)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    app.run(main)
