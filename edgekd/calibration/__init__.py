"""The samples that activation ranges are measured on: sets, selection, checks, frozen files."""
