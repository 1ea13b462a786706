"""The error of readers."""

import contextlib
from collections.abc import Iterator

from waymax_sim.text import printable


class DataError(ValueError):
    """Invalid input data, with its location. As text it is one line of printable characters.

    Attributes:
      file: Path or name of the source.
      record: Index of the record in the file; None if the error concerns the whole file.
      field: Name of the invalid field, "" if unknown.
      problem: Description of the error.
      remedy: Suggested action, "" if there is none.
    """

    def __init__(self, problem: str, *, file: str = "", record: int | None = None, field: str = "", remedy: str = ""):
        # Problem and field may quote the data. The file is a path, which must stay as it is.
        self.file, self.record, self.field = str(file), record, printable(field)
        self.problem, self.remedy = printable(problem), remedy
        super().__init__(self.problem)

    def with_location(self, *, file: str | None = None, record: int | None = None) -> "DataError":
        """A copy with file and record where they are unknown: decoders know the field only, loaders file and record."""
        return DataError(
            self.problem,
            file=self.file or str(file or ""),
            record=self.record if self.record is not None else record,
            field=self.field,
            remedy=self.remedy,
        )

    def __str__(self) -> str:
        location = [printable(self.file)] if self.file else []
        location += [f"record {self.record}"] if self.record is not None else []
        location += [f"field {self.field}"] if self.field else []
        text = ", ".join(location) + ": " + self.problem if location else self.problem
        return f"{text} ({self.remedy})" if self.remedy else text


@contextlib.contextmanager
def locate_errors(file: str, record: int | None = None) -> Iterator[None]:
    """Adds file and record to data errors, and makes data errors of records that exhaust memory or the stack.

    Args:
      file: Path or name of the source.
      record: Index of the record.
    """
    try:
        yield
    except DataError as error:
        raise error.with_location(file=file, record=record) from None
    except MemoryError:
        problem, remedy = "does not fit into the available memory", "leave the record out, or free memory"
    except RecursionError:
        problem, remedy = "is nested too deeply", "leave the record out"
    else:
        return
    raise DataError(problem, file=file, record=record, remedy=remedy)
