"""What every data set on disk is turned into: a list of examples that can be loaded one by one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

# The seven diagnoses of HAM10000 in the order of every label and logit in this package.
CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")


@dataclass(frozen=True)
class Example:
    """One picture of a data set, with what is known about it; nothing is read before `load`.

    Attributes:
      image_id: The name of the picture, unique in its data set.
      load: Reads the encoded image file and the encoded mask file (None where there is no mask).
        It is called from worker threads.
      image_name: Where the picture comes from, for messages.
      mask_name: Where the mask comes from, for messages; None where there is no mask.
      lesion_id: What must not be divided between the sides of a split: the lesion the picture
        shows, or the patient where the data set says who that is; None where it says neither.
      label: The class name of the diagnosis; None where the data set does not say.
      part: The official split (`train`, `val` or `test`) the picture belongs to; None without one.
      metadata: What else the data set says about the picture, as text.
    """

    image_id: str
    load: Callable[[], tuple[bytes, bytes | None]]
    image_name: str
    mask_name: str | None = None
    lesion_id: str | None = None
    label: str | None = None
    part: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def file_names(self) -> str:
        """Where it comes from, for a message about what may be either file's fault."""
        return " or ".join(filter(None, (self.image_name, self.mask_name)))


class Source(Protocol):
    """A data set in the layout in which people have it.

    Attributes:
      name: The name of the data set in the catalogue.
      classes: The class names, in the order of the labels.
      has_lesion_ids: Whether the data set says which pictures show the same lesion.
      lesion_ids_mend: What the user can do where there are none; None where nobody publishes them.
      notes: Sentences about what was left out or looks odd, for the user to read.
      missing: What was left out: (file or row, what is wrong with it).
    """

    @property
    def name(self) -> str:
        """The name of the data set in the catalogue."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the labels."""
        ...

    @property
    def has_lesion_ids(self) -> bool:
        """Whether the data set says which pictures show the same lesion."""
        ...

    @property
    def lesion_ids_mend(self) -> str | None:
        """What the user can do where there are no lesion ids; None where nobody publishes them."""
        ...

    @property
    def notes(self) -> list[str]:
        """Sentences about what was left out or looks odd, for the user to read."""
        ...

    @property
    def missing(self) -> list[tuple[str, str]]:
        """What was left out: (file or row, what is wrong with it)."""
        ...

    def fingerprint(self) -> str:
        """Returns a hexadecimal digest that changes whenever the data set's content does."""
        ...

    def examples(self) -> Sequence[Example]:
        """Returns all examples, in a fixed order."""
        ...
