"""What the pages say of the runs: their tables, their links and the figures of docs/evidence.md."""

import filecmp
import re
import shlex
import subprocess
import sys

import numpy as np
import pages
import pytest
import scipy.stats
from helpers import ROOT

PAGES = sorted({path for path, _ in pages.TABLES})


@pytest.mark.parametrize("path", PAGES)
def test_tables(path):
    assert pages.problems(tables=[entry for entry in pages.TABLES if entry[0] == path]) == []


def test_permutation_p():
    """Of one game, the exact test of Mann and Whitney."""
    x, y = np.array([3.1, 4.2, 1.5, 6.0]), np.array([2.0, 0.5, 1.0, 3.5, 0.1])
    expected = scipy.stats.mannwhitneyu(x, y, method="exact")
    assert pages.permutation_p([(x, y)]) == pytest.approx((expected.statistic / 20, expected.pvalue))


@pytest.mark.slow
def test_forest(tmp_path):
    """The numbers behind docs/evidence.md's first figure are those of the runs, by the page's command."""
    (folders,) = re.findall(
        r"^python report\.py (.*) --forest --out docs/evidence$", (ROOT / "docs/evidence.md").read_text(), re.M
    )
    command = [sys.executable, "report.py", *shlex.split(folders), "--forest", "--out", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    names = ["forest.csv", "forest.md"]
    assert filecmp.cmpfiles(tmp_path, ROOT / "docs/evidence", names, shallow=False) == (names, [], [])


def test_links():
    """Every link between the pages has a file, and the heading that it names."""
    paths = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("docs/*/*.md"), *ROOT.glob("docs/*/report/*.md")]
    broken, checked = [], 0
    for path in paths:
        for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
            name, _, anchor = link.partition("#")
            target = path.parent / name if name else path
            if "://" in link:
                continue
            checked += 1
            if not target.exists():
                broken.append((path, link))
            elif anchor and target.suffix == ".md":
                headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
                slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]
                broken += [] if anchor in slugs else [(path, link)]
    assert checked > 100 and broken == []
