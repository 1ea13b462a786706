"""The one error that readers raise."""


class DataError(ValueError):
    """Input that cannot be used: which file, record and field, what is wrong and what may help.

    Attributes:
      file: Path or name of the source.
      record: Index of the record in the file, or None when the file itself is at fault.
      field: Name of the field at fault, "" when none can be named.
      problem: What is wrong.
      remedy: What the user can do.
    """

    def __init__(self, problem: str, *, file: str = "", record: int | None = None, field: str = "", remedy: str = ""):
        self.file, self.record, self.field = str(file), record, field
        self.problem, self.remedy = problem, remedy
        super().__init__(problem)

    def at(self, *, file: str | None = None, record: int | None = None) -> "DataError":
        """The same error with its place filled in: decoders know the field, loaders the file and record."""
        return DataError(
            self.problem,
            file=self.file or str(file or ""),
            record=self.record if self.record is not None else record,
            field=self.field,
            remedy=self.remedy,
        )

    def __str__(self) -> str:
        place = [self.file] if self.file else []
        place += [f"record {self.record}"] if self.record is not None else []
        place += [f"field {self.field}"] if self.field else []
        text = ", ".join(place) + ": " + self.problem if place else self.problem
        return f"{text} ({self.remedy})" if self.remedy else text
