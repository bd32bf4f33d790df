"""Finding a bundle's configurations by name, whichever folder of ``configs`` they are in."""

from pathlib import Path

METADATA = "metadata.json"


def configurations(bundle: Path) -> list[Path]:
    """All configurations of a bundle but its metadata, by their path."""
    return sorted(path for path in bundle.glob("configs/**/*.json") if path.name != METADATA)


def config_file(bundle: Path, name: str) -> Path:
    """The configuration called ``<name>.json``; there is one of each name."""
    (path,) = bundle.glob(f"configs/**/{name}.json")
    return path


def config_files(bundle: Path, *names: str) -> list[str]:
    """The configurations of these names, the later over the earlier, as MONAI's parser takes them."""
    return [str(config_file(bundle, name)) for name in names]
