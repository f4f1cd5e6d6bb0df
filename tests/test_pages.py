"""The reports under docs/ are those of the runs beside them, by the commands that the pages give."""

import filecmp
import re
import subprocess
import sys

import pytest
from helpers import ROOT, load

report = load("report")
COMMANDS = {}  # folder: what report.py is given to make its report
for path in sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/*/README.md")]):
    for flags, folder in re.findall(r"^python report\.py (.+) --out (docs/\S+)$", path.read_text(), re.MULTILINE):
        COMMANDS[folder] = flags


def test_every_report_has_a_command():
    assert set(COMMANDS) >= {str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*/report")}


@pytest.mark.parametrize("folder", COMMANDS)
def test_committed_report(folder, tmp_path, monkeypatch):
    """Its tables, and the names of its figures; that figures are repeated is tested in test_report.py."""
    drawn = []
    write = report.Report.write

    def write_tables(self, out):
        drawn.extend(self.figures)
        self.figures = {}
        write(self, out)

    monkeypatch.setattr(report.Report, "write", write_tables)
    monkeypatch.chdir(ROOT)  # the shell expands the patterns of the command
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {COMMANDS[folder]}"], capture_output=True, text=True)
    monkeypatch.setattr(sys, "argv", ["report.py", *words.stdout.splitlines(), "--out", str(tmp_path)])
    report.main()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert filecmp.cmpfiles(tmp_path, folder, names, shallow=False) == (names, [], [])
    if folder.endswith("/report"):
        pictures = [f"{name}.{end}" for name in drawn for end in ("png", "svg")]
        assert sorted(path.name for path in (ROOT / folder).iterdir()) == sorted([*names, *pictures]), "nothing stale"
