"""Why a prediction is what it is: Grad-CAM, the model's own gates, and where views disagree.

Nothing of the models is changed for it: gates are read off where flax captures what modules return,
and Grad-CAM differentiates by a change that is added to a block's output on its way.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from skinjax.data.augment import normalise
from skinjax.models.cbam_resnet import CBAMResNet
from skinjax.models.efficientnet_lite import EfficientNetLiteClassifier, feature_places
from skinjax.models.seunet import EfficientNetUNet, SEUNet
from skinjax.tasks.classification import Classification
from skinjax.tasks.segmentation import Segmentation
from skinjax.tasks.views import predict_views

PyTree = Any
UNet = SEUNet | EfficientNetUNet
Classifier = CBAMResNet | EfficientNetLiteClassifier
# What a captured call returned, by the path of its module; one entry a call.
Captured = dict[tuple[str, ...], tuple[jax.Array, ...]]

_FLIPS: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (1, 2))  # the axes that are turned round


def explain_batch(
    task: Segmentation | Classification,
    variables: PyTree,
    images: jax.Array,
    targets: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Predicts a batch and tells what the prediction rests on; to be jitted, with the task bound.

    Maps have the frame of the model's input, so that `skinjax.data.images.unfit` brings them to a
    picture's own size.

    Args:
        task: the model's.
        variables: of the model.
        images: uint8 [N, H, W, 3].
        targets: of a classification, int [N]: the classes to be explained; unless told, those that
            are predicted.

    Returns:
        float32 arrays by name. Of a classification:

        - 'log_probabilities' [N, K], before any temperature;
        - 'grad_cam' [N, H, W]: the mean of `grad_cam` over the picture's four flips, since the last
          block's features are few, and lie nearer to one corner (a ResNet's to the upper left);
          divided by its maximum and so in [0, 1];
        - 'spatial/stage_1' to 'spatial/stage_4' [N, H, W], where a ResNet has CBAM: the spatial
          gate, in (0, 1), of the stage's last block; of an EfficientNet-Lite 'spatial/features', of
          the one on its last features;
        - 'channel/BLOCK' [N, C] for each of the model's `blocks`, where the model has CBAM or
          squeeze-and-excitation: its channel gate, in (0, 1).

        Of a segmentation:

        - 'probabilities' [N, H, W] of lesion, in [0, 1], of the picture as it is;
        - 'spread' [N, H, W]: the standard deviation of the probability over the picture's flips
          (and a square's turns), in [0, 0.5]: where the model does not agree with itself;
        - 'channel/BLOCK' [N, C], as above.
    """
    normalised = normalise(images)
    if isinstance(task, Classification):
        return _explain_classes(task.model, variables, normalised, targets)
    return _explain_outlines(task.model, variables, normalised)


def grad_cam(
    model: Classifier,
    variables: PyTree,
    images: jax.Array,
    block: str,
    targets: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, Captured]:
    """Grad-CAM of a block's output (Selvaraju 2017, arXiv:1610.02391, equations 1 and 2).

    Each channel weighs what the class's logit would gain from more of it, by the mean over its
    pixels; the map is the weighted sum of the channels, where that is above 0.

    Args:
        model: a classifier.
        variables: of the model.
        images: float32 [N, H, W, 3], normalised.
        block: one of the model's `blocks`.
        targets: int [N], the classes; unless told, those of the largest logits.

    Returns:
        The maps [N, h, w] of the block's height and width, 0 or more; the logits [N, K]; and what
        was captured on the way: the block's output and the layers before the gates.
    """

    def run(change: jax.Array) -> tuple[jax.Array, tuple[jax.Array, Captured]]:
        def add_change(
            call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
        ) -> Any:
            output = call(*args, **kwargs)
            if context.module.name == block and context.method_name == "__call__":
                output = output + change.astype(output.dtype)
            return output

        with nn.intercept_methods(add_change):
            logits, captured = _capture(model, variables, images, block)
        if targets is None:
            chosen = jnp.max(logits, axis=1)
        else:
            chosen = jnp.take_along_axis(logits, targets[:, None], axis=1)
        # No image's logits depend on another image: one gradient serves them all.
        return jnp.sum(chosen), (logits, captured)

    _, (_, shapes) = jax.eval_shape(run, jnp.float32(0))
    path = next(path for path in shapes if path[-2] == block)
    output = shapes[path][0]
    no_change = jnp.zeros(output.shape, jnp.promote_types(output.dtype, jnp.float32))
    gradient, (logits, captured) = jax.grad(run, has_aux=True)(no_change)
    weights = jnp.mean(gradient, axis=(1, 2), keepdims=True)
    features = captured[path][0].astype(weights.dtype)
    return nn.relu(jnp.sum(features * weights, axis=3)), logits, captured


def _explain_classes(
    model: Classifier, variables: PyTree, images: jax.Array, targets: jax.Array | None
) -> dict[str, jax.Array]:
    size = images.shape[1:3]
    last, gates = _gates(model)
    logits, captured = _capture(model, variables, images)
    if targets is None:
        targets = jnp.argmax(logits, axis=1)
    # One batch of all views: compiled once, and for the class of the picture as it is.
    views = jnp.concatenate([jnp.flip(images, axes) for axes in _FLIPS])
    maps, _, _ = grad_cam(model, variables, views, last, jnp.tile(targets, len(_FLIPS)))
    framed = jnp.split(_to_frame(model, maps, size), len(_FLIPS))
    total = sum(jnp.flip(view, axes) for view, axes in zip(framed, _FLIPS, strict=True))
    peaks = jnp.max(total, axis=(1, 2), keepdims=True)
    explained = {
        "log_probabilities": jax.nn.log_softmax(logits),
        "grad_cam": total / jnp.where(peaks > 0, peaks, 1),
    }
    for name, path in gates.items():
        if before_gate := captured.get((*path, "cbam", "spatial_norm", "__call__")):
            gate = nn.sigmoid(before_gate[0])[..., 0]
            explained[f"spatial/{name}"] = _to_frame(model, gate, size)
    return explained | _channel_gates(captured)


def _gates(model: Classifier) -> tuple[str, dict[str, tuple[str, ...]]]:
    """The block that Grad-CAM looks at, and by what name which module's spatial gate is shown."""
    if isinstance(model, EfficientNetLiteClassifier):
        (*_, last) = (name for name in model.blocks if name.startswith("stage_"))
        return last, {"features": ()}
    ends: dict[str, tuple[str, ...]] = {}
    for name in model.blocks:
        ends[name.split("_block_")[0]] = (name,)  # in the end the last of each stage
    return model.blocks[-1], ends


def _explain_outlines(model: UNet, variables: PyTree, images: jax.Array) -> dict[str, jax.Array]:
    def probabilities(view: jax.Array) -> jax.Array:
        logits = model.apply(variables, view, train=False)
        assert isinstance(logits, jax.Array)
        return nn.sigmoid(logits[..., 0])

    _, captured = _capture(model, variables, images)
    views = predict_views(probabilities, images, spatial=True)
    explained = {"probabilities": views[0], "spread": jnp.std(views, axis=0)}
    return explained | _channel_gates(captured)


def _capture(
    model: UNet | Classifier, variables: PyTree, images: jax.Array, block: str = ""
) -> tuple[jax.Array, Captured]:
    """The logits, and what the named block and the layers before the gates returned."""
    wanted = ("mlp", "spatial_norm", block)
    logits, updated = model.apply(
        variables,
        images,
        train=False,
        capture_intermediates=lambda module, name: module.name in wanted and name == "__call__",
        mutable=["intermediates"],
    )
    return logits, flatten_dict(updated.get("intermediates", {}))


def _channel_gates(captured: Captured) -> dict[str, jax.Array]:
    """The channel gates by 'channel/BLOCK'; CBAM adds what its layers return for mean and peak."""
    return {
        f"channel/{path[0].removesuffix('_se').removesuffix('_scse')}": nn.sigmoid(sum(outputs))[
            :, 0, 0
        ]
        for path, outputs in captured.items()
        if path[-2] == "mlp"
    }


def _to_frame(model: Classifier, maps: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Maps [N, h, w] of a classifier's features as maps [N, H, W] over its input.

    Each feature stands for the pixel that it lies about; between them it is linear, and beyond the
    last the last holds. To spread the features evenly over the frame, as is often done, would shift
    the map by almost half a feature: by 16 pixels of 128.
    """
    rows, columns = (
        jnp.asarray(_hats(side, _places(model, side, count)), maps.dtype)
        for side, count in zip(size, maps.shape[1:], strict=True)
    )
    return jnp.einsum("yh,nhw,xw->nyx", rows, maps, columns, precision="highest")


def _places(model: Classifier, side: int, count: int) -> np.ndarray:
    """The pixels along a side that `count` features lie about.

    In a ResNet, with the same border on either side, a convolution or pooling of stride 2 has its
    i-th output about its 2i-th input pixel.
    """
    if isinstance(model, EfficientNetLiteClassifier):
        return feature_places(side)
    stride = next(2**i for i in range(side + 1) if -(-side // 2**i) == count)
    return stride * np.arange(count)


def _hats(side: int, places: np.ndarray) -> np.ndarray:
    """Weights [side, count] of linear interpolation at each pixel between the features' places."""
    pixels = np.arange(side)
    return np.stack([np.interp(pixels, places, one) for one in np.eye(len(places))], axis=1)
