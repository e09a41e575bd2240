"""The documentation as a site (`just docs`). mkdocs.yml names the pages; the code makes those of the reference."""
