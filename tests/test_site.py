"""The links of the built site: those to files that are not there are named."""

from pathlib import Path

from docs.build_site import LAID_OUT, PROJECT, dead_links


def test_a_link_to_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "docs" / "ci").mkdir(parents=True)
    (tmp_path / "docs" / "a b.yaml").write_text("")
    (tmp_path / "index.html").write_text(
        '<a href="docs/page.html#place">1</a> <a href="https://example.org/none">2</a> <a href="#top">3</a>'
        '<a href="docs/ci/">4</a> <img src="docs/none.png">'
    )
    (tmp_path / "docs" / "page.html").write_text('<a href="../index.html">1</a> <a href="a%20b.yaml">2</a>')
    assert list(dead_links(tmp_path)) == [
        "index.html: docs/ci/ is not there; a folder is no page",
        "index.html: docs/none.png is not there; a folder is no page",
    ]


def test_what_is_laid_out_is_there() -> None:
    assert [name for name in LAID_OUT if not (PROJECT / name).exists()] == []
