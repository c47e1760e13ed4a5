"""What a report is made from: a run, one of its evaluations, and its pictures where they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from skinjax.data.combined import Combined
from skinjax.data.images import decode_image, decode_mask
from skinjax.data.records import Prepared
from skinjax.errors import UserError
from skinjax.modes import datasets
from skinjax.modes.config import flatten
from skinjax.modes.evaluations import Evaluation
from skinjax.report.page import NO_VALUE
from skinjax.tasks.subgroups import Estimate, Figure

# Where they lay is told on the terminal alone: a page may be passed on.
LEFT_OUT = "The pictures are left out: the data could not be read when this page was made."


class Reported:
    """A run and the evaluation that is reported.

    Args:
        workdir: the run's folder.
        config: its configuration.
        evaluation: that is reported.
        source: where the data lie now; empty for where they lay.

    Attributes:
        workdir: the run's folder.
        config: its configuration.
        settings: the same by dotted keys.
        evaluation: that is reported.
        lesion_ids: of the evaluation's images.
        prepared: the data that it was made on; None where they are gone.
        gone: why they are, for the user; empty where they are not.
    """

    def __init__(self, workdir: Path, config: ConfigDict, evaluation: Evaluation, source: str):
        self.workdir, self.config, self.evaluation = workdir, config, evaluation
        self.settings = flatten(config)
        self.lesion_ids = evaluation.column("lesion_id")
        self.prepared: Prepared | Combined | None = None
        self.gone = ""
        figures = evaluation.figures
        source = source or figures["source"]
        try:
            if figures["is_own_data"]:
                config.data.source = source or config.data.source
                own = config.copy_and_resolve_references()
                if figures["split"] in ("val", "test"):  # which lie in the first set alone
                    own.data.also = ()
                self.prepared = datasets.prepare_data(own)
            else:
                self.prepared = datasets.prepare_set(config, figures["dataset"], source)
        except UserError as error:
            # The page says so, and shows all that needs no pictures.
            self.gone = str(error)
        table = self.prepared.table if self.prepared else []
        self._positions = {row.image_id: position for position, row in enumerate(table)}

    def picture(self, image_id: str) -> tuple[np.ndarray, np.ndarray | None]:
        """A picture, uint8 [H, W, 3], and its true mask, bool [h, w], where it has one.

        Raises:
            UserError: where the data no longer have it.
        """
        if self.prepared is None or image_id not in self._positions:
            raise UserError(
                f"{image_id} of {self.evaluation.folder} is not in the data set: name with "
                "--source where the data that it was made on lie now, or evaluate again."
            )
        image_bytes, mask_bytes = self.prepared.read(self._positions[image_id])
        mask = None if mask_bytes is None else decode_mask(mask_bytes, image_id).astype(bool)
        return decode_image(image_bytes, image_id), mask


def estimate_text(estimate: Figure, digits: int = 3) -> str:
    """A figure with its interval, as a cell of a table."""
    if estimate is None:
        return NO_VALUE
    if isinstance(estimate, int):
        return f"{estimate:,}"
    if abs(estimate.value) >= 2:  # pixels, not shares
        digits = 1
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{digits}f}"
    low, high = f"{estimate.low:.{digits}f}", f"{estimate.high:.{digits}f}"
    # On a telephone the interval may stand below the figure; it is never torn itself.
    return f"{estimate.value:.{digits}f} ({low}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{high})"


def temperature_text(figures: Mapping[str, Any]) -> str:
    """The temperature, or those of the models whose probabilities are averaged."""
    return ", ".join(f"{value:.2f}" for value in np.atleast_1d(figures["temperature"]))


def known(figures: Mapping[str, Any], name: str) -> Estimate | None:
    """A figure of metrics.json with its interval, where it has one; None where undefined."""
    value = figures.get(name)
    if value is None:
        return None
    return Estimate(value, figures.get(f"{name}_low"), figures.get(f"{name}_high"))
