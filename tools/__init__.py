"""Programs for maintainers. They are not installed with the package."""
