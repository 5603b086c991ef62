"""Linguists' example sentences, acceptable (1) or not (0), from ``text/cola`` in the folder.

Source: Warstadt, Singh and Bowman, TACL 2019, arXiv:1805.12471; public version 1.1.
"""

from __future__ import annotations

import csv
from pathlib import Path

from benchmark.data.datasets.base import FOLDER_VARIABLE, DataError, Dataset, check_md5, register
from benchmark.data.text import PROSE, sentences

MD5 = {
    "in_domain_train.tsv": "0017f72718b43d880cd9050d8107f811",
    "in_domain_dev.tsv": "26b4107fdf8eeb4aa04436a3d6d8367c",
    "out_of_domain_dev.tsv": "2f23640e335e0f7e2dd50f76298315a9",
}


@register("cola", kind="text")
def cola(folder: Path) -> Dataset:
    """Those of plain prose."""
    place = folder / "text" / "cola"
    found = []
    for name, md5 in MD5.items():
        if not (place / name).is_file():
            raise DataError(f"cola is not in {folder} ({place / name} is missing); put its files "
                            f"into text/cola there or point {FOLDER_VARIABLE} to them")  # fmt: skip
        check_md5(place / name, md5)
        lines = (place / name).read_text(encoding="utf-8").splitlines()
        rows = csv.reader(lines, "excel-tab", quoting=csv.QUOTE_NONE)
        found += [(row[3], int(row[1])) for row in rows if PROSE.fullmatch(row[3])]
    return sentences("cola", found, 2)
