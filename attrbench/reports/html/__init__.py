"""The HTML report: one self-contained page made of records, and the parts of it that notebooks show."""
