"""Dermoscopy models in JAX: lesion outlines and diagnoses, with scores that can be believed."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skinjax.modes.predictor import Predictor

__version__ = "0.1.0"


def load(
    *workdirs: str | Path, checkpoint: str = "best", tta: str = "", min_region: float = 0.0
) -> "Predictor":
    """Opens a trained run to predict pictures with; of several, the probabilities are averaged.

        model = skinjax.load("runs/seunet")
        prediction = model.predict("lesion.jpg")
        prediction.mask  # bool [H, W], of the picture's own size

    Args:
        workdirs: the runs' folders, at least one.
        checkpoint: 'best' by the run's metric on val, 'last', or a step, of each run.
        tta: what predictions are averaged over: '', 'flips' or 'zooms' (`skinjax.tasks.views`).
        min_region: of segmentation: the share of a picture, in [0, 1), that an island of lesion or
            a hole in it must have to stay; 0 leaves masks as they are.

    Returns:
        What predicts: it has `task`, `classes` and `predict(images)`.

    Raises:
        skinjax.errors.UserError: where a run or the checkpoint is not there, or runs do not go
            together.
    """
    from skinjax.errors import UserError
    from skinjax.process import set_up_jax

    if not workdirs:
        raise UserError("load() wants the folder of a run, the --workdir of its training.")
    set_up_jax()
    # Here, because jax and what comes with it take seconds.
    from skinjax.modes.predictor import Predictor

    return Predictor([Path(w).expanduser() for w in workdirs], checkpoint, tta, min_region)
