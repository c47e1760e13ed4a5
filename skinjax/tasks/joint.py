"""Outline and diagnosis learnt together, by one trunk: the two other tasks, composed."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from skinjax.data.augment import normalise
from skinjax.models.efficientnet_lite import EfficientNetLiteClassifier
from skinjax.models.joint import JointNet
from skinjax.models.seunet import EfficientNetUNet
from skinjax.tasks.class_sums import class_sums
from skinjax.tasks.classification import Classification
from skinjax.tasks.segmentation import Segmentation

PyTree = Any
Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Joint:
    """What learning both at once is to the engine.

    What it has learnt is used as two runs, one of each task (`divide_variables`).

    Attributes:
        outlines: the one task, whose augmentation both share.
        diagnoses: the other, without mixing: a mixed picture has no outline.
        diagnosis_weight: of the diagnosis's loss beside the outline's.
    """

    outlines: Segmentation
    diagnoses: Classification
    diagnosis_weight: float = 1.0

    uses_masks = True
    headline = ("val/jaccard", "val/balanced_accuracy", "val/diagnosis_loss")

    @property
    def model(self) -> JointNet:
        """The model of both; their encoders are one EfficientNet-Lite."""
        unet, classifier = self.outlines.model, self.diagnoses.model
        assert isinstance(unet, EfficientNetUNet)
        assert isinstance(classifier, EfficientNetLiteClassifier)
        return JointNet(unet, classifier)

    @property
    def downsampling(self) -> int:
        """How many rows of a picture are one row where the model is at its coarsest."""
        return self.model.downsampling

    def init(self, key: jax.Array) -> PyTree:
        """Creates the model's variables, float32."""
        size = self.outlines.image_size
        return self.model.init(key, jnp.zeros((1, *size, 3), jnp.float32), train=False)

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """Changes each picture at random, its mask with it, and normalises.

        Args:
            batch: what both tasks' `augment` take.
            key: of the changes.

        Returns:
            What the outlines' `augment` gives, and targets float32 [N, K].
        """
        classes = self.diagnoses.model.num_classes
        targets = jax.nn.one_hot(batch["labels"], classes, dtype=jnp.float32)
        return {**self.outlines.augment(batch, key), "targets": targets}

    def loss(
        self, params: PyTree, batch_stats: PyTree, batch: Batch
    ) -> tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]:
        """The sum of both tasks' mean losses of an augmented batch; see theirs."""
        (outlines, diagnoses), updated = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch["images"],
            train=True,
            mutable=["batch_stats"],
        )
        outline_loss, figures = self.outlines.loss_of_logits(outlines, batch)
        diagnosis_loss, others = self.diagnoses.loss_of_logits(diagnoses, batch["targets"])
        loss = outline_loss + self.diagnosis_weight * diagnosis_loss
        figures |= {"loss": loss, "diagnosis_loss": diagnosis_loss, "accuracy": others["accuracy"]}
        return loss, (updated["batch_stats"], figures)

    def evaluate(self, variables: PyTree, batch: Batch) -> dict[str, jax.Array]:
        """Both tasks' sums over the valid examples, 'outlines/...' and 'diagnoses/...'."""
        logits = self.model.apply(variables, normalise(batch["images"]), train=False)
        assert isinstance(logits, tuple)  # and no updated collections beside it
        outlines, diagnoses = logits[0], logits[1]
        sums = {
            "outlines": self.outlines.sums_of_logits(outlines, batch),
            "diagnoses": class_sums(diagnoses, batch["labels"], batch["valid"]),
        }
        return {f"{part}/{name}": s for part, of in sums.items() for name, s in of.items()}

    def summarise(self, sums: dict[str, float]) -> dict[str, float]:
        """The figures of a split: the diagnosis's, and the outline's, whose accuracy is of pixels.

        'diagnosis_loss' is cross-entropy, whatever the training's loss; 'score' is the mean of the
        Jaccard index and the balanced accuracy.
        """
        parts: dict[str, dict[str, float]] = {"outlines": {}, "diagnoses": {}}
        for name, value in sums.items():
            part, _, short = name.partition("/")
            parts[part][short] = value
        outlines = self.outlines.summarise(parts["outlines"])
        outlines["pixel_accuracy"] = outlines.pop("accuracy")
        diagnoses = self.diagnoses.summarise(parts["diagnoses"])
        diagnoses["diagnosis_loss"] = diagnoses.pop("loss")
        figures = outlines | diagnoses
        figures["score"] = (figures["jaccard"] + figures["balanced_accuracy"]) / 2
        return figures


def divide_variables(variables: PyTree) -> dict[str, PyTree]:
    """The variables of each of the two models by itself, 'outlines' and 'diagnoses'.

    Args:
        variables: `params` and `batch_stats` of a `JointNet`.
    """
    return {
        part: {kind: {"trunk": tree["trunk"], **tree[part]} for kind, tree in variables.items()}
        for part in ("outlines", "diagnoses")
    }
