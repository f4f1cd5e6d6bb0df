"""What the pages say of the runs: their tables, their links and the figures of docs/evidence.md."""

import filecmp
import re
import shlex
import shutil
import subprocess
import sys

import pages
import pytest
from helpers import ROOT

PAGES = sorted({path for path, _ in pages.TABLES})


@pytest.mark.parametrize("path", PAGES)
def test_tables(path):
    assert pages.problems(tables=[entry for entry in pages.TABLES if entry[0] == path]) == []


def test_a_wrong_table_is_found_and_mended(tmp_path):
    entries = [entry for entry in pages.TABLES if entry[0] == "docs/tabular/README.md"]
    page = tmp_path / "docs/tabular/README.md"
    page.parent.mkdir(parents=True)
    shutil.copy(ROOT / "docs/tabular/README.md", page)
    right = page.read_text()
    page.write_text(right.replace("| -1 | `sarsa` | +34.2", "| -1 | `sarsa` | +34.3"))
    (found,) = pages.problems(tables=entries, root=tmp_path)
    assert "| -1 | `sarsa` | +34.2" in found and "`max`" not in found
    assert pages.problems(True, entries, tmp_path) == [] and page.read_text() == right
    page.write_text(right.replace("| k | reward -1", "| k | reward -2"))
    (found,) = pages.problems(tables=entries, root=tmp_path)
    assert "0 tables with the header | k | reward -1" in found


@pytest.mark.parametrize("run", [False, True])
def test_a_row_appears_with_its_runs(run, monkeypatch):
    rows = {key: of for key, of in pages.forest().items() if "IQN" not in key}
    if run:
        rows["iqn", "MinAtar", "IQN"] = rows["minatar", "MinAtar", "DQN"]
    monkeypatch.setattr(pages, "forest", lambda: rows)
    (evidence,) = [line for line in pages.forest_table() if line.startswith("| IQN |")]
    assert ("| not run |" in evidence) == ("IQN on MinAtar" in " ".join(pages.counts())) == (not run)
    assert sum(line.startswith("| IQN |") for line in pages.layer_table()) == run


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
