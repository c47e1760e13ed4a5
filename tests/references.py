"""What tests compare with: the same figures, computed the plain way."""

import numpy as np

from skinjax.tasks.metrics import interval, resample_lesions


def bootstrap_over_lesions(statistic, lesion_ids, num_resamples=1000, seed=0):
    """The 95% percentile interval of a function of the drawn images' indices, draw by draw.

    The indices are ascending, and repeated as often as drawn.
    """
    values = np.array(
        [
            statistic(np.repeat(np.arange(len(row)), row))
            for weights in resample_lesions(lesion_ids, num_resamples, seed)
            for row in weights
        ],
        np.float64,
    )
    low, high = interval(values)
    return float(low), float(high)
