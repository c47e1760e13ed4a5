"""The configuration: what is refused, and by which name."""

import pytest

from skinjax.errors import UserError
from skinjax.modes.config import (
    check_config,
    classification_config,
    flatten,
    joint_config,
    segmentation_config,
    unknown_key,
)
from skinjax.modes.workdir import check_resume, read_config, write_config


@pytest.mark.parametrize("make", [segmentation_config, classification_config, joint_config])
def test_the_defaults_pass_and_come_back_from_json(make, tmp_path):
    config = make()
    check_config(config)
    write_config(tmp_path / "config.json", config)
    assert flatten(read_config(tmp_path)) == flatten(config)
    check_resume(tmp_path, config)


@pytest.mark.parametrize(
    ("make", "key", "value"),
    [
        (segmentation_config, "task", "detection"),
        (segmentation_config, "fit", "crop"),
        (joint_config, "model.encoder", "resnet"),
        (joint_config, "model.class_attention", "scse"),
        (joint_config, "loss.label_smoothing", 1.0),
        (joint_config, "image_size", (100, 128)),
        (segmentation_config, "image_size", (8, 8)),
        (segmentation_config, "image_size", (64,)),
        (segmentation_config, "batch_size", 0),
        (segmentation_config, "num_epochs", -1.0),
        (segmentation_config, "mesh.space", 0),
        (segmentation_config, "mesh.data", -2),
        (segmentation_config, "model.attention", "cbam"),
        (segmentation_config, "data.split", "patient"),
        (segmentation_config, "data.sampling", 2.0),
        (segmentation_config, "optimizer.momentum", 1.0),
        (segmentation_config, "schedule.factor", 1.5),
        (segmentation_config, "schedule.warmup_epochs", -1.0),
        (segmentation_config, "optimizer.clip_norm", -1.0),
        (segmentation_config, "optimizer.weight_decay", -1e-4),
        (segmentation_config, "augmentation.brightness", 1.5),
        (segmentation_config, "augmentation.scale", -0.1),
        (segmentation_config, "seed", -1),
        (segmentation_config, "augmentation.quarter_turns", True),
        (classification_config, "model.depth", 20),
        (classification_config, "model.attention", "scse"),
        (classification_config, "loss.label_smoothing", 1.0),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_key(make, key, value):
    config = make()
    *path, name = key.split(".")
    group = config
    for part in path:
        group = group[part]
    with group.ignore_type():
        group[name] = value
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        check_config(config)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("optimizer.learning_rat", "optimizer.learning_rate"),
        ("momentum", "optimizer.momentum"),
        ("batchsize", "batch_size"),
    ],
)
def test_an_unknown_key_is_met_with_the_nearest(key, nearest):
    assert f"--config.{nearest}?" in str(unknown_key(segmentation_config(), key))


def test_a_field_that_an_earlier_version_lacked_has_its_default(tmp_path):
    config = classification_config()
    config.batch_size = 5
    old = config.copy_and_resolve_references()
    del old.remat
    del old.data.cache
    write_config(tmp_path / "config.json", old)
    assert flatten(read_config(tmp_path)) == flatten(config)
    check_resume(tmp_path, config)
    config.remat = True  # for less memory, in the middle of a run
    check_resume(tmp_path, config)


def test_a_damaged_configuration_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"task": ')
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"task": "detection"}')
    with pytest.raises(UserError, match=r"config\.task='detection'"):
        read_config(tmp_path)
