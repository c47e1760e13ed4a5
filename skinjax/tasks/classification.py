"""Diagnosis: one of several classes an image, learnt by cross-entropy or focal loss."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from skinjax.data.augment import Augmentation, augment, normalise
from skinjax.data.mixing import mix
from skinjax.models.cbam_resnet import CBAMResNet
from skinjax.models.efficientnet_lite import ENCODERS, EfficientNetLiteClassifier
from skinjax.tasks.class_sums import class_sums, divide_class_sums
from skinjax.tasks.losses import adjust_logits, cross_entropy, focal_loss, weigh_targets
from skinjax.tasks.views import average_views

PyTree = Any
Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Classification:
    """What telling diagnoses apart is to the engine.

    Attributes:
        model: logits of a picture.
        image_size: height and width of the model's input.
        augmentation: of the training images, on the device.
        class_shares: the share of each class among the images that are drawn in training; empty
            where nothing is trained.
        label_smoothing: share of each target that is spread over all classes.
        focal_gamma: of the focal loss; 0 is cross-entropy.
        class_weights: power of a class's rarity that its loss is multiplied by: 0 none, 0.5 square
            root, 1 balanced.
        logit_adjustment: the tau of Menon et al. 2021; 0 is off.
        mixup_alpha: of mixup's Beta distribution; 0 is off.
        cutmix_alpha: of CutMix's; 0 is off.
    """

    model: CBAMResNet | EfficientNetLiteClassifier
    image_size: tuple[int, int]
    augmentation: Augmentation
    class_shares: tuple[float, ...] = ()
    label_smoothing: float = 0.0
    focal_gamma: float = 0.0
    class_weights: float = 0.0
    logit_adjustment: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    uses_masks = False
    headline = ("val/balanced_accuracy", "val/accuracy", "val/loss")

    def init(self, key: jax.Array) -> PyTree:
        """Creates the model's variables, float32."""
        return self.model.init(key, jnp.zeros((1, *self.image_size, 3), jnp.float32), train=False)

    @property
    def downsampling(self) -> int:
        """How many rows of a picture are one row where the model is at its coarsest."""
        return self.model.downsampling

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """Changes each picture at random, normalises, and mixes pictures and their targets.

        Args:
            batch: images uint8 [N, H, W, 3], labels int32 [N], boxes int32 [N, 4].
            key: of the changes and the mixing.

        Returns:
            images float32 [N, H, W, 3] and targets float32 [N, K], each row of sum 1.
        """
        augment_key, mix_key = jax.random.split(key)
        images, _, _ = augment(
            augment_key, batch["images"], None, batch["boxes"], self.augmentation
        )
        targets = jax.nn.one_hot(batch["labels"], self.model.num_classes, dtype=jnp.float32)
        images, targets = mix(mix_key, images, targets, self.mixup_alpha, self.cutmix_alpha)
        return {"images": images, "targets": targets}

    def loss(
        self, params: PyTree, batch_stats: PyTree, batch: Batch
    ) -> tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]:
        """The mean loss of an augmented batch.

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
        loss, figures = self.loss_of_logits(logits, batch["targets"])
        return loss, (updated["batch_stats"], figures)

    def loss_of_logits(
        self, logits: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The mean loss of logits and targets, float32 [N, K] each, and the figures to log."""
        correct = jnp.argmax(logits, axis=1) == jnp.argmax(targets, axis=1)
        shares = jnp.array(self.class_shares, jnp.float32)
        if self.logit_adjustment:
            logits = adjust_logits(logits, shares, self.logit_adjustment)
        factors = jnp.ones(len(targets))
        if self.class_weights:
            weights = shares**-self.class_weights
            weights = weights / jnp.sum(shares * weights)  # a mean of 1 over what is drawn
            targets, factors = weigh_targets(targets, weights)
        if self.focal_gamma:
            losses = focal_loss(logits, targets, self.focal_gamma)
        else:
            losses = cross_entropy(logits, targets, self.label_smoothing)
        loss = jnp.mean(factors * losses)
        accuracy = jnp.mean(correct.astype(jnp.float32))
        return loss, {"loss": loss, "accuracy": accuracy}

    def evaluate(self, variables: PyTree, batch: Batch) -> dict[str, jax.Array]:
        """Sums over the valid examples (`class_sums`)."""
        logits = self._logits(variables, normalise(batch["images"]))
        return class_sums(logits, batch["labels"], batch["valid"])

    def summarise(self, sums: dict[str, float]) -> dict[str, float]:
        """The figures of a split from the sums of `evaluate` over all its batches."""
        return divide_class_sums(sums)

    def predict(self, variables: PyTree, images: jax.Array, tta: str = "") -> jax.Array:
        """The logarithm of each class's probability, before any temperature.

        Args:
            variables: of the model.
            images: uint8 [N, H, W, 3].
            tta: what probabilities are averaged over: '', 'flips' or 'zooms' (`tasks.views`).

        Returns:
            float32 [N, K].
        """
        images = normalise(images)
        if not tta:
            return jax.nn.log_softmax(self._logits(variables, images))

        def probabilities(view: jax.Array) -> jax.Array:
            return jax.nn.softmax(self._logits(variables, view))

        averaged = average_views(probabilities, images, tta=tta)
        # A probability that float32 takes for 0 would have no logarithm, and val no temperature.
        return jnp.log(jnp.maximum(averaged, jnp.finfo(jnp.float32).tiny))

    def _logits(self, variables: PyTree, images: jax.Array) -> jax.Array:
        logits = self.model.apply(variables, images, train=False)
        assert isinstance(logits, jax.Array)  # and no updated collections beside it
        return logits


def create_classification(
    classes: tuple[str, ...],
    *,
    depth: int,
    attention: str,
    stem: str,
    reduction: int,
    dtype: jax.typing.DTypeLike,
    remat: bool = False,
    encoder: str = "resnet",
    **settings: Any,
) -> Classification:
    """Creates the task with its model; `settings` are the other attributes of `Classification`."""
    shared: dict[str, Any] = dict(
        num_classes=len(classes),
        attention=attention,
        reduction=reduction,
        dtype=dtype,
        remat=remat,
    )
    model: CBAMResNet | EfficientNetLiteClassifier
    if encoder == "resnet":
        model = CBAMResNet(depth=depth, stem=stem, **shared)
    else:
        model = EfficientNetLiteClassifier(variant=ENCODERS.index(encoder), **shared)
    return Classification(model=model, **settings)
