"""``python -m monai_ext``, the same as ``monai-ext``: see :mod:`monai_ext.commands`."""

from __future__ import annotations

from monai_ext.commands import main

if __name__ == "__main__":
    main()
