"""Programs for those who maintain codexpool; not part of the package."""
