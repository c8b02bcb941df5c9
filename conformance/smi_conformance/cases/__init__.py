"""The cases, grouped by area; each is bound to its id in the catalogue with `@case`."""
