"""MkDocs hook that adds the generated pages."""

from __future__ import annotations

from pathlib import Path

from generate import api, commands, parameters, stages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference and CONTRIBUTING.md, with its links to docs/ rewritten."""
    root = Path(config.config_file_path).parent
    pages = {
        "stages": stages.page(root),
        "parameters": parameters.page(root),
        "commands": commands.page(root),
        **api.pages(root),
    }
    for name, content in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    contributing = (root / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "contributing.md", content=contributing))
    return files
