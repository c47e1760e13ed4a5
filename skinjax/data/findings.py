"""What an audit finds: a file, what is the matter with it, and whether that stops a training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one file, or between two.

    Attributes:
      file: The file, or the row of a table.
      finding: What is the matter, in words that are the same for every file of that kind.
      detail: The particulars.
      stops: Whether a training would refuse the data for it, or its scores would mean nothing.
      left_out: Whether a training leaves the file or row out, which it does up to 1% of them.
    """

    file: str
    finding: str
    detail: str
    stops: bool = False
    left_out: bool = False
