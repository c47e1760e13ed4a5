"""What a joint training leaves: two runs that predict what the joint net predicts."""

import jax
import numpy as np
import pytest

from skinjax.data import splits as splitting
from skinjax.data.augment import normalise
from skinjax.engine.checkpoint import Checkpoints
from skinjax.modes import build, datasets
from skinjax.modes.config import joint_config
from skinjax.modes.inference import Ensemble
from skinjax.modes.joint_runs import write_parts
from skinjax.modes.workdir import read_config, write_classes, write_config

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_parts_predict_what_the_joint_net_predicts(cache_dir, tmp_path, monkeypatch, ema_decay):
    config = joint_config()
    config.image_size = (32, 64)
    config.batch_size = 8
    config.dtype = "float32"
    config.model.base_features = config.model.reduction = 4
    config.data.dataset = "phantom"
    config.data.num_images = 64
    config.data.size = 48
    config.data.cache_dir = str(cache_dir)
    config.ema_decay = ema_decay
    prepared = datasets.prepare_data(config)
    splits = datasets.split_data(config, prepared)
    splitting.write_splits(tmp_path / "splits.csv", prepared.table, splits)
    write_classes(tmp_path / "classes.json", prepared.classes)
    write_config(tmp_path / "config.json", config)
    (tmp_path / "metrics.jsonl").write_text("")
    training = build.create_training(config, prepared, splits["train"])
    state = jax.jit(training.create_state)()
    # What is evaluated is the average: it must be the one that the parts hold.
    shrink = jax.jit(lambda params: jax.tree.map(lambda leaf: leaf * 0.9, params))
    state = state.replace(params=shrink(state.params))
    with Checkpoints(tmp_path / "checkpoints", 1, config.best_metric) as checkpoints:
        checkpoints.save(3, state, {}, {config.best_metric: 0.5})
        checkpoints.wait()

    write_parts(config, tmp_path)
    # As one that was killed before the first part was whole.
    (tmp_path / "segmentation" / "config.json").unlink()
    next((tmp_path / "segmentation" / "checkpoints" / "3").glob("state/*")).unlink()
    write_parts(config, tmp_path)
    # Those that are there stay until the next are whole.
    save = Checkpoints.save
    there = []

    def saving(self, *arguments):
        there.extend((tmp_path / "segmentation" / "checkpoints" / "3").glob("state"))
        save(self, *arguments)

    monkeypatch.setattr(Checkpoints, "save", saving)
    write_parts(config, tmp_path)
    assert len(there) == 2
    assert not (tmp_path / "segmentation" / "checkpoints.new").exists()

    images = np.random.default_rng(0).integers(0, 256, (8, 32, 64, 3), np.uint8)
    model = training.task.model
    predict = jax.jit(lambda variables, x: model.apply(variables, normalise(x), train=False))
    outlines, diagnoses = predict(state.variables, images)
    for part, expected in (
        ("segmentation", jax.nn.sigmoid(outlines[..., 0])),
        ("classification", jax.nn.log_softmax(diagnoses)[:, None]),
    ):
        ensemble = Ensemble([tmp_path / part])
        found = ensemble.predict(ensemble.put({"images": images})["images"])
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert ensemble.members[0].step == 3 and ensemble.members[0].is_best
        assert read_config(tmp_path / part).task == part
