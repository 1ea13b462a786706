"""The error of readers."""


class DataError(ValueError):
    """Invalid input data, with its location.

    Attributes:
      file: Path or name of the source.
      record: Index of the record in the file; None if the error concerns the whole file.
      field: Name of the invalid field, "" if unknown.
      problem: Description of the error.
      remedy: Suggested action, "" if there is none.
    """

    def __init__(self, problem: str, *, file: str = "", record: int | None = None, field: str = "", remedy: str = ""):
        self.file, self.record, self.field = str(file), record, field
        self.problem, self.remedy = problem, remedy
        super().__init__(problem)

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
        location = [self.file] if self.file else []
        location += [f"record {self.record}"] if self.record is not None else []
        location += [f"field {self.field}"] if self.field else []
        text = ", ".join(location) + ": " + self.problem if location else self.problem
        return f"{text} ({self.remedy})" if self.remedy else text
