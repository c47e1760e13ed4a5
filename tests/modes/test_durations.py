"""Epochs as steps: where a training is evaluated, and that its end is not told twice."""

from hypothesis import example, given
from hypothesis import strategies as st

from skinjax.modes.build import create_durations
from skinjax.modes.config import segmentation_config


@given(
    num_examples=st.integers(1, 5000),
    batch_size=st.integers(1, 64),
    eval_every_epochs=st.sampled_from((0.25, 0.5, 1.0, 1.75, 3.0)),
    num_evaluations=st.integers(1, 12),
)
@example(num_examples=5115, batch_size=16, eval_every_epochs=1.75, num_evaluations=4)
def test_evaluations_come_at_the_ends_of_epochs_and_the_last_at_the_end(
    num_examples, batch_size, eval_every_epochs, num_evaluations
):
    config = segmentation_config()
    config.batch_size = batch_size
    config.eval_every_epochs = eval_every_epochs
    config.num_epochs = eval_every_epochs * num_evaluations
    durations = create_durations(config, num_examples)
    steps = [k for k in range(1, durations.total_steps + 1) if durations.is_evaluated(k)]
    every = eval_every_epochs * num_examples / batch_size
    if every < 1:  # they are no closer than steps are
        assert steps == list(range(1, durations.total_steps + 1))
        return
    assert steps[-1] == durations.total_steps
    assert len(steps) == num_evaluations
    assert all(abs(step - k * every) <= 0.5 for k, step in enumerate(steps, 1))
