"""The documents: links, paths that the code names, the site, and what its generated reference says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lf
from lf.models import MODELS
from scripts.site import offline, reference, sources

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = ("cli.md", "model-cards.md", "python.md", "results-schema.md", "tables.md")
NAMED = sorted(
    {
        (path.relative_to(ROOT).as_posix(), name)
        for folder in ("lf", "tests")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"docs/[\w/.-]+\.(?:md|toml|ipynb|png)", path.read_text())
    }
)


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_page_that_the_code_names_is_there(file, name):
    assert (ROOT / name).is_file(), f"{file} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)):
        if not re.match(r"[a-z]+:|#", target):
            path = page.parent / target.partition("#")[0]
            assert path.exists() or path.name in GENERATED, target


def test_the_generated_reference_names_every_command_and_row():
    pages = reference.pages()
    assert sorted(pages) == [*GENERATED]
    assert all(f"| `{name}` |" in pages["tables.md"] for name in MODELS)
    assert "## lf export\n" in pages["cli.md"]
    assert "| `--scheme NAME` | `w8a8` |" in pages["cli.md"]
    assert all(f"## lf.{name}\n" in pages["python.md"] for name in lf.PUBLIC)
    assert "| `protocol_digest` | text | yes |" in pages["results-schema.md"]


def test_links_out_of_the_site_become_names_of_files(tmp_path):
    sources.write(ROOT, tmp_path / "source")
    assert "The action (`action.yml`)" in (tmp_path / "source" / "ci.md").read_text()
    assert "(docs/" not in (tmp_path / "source" / "contributing.md").read_text()


def test_a_page_that_loads_from_elsewhere_or_is_in_no_menu_is_found(tmp_path):
    (tmp_path / "index.html").write_text(
        '<a href="./one.html" class="md-nav__link"><script src="//cdn.example/x.js"></script>'
    )
    (tmp_path / "one.html").write_text('<link rel="canonical" href="https://example.org/one.html">')
    (tmp_path / "two.html").write_text("")
    (tmp_path / "style.css").write_text("@import url(fonts.css)")
    found = [problem.replace(f"{tmp_path}/", "") for problem in offline.problems(tmp_path)]
    assert found == [
        "index.html: loads //cdn.example/x.js; the site must work offline",
        "style.css: loads from elsewhere; the site must work offline",
        "two.html: in no menu; add it to nav in mkdocs.yml",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("zensical"), reason="needs the extra docs")
def test_the_site_builds_without_warnings(browser):
    done = subprocess.run([sys.executable, "-m", "scripts.site"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get((ROOT / "out" / "site" / "index.html").as_uri())
    _wait(browser, "document.querySelector('[data-md-component=search] button').click(); return __index !== undefined")
    _wait(browser, "return document.activeElement.shadowRoot !== null")
    browser.switch_to.active_element.send_keys("dustbin")
    _wait(browser, "return /Bring your own network/.test(document.activeElement.shadowRoot.textContent)")


def _wait(browser, script):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20).until(lambda driver: driver.execute_script(script))


@pytest.mark.parametrize(
    "file", [*sorted(ROOT.glob(".github/workflows/*.yml")), ROOT / "action.yml"], ids=lambda f: f.name
)
def test_workflows_are_yaml(file):
    found = yaml.safe_load(file.read_text())
    assert {"jobs", "runs"} & found.keys()


def test_the_version_is_the_same_everywhere():
    version = re.escape(lf.__version__)
    assert re.search(rf"^version: {version}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert re.search(rf"^## \[{version}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    minor = lf.__version__.rpartition(".")[0]
    for page in ("docs/ci.md", "docs/tutorial.md"):  # the tag that .github/workflows/release.yml moves
        assert re.findall(r"uses: OWNER/lf@v(\S+)", (ROOT / page).read_text()) == [minor]
    assert 'tag="tags/${GITHUB_REF_NAME%.*}"' in (ROOT / ".github/workflows/release.yml").read_text()
