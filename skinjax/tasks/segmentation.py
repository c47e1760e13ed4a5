"""Lesion segmentation: one logit a pixel, learnt by cross-entropy and Dice."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from skinjax.data.augment import Augmentation, augment, content_mask, normalise
from skinjax.models.efficientnet_lite import ENCODERS
from skinjax.models.seunet import EfficientNetUNet, SEUNet
from skinjax.tasks.losses import binary_cross_entropy, dice_loss
from skinjax.tasks.metrics import divide_sums, mask_sums
from skinjax.tasks.views import average_views

PyTree = Any
Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """What the segmentation of lesions is to the engine.

    Attributes:
        model: logits of a picture.
        image_size: height and width of the model's input.
        augmentation: of the training images, on the device.
        bce_weight: of the binary cross-entropy in the loss.
        dice_weight: of the soft Dice loss.
    """

    model: SEUNet | EfficientNetUNet
    image_size: tuple[int, int]
    augmentation: Augmentation
    bce_weight: float = 1.0
    dice_weight: float = 1.0

    uses_masks = True
    headline = ("val/jaccard", "val/dice", "val/accuracy")

    def init(self, key: jax.Array) -> PyTree:
        """Creates the model's variables, float32."""
        return self.model.init(key, jnp.zeros((1, *self.image_size, 3), jnp.float32), train=False)

    @property
    def downsampling(self) -> int:
        """How many rows of a picture are one row where the model is at its coarsest."""
        return self.model.downsampling

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """Changes each picture at random, its mask with it, and normalises (`data.augment`).

        Args:
            batch: images uint8 [N, H, W, 3], masks uint8 [N, H, W, 1] of {0, 1}, boxes int32 [N,
                4].
            key: of the changes.

        Returns:
            images float32 [N, H, W, 3], masks and inside (the pixels that count) float32
            [N, H, W, 1] of {0, 1}.
        """
        images, masks, inside = augment(
            key, batch["images"], batch["masks"], batch["boxes"], self.augmentation
        )
        return {"images": images, "masks": masks, "inside": inside}

    def loss(
        self, params: PyTree, batch_stats: PyTree, batch: Batch
    ) -> tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]:
        """The mean loss of an augmented batch, pixels outside the picture left out.

        Args:
            params: of the model.
            batch_stats: BatchNorm's running statistics.
            batch: what `augment` gives.

        Returns:
            The float32 loss; beside it the new running statistics and the figures to log.
        """
        logits, updated = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch["images"],
            train=True,
            mutable=["batch_stats"],
        )
        loss, figures = self.loss_of_logits(logits, batch)
        return loss, (updated["batch_stats"], figures)

    def loss_of_logits(
        self, logits: jax.Array, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The mean loss of logits float32 [N, H, W, 1] of an augmented batch, and the figures."""
        masks, inside = batch["masks"], batch["inside"]
        bce = jnp.mean(binary_cross_entropy(logits, masks, inside))
        dice = jnp.mean(dice_loss(logits, masks, inside))
        loss = self.bce_weight * bce + self.dice_weight * dice
        return loss, {"loss": loss, "bce": bce, "dice_loss": dice}

    def evaluate(self, variables: PyTree, batch: Batch) -> dict[str, jax.Array]:
        """Sums over the valid examples of the scores at the model's size (`mask_sums`)."""
        return self.sums_of_logits(self._logits(variables, normalise(batch["images"])), batch)

    def sums_of_logits(self, logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """The same of logits float32 [N, H, W, 1] of the batch."""
        inside = content_mask(batch["boxes"], *self.image_size)
        masks = batch["masks"].astype(jnp.float32)
        return mask_sums(logits, masks, inside, batch["valid"])

    def summarise(self, sums: dict[str, float]) -> dict[str, float]:
        """The figures of a split from the sums of `evaluate` over all its batches."""
        return divide_sums(sums)

    def predict(self, variables: PyTree, images: jax.Array, tta: str = "") -> jax.Array:
        """The probability of lesion at each pixel.

        Args:
            variables: of the model.
            images: uint8 [N, H, W, 3].
            tta: what probabilities are averaged over: '', 'flips' or 'zooms' (`tasks.views`).

        Returns:
            float32 [N, H, W] in [0, 1].
        """

        def probabilities(view: jax.Array) -> jax.Array:
            return jax.nn.sigmoid(self._logits(variables, view)[..., 0])

        images = normalise(images)
        if not tta:
            return probabilities(images)
        return average_views(probabilities, images, spatial=True, tta=tta)

    def _logits(self, variables: PyTree, images: jax.Array) -> jax.Array:
        logits = self.model.apply(variables, images, train=False)
        assert isinstance(logits, jax.Array)  # and no updated collections beside it
        return logits


def create_segmentation(
    *,
    base_features: int,
    attention: str,
    reduction: int,
    dtype: jax.typing.DTypeLike,
    remat: bool = False,
    encoder: str = "unet",
    **settings: Any,
) -> Segmentation:
    """Creates the task with its model; `settings` are the other attributes of `Segmentation`."""
    shared: dict[str, Any] = dict(
        base_features=base_features,
        attention=attention,
        reduction=reduction,
        dtype=dtype,
        remat=remat,
    )
    model: SEUNet | EfficientNetUNet
    if encoder == "unet":
        model = SEUNet(**shared)
    else:
        model = EfficientNetUNet(variant=ENCODERS.index(encoder), **shared)
    return Segmentation(model=model, **settings)
