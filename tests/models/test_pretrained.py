"""Imported weights: the logits against a ResNet written in NumPy, and what is refused."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from skinjax.errors import UserError
from skinjax.models import cbam_resnet
from skinjax.models.cbam_resnet import CBAMResNet
from skinjax.models.pretrained import import_torch, load_torch_state_dict, warm_start

NUM_CLASSES = 5
BLOCKS = {18: (2, 2, 2, 2), 50: (1, 1, 1, 1)}  # a bottleneck net of 14 layers stands for ResNet-50


@pytest.fixture(autouse=True)
def short_resnet_50(monkeypatch):
    monkeypatch.setitem(cbam_resnet.STAGES, 50, BLOCKS[50])


# ---- A ResNet in NumPy, channels first, that reads PyTorch's names -------------------------------


def make_state_dict(depth: int, attention: str, num_classes: int = NUM_CLASSES) -> dict:
    """Random float64 arrays with the names and shapes of torchvision's ResNet, and attention's."""
    rng = np.random.default_rng(depth)
    arrays: dict[str, np.ndarray] = {}

    def weight(name: str, *shape: int) -> None:
        arrays[f"{name}.weight"] = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))

    def norm(name: str, channels: int) -> None:
        arrays[f"{name}.weight"] = rng.uniform(0.5, 1.5, channels)
        arrays[f"{name}.bias"] = rng.normal(size=channels) * 0.3
        arrays[f"{name}.running_mean"] = rng.normal(size=channels) * 0.3
        arrays[f"{name}.running_var"] = rng.uniform(0.5, 1.5, channels)
        arrays[f"{name}.num_batches_tracked"] = np.array(100)

    def linear(name: str, channels_out: int, channels_in: int) -> None:
        weight(name, channels_out, channels_in)
        arrays[f"{name}.bias"] = rng.normal(size=channels_out)

    weight("conv1", 64, 3, 7, 7)
    norm("bn1", 64)
    channels = 64
    for stage, num_blocks in enumerate(BLOCKS[depth]):
        width = 64 << stage
        out = width * (4 if depth == 50 else 1)
        for block in range(num_blocks):
            name = f"layer{stage + 1}.{block}"
            if depth == 50:
                kernels = [(width, channels, 1), (width, width, 3), (out, width, 1)]
            else:
                kernels = [(width, channels, 3), (width, width, 3)]
            for i, (o, c, size) in enumerate(kernels, 1):
                weight(f"{name}.conv{i}", o, c, size, size)
                norm(f"{name}.bn{i}", o)
            if block == 0 and (stage > 0 or out != channels):
                weight(f"{name}.downsample.0", out, channels, 1, 1)
                norm(f"{name}.downsample.1", out)
            if attention == "cbam":
                linear(f"{name}.cbam.ChannelGate.mlp.1", out // 16, out)
                linear(f"{name}.cbam.ChannelGate.mlp.3", out, out // 16)
                weight(f"{name}.cbam.SpatialGate.spatial.conv", 1, 2, 7, 7)
                norm(f"{name}.cbam.SpatialGate.spatial.bn", 1)
            elif attention == "se":
                weight(f"{name}.se.fc1", out // 16, out, 1, 1)
                arrays[f"{name}.se.fc1.bias"] = rng.normal(size=out // 16)
                weight(f"{name}.se.fc2", out, out // 16, 1, 1)
                arrays[f"{name}.se.fc2.bias"] = rng.normal(size=out)
            channels = out
    linear("fc", num_classes, channels)
    return arrays


def windows(x: np.ndarray, size: int, stride: int, fill: float) -> np.ndarray:
    """[N, C, H, W] to [N, C, H', W', size, size], with size // 2 pixels of `fill` around."""
    border = size // 2
    x = np.pad(x, ((0, 0), (0, 0), (border, border), (border, border)), constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
    return view[:, :, ::stride, ::stride]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class Reference:
    """Logits of a ResNet in evaluation, in the state dict's precision."""

    def __init__(self, arrays: dict):
        self.arrays = arrays

    def conv(self, x, name, stride=1):
        weight = self.arrays[f"{name}.weight"]
        taps = windows(x, weight.shape[-1], stride, 0.0)
        return np.einsum("nchwij,ocij->nohw", taps, weight, optimize=True)

    def norm(self, x, name):
        scale, shift, mean, var = (
            self.arrays[f"{name}.{leaf}"][:, None, None]
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * scale + shift

    def linear(self, x, name):
        weight = self.arrays[f"{name}.weight"]
        return x @ weight.reshape(weight.shape[:2]).T + self.arrays[f"{name}.bias"]

    def gate(self, pooled, first, second):
        return self.linear(np.maximum(self.linear(pooled, first), 0), second)

    def attend(self, x, name):
        if f"{name}.se.fc1.weight" in self.arrays:
            gate = self.gate(x.mean((2, 3)), f"{name}.se.fc1", f"{name}.se.fc2")
            return x * sigmoid(gate)[:, :, None, None]
        mlp = (f"{name}.cbam.ChannelGate.mlp.1", f"{name}.cbam.ChannelGate.mlp.3")
        if f"{mlp[0]}.weight" not in self.arrays:
            return x
        gate = self.gate(x.mean((2, 3)), *mlp) + self.gate(x.max((2, 3)), *mlp)
        x = x * sigmoid(gate)[:, :, None, None]
        pooled = np.stack([x.max(1), x.mean(1)], axis=1)
        pooled = self.conv(pooled, f"{name}.cbam.SpatialGate.spatial.conv")
        return x * sigmoid(self.norm(pooled, f"{name}.cbam.SpatialGate.spatial.bn"))

    def block(self, x, name, stride):
        bottleneck = f"{name}.conv3.weight" in self.arrays
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        y = x
        for i, s in enumerate(strides, 1):
            y = self.norm(self.conv(y, f"{name}.conv{i}", s), f"{name}.bn{i}")
            if i < len(strides):
                y = np.maximum(y, 0)
        y = self.attend(y, name)
        if f"{name}.downsample.0.weight" in self.arrays:
            x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return np.maximum(y + x, 0)

    def logits(self, images, blocks):
        x = self.norm(self.conv(images.transpose(0, 3, 1, 2), "conv1", 2), "bn1")
        x = windows(np.maximum(x, 0), 3, 2, -np.inf).max((4, 5))
        for stage, num_blocks in enumerate(blocks):
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = self.block(x, f"layer{stage + 1}.{block}", stride)
        return self.linear(x.mean((2, 3)), "fc")


def new_variables(model: CBAMResNet, fill: float = 0.25) -> dict:
    """The model's variables, each entry `fill`."""
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(
        lambda key, x: model.init(key, x, train=False), jax.random.key(0), images
    )
    return jax.tree.map(lambda leaf: np.full(leaf.shape, fill, leaf.dtype), shapes)


@pytest.mark.parametrize(
    ("depth", "attention", "prefix"),
    [(18, "cbam", "module."), (18, "none", ""), (50, "cbam", ""), (50, "se", "")],
)
def test_imported_weights_give_the_references_logits(depth, attention, prefix):
    state_dict = make_state_dict(depth, attention)
    # Odd sides: where padding or pooling were off by one, the logits would show it.
    images = np.random.default_rng(0).normal(size=(2, 35, 49, 3))
    expected = Reference(state_dict).logits(images, BLOCKS[depth])
    assert 0.1 < np.abs(expected).max() < 100
    named = {prefix + name: array for name, array in state_dict.items()}

    for dtype, tolerance in ((jnp.float64, 1e-9), (jnp.float32, 1e-4)):
        with jax.enable_x64(dtype == jnp.float64):
            model = CBAMResNet(NUM_CLASSES, depth=depth, attention=attention, dtype=dtype)
            variables, report = import_torch(new_variables(model), named, "test")
            assert not report.kept and len(report.loaded) == len(jax.tree.leaves(variables))
            logits = jax.jit(lambda v, x, model=model: model.apply(v, x, train=False))(
                variables, images.astype(dtype)
            )
            assert logits.dtype == dtype
            np.testing.assert_allclose(np.asarray(logits), expected, rtol=0, atol=tolerance)


def test_the_head_is_kept_where_the_classes_differ():
    variables = new_variables(CBAMResNet(7, depth=18))
    loaded, report = import_torch(variables, make_state_dict(18, "cbam"), "w.pth")
    assert set(report.kept) == {"params/head/kernel", "params/head/bias"}
    assert report.notes == ("w.pth has 5 classes and this model 7: the head stays as it was.",)
    assert (loaded["params"]["head"]["kernel"] == 0.25).all()
    assert not (loaded["params"]["stem_conv"]["kernel"] == 0.25).any()
    # What was given is as it was.
    assert all((leaf == 0.25).all() for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize("attention", ["cbam", "se"])
def test_a_plain_resnet_leaves_attention_as_it_was(attention):
    variables = new_variables(CBAMResNet(NUM_CLASSES, depth=18, attention=attention))
    loaded, report = import_torch(variables, make_state_dict(18, "none"), "w.pth")
    assert report.kept and all(f"/{attention}/" in path for path in report.kept)
    assert not any(f"/{attention}/" in path for path in report.loaded)
    assert report.notes == ("w.pth has no attention blocks: the model's stay as they were.",)
    block = loaded["params"]["stage_3_block_1"]
    assert all((leaf == 0.25).all() for leaf in jax.tree.leaves(block[attention]))
    assert not (block["norm_2"]["scale"] == 0.25).any()


def drop(name):
    return lambda arrays: arrays.pop(name)


def put(name, array):
    return lambda arrays: arrays.__setitem__(name, array)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            put("layer9.0.conv1.weight", np.zeros(1)),
            "1 keys without a home .*: layer9.0.conv1.weight",
        ),
        (drop("layer2.0.bn1.running_var"), "lacks 1 arrays .*: layer2.0.bn1.running_var"),
        (drop("fc.bias"), "lacks 1 arrays .*: fc.bias"),
        (
            drop("layer4.1.cbam.ChannelGate.mlp.3.bias"),
            "lacks 1 arrays .*: layer4.1.cbam.ChannelGate.mlp.3.bias",
        ),
        (
            put("layer1.0.conv1.weight", np.zeros((128, 64, 3, 3))),
            r"layer1.0.conv1.weight in w.pth has shape \[128, 64, 3, 3\] where .* \[64, 64, 3, 3\]",
        ),
        (
            put("layer2.0.downsample.0.weight", np.zeros((128, 32, 1, 1))),
            r"downsample.0.weight in w.pth has shape \[128, 32, 1, 1\] where .* \[128, 64, 1, 1\]",
        ),
        (put("bn1.weight", np.ones(())), r"bn1.weight in w.pth has shape \[\] where .* \[64\]"),
        (
            put("fc.weight", np.zeros((7, 2048))),
            r"fc.weight in w.pth has shape \[7, 2048\] where this model has \[5, 512\]",
        ),
        (put("bn1.bias", np.full(64, np.nan)), "bn1.bias in w.pth is not finite"),
        (put("module.conv1.weight", np.zeros((64, 3, 7, 7))), "conv1.weight twice"),
    ],
)
def test_what_does_not_fit_is_refused_whole(change, words):
    state_dict = make_state_dict(18, "cbam")
    change(state_dict)
    variables = new_variables(CBAMResNet(NUM_CLASSES, depth=18))
    with pytest.raises(UserError, match=words):
        import_torch(variables, state_dict, "w.pth")
    assert all((leaf == 0.25).all() for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    ("depth", "attention", "words"),
    [
        (18, "none", "without a home"),  # CBAM's weights, a plain model
        (18, "se", "without a home"),
        (34, "cbam", "lacks"),
        (50, "cbam", "without a home"),  # the short one has no layer1.1
    ],
)
def test_another_architecture_is_refused(depth, attention, words):
    variables = new_variables(CBAMResNet(NUM_CLASSES, depth=depth, attention=attention))
    with pytest.raises(UserError, match=words):
        import_torch(variables, make_state_dict(18, "cbam"), "w.pth")


def test_the_small_stem_refuses_the_large_one():
    variables = new_variables(CBAMResNet(NUM_CLASSES, depth=18, stem="small"))
    with pytest.raises(UserError, match=r"conv1.weight .* \[64, 3, 7, 7\] .* \[64, 3, 3, 3\]"):
        import_torch(variables, make_state_dict(18, "cbam"), "w.pth")


# ---- Files ---------------------------------------------------------------------------------------


def test_safetensors_are_read_as_they_are(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.ones(2, np.float16), "c": np.array(3)}
    save_file(arrays | {"d": np.full(2, 1.5, ml_dtypes.bfloat16)}, tmp_path / "w.safetensors")
    read = load_torch_state_dict(tmp_path / "w.safetensors")
    for name, array in (arrays | {"d": np.full(2, 1.5, np.float32)}).items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_damaged_and_foreign_files_are_told(tmp_path):
    whole = tmp_path / "whole.safetensors"
    save_file({"a": np.ones((50, 50))}, whole)
    for name, content in {
        "short.safetensors": whole.read_bytes()[:-100],
        "header.safetensors": whole.read_bytes()[:20],
        "empty.safetensors": b"",
        "foreign.safetensors": b"\x89PNG\r\n\x1a\n" + bytes(100),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} cannot be read"):
            load_torch_state_dict(tmp_path / name)
    with pytest.raises(UserError, match=r"nothing.safetensors is not a file"):
        load_torch_state_dict(tmp_path / "nothing.safetensors")
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(UserError, match=r"w.h5 is no known kind"):
        load_torch_state_dict(tmp_path / "w.h5")


# ---- Another run's variables ---------------------------------------------------------------------


def test_a_warm_start_takes_the_layers_that_fit_whole():
    target = new_variables(CBAMResNet(7, depth=18, attention="se"), fill=0.0)
    source = new_variables(CBAMResNet(5, depth=18, attention="cbam"), fill=1.0)
    # A BatchNorm whose statistics are of another size is left, scale and shift included.
    source["batch_stats"]["stem_norm"]["mean"] = np.ones(32, np.float32)
    started, loaded, left = warm_start(target, source)
    flat = {
        "/".join(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(started)
    }
    assert set(loaded) | set(left) == set(flat) and not set(loaded) & set(left)
    assert all((flat[path] == 1).all() for path in loaded)
    assert all((flat[path] == 0).all() for path in left)
    assert {path.split("/")[1] for path in left if "/se/" not in path} == {"head", "stem_norm"}
    assert {"params/stem_conv/kernel", "batch_stats/stage_1_block_0/norm_1/var"} <= set(loaded)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(target))


def test_a_warm_start_takes_the_targets_type():
    target = {"params": {"layer": {"kernel": jnp.zeros((2, 3), jnp.float32)}}}
    source = {"params": {"layer": {"kernel": np.ones((2, 3), np.float64)}}}
    started, loaded, left = warm_start(target, source)
    assert started["params"]["layer"]["kernel"].dtype == np.float32
    assert loaded == ["params/layer/kernel"] and left == []


def test_a_warm_start_of_nothing_is_an_error():
    target = {"params": {"layer": {"kernel": np.zeros((2, 3))}}}
    with pytest.raises(UserError, match="No layer of the run that init_from names fits"):
        warm_start(target, {"params": {"layer": {"kernel": np.zeros((3, 2))}}})
