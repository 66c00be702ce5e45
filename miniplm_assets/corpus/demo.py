"""The demo corpus: real text that every machine with Python has, and what stands for a crawl's rubbish."""

import json
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.corpus.demo_filler import BOILERPLATE, NOISE, boilerplate, noise, seeded_random
from miniplm_assets.corpus.demo_library import CODE, DOCS, PROSE, TESTS, Library
from miniplm_assets.corpus.progress import Report
from miniplm_assets.experiment.sources import DemoSource

# Share of the real text, as far as the library has it; what one domain lacks the others make up, in this order.
DOMAIN_SHARES: Final = {CODE: 0.5, DOCS: 0.2, TESTS: 0.15, PROSE: 0.15}
# The demo is one corpus, not a family of them.
_SEED: Final = 0


def write_demo_corpus(source: DemoSource, folder: Path, report: Report) -> None:
    """Write the demo corpus as JSONL files, ``shard-0000.jsonl`` and on, of {"text", "domain"}.

    The same bytes for the same interpreter. Where its library has less text than asked for, the corpus is smaller
    and the shares of noise and boilerplate hold for what there is.

    Args:
        source: how many files, how large, and the shares.
        folder: gets the files.
        report: told the size of each domain.

    Raises:
        CorpusError: if the interpreter's library has no sources, or too few for so many files.
    """
    path = Path(sysconfig.get_path("stdlib"))
    if not path.is_dir():
        raise CorpusError(
            f"the interpreter's library {path} is not a folder, so that there is no text for the demo corpus. Use a "
            "Python with its library as files, or another corpus.source."
        )
    wanted_bytes = source.megabytes * 1e6
    real_share = 1 - source.noise_share - source.boilerplate_share
    if real_share <= 0:
        raise CorpusError(
            f"corpus.source: noise_share {source.noise_share} and boilerplate_share {source.boilerplate_share} leave "
            "no real text; keep their sum under 1"
        )
    library = Library(path, seed=_SEED)
    documents = _real_documents(library, wanted_bytes * real_share)
    if library.not_utf8:
        report(f"demo corpus: left out {len(library.not_utf8)} files of the library that are not UTF-8")
    real_bytes = _num_bytes(text for _, text in documents)
    if real_bytes < 0.95 * wanted_bytes * real_share:
        report(
            f"demo corpus: the library in {path} has {real_bytes / 1e6:.1f} MB of real text, "
            f"{wanted_bytes * real_share / 1e6:.1f} MB were asked for; the corpus is smaller by as much"
        )
    words = sorted({word for _, text in documents for word in text.split() if word.isalpha()})
    if not words:
        raise CorpusError(
            f"the interpreter's library {path} holds no text for a demo corpus; use another corpus.source"
        )
    total_bytes = real_bytes / real_share
    for domain, texts, share in (
        (NOISE, noise(words, seed=_SEED), source.noise_share),
        (BOILERPLATE, boilerplate(seed=_SEED), source.boilerplate_share),
    ):
        documents += ((domain, text) for text in _taken(texts, total_bytes * share))
    if len(documents) < source.num_shards:
        raise CorpusError(
            f"corpus.source: {source.megabytes} MB are {len(documents)} documents, too few for {source.num_shards} "
            "shards; ask for more megabytes or fewer shards"
        )
    seeded_random(_SEED, "order").shuffle(documents)
    for shard in range(source.num_shards):
        rows = [
            json.dumps({"text": text, "domain": domain}, ensure_ascii=False) + "\n"
            for domain, text in documents[shard :: source.num_shards]
        ]
        (folder / f"shard-{shard:04d}.jsonl").write_text("".join(rows), encoding="utf-8", newline="\n")
    sizes = {
        domain: _num_bytes(text for its_domain, text in documents if its_domain == domain)
        for domain in (*DOMAIN_SHARES, NOISE, BOILERPLATE)
    }
    described = ", ".join(f"{domain} {size / 1e6:.2f} MB" for domain, size in sizes.items())
    report(f"demo corpus: {len(documents):,} documents in {source.num_shards} files ({described})")


def _real_documents(library: Library, wanted_bytes: float) -> list[tuple[str, str]]:
    remaining = {domain: library.documents(domain) for domain in DOMAIN_SHARES}
    documents = [
        (domain, text)
        for domain, share in DOMAIN_SHARES.items()
        for text in _taken(remaining[domain], wanted_bytes * share)
    ]
    missing = wanted_bytes - _num_bytes(text for _, text in documents)
    for domain in DOMAIN_SHARES:
        added = _taken(remaining[domain], missing)
        missing -= _num_bytes(added)
        documents += ((domain, text) for text in added)
    return documents


def _taken(texts: Iterable[str], wanted_bytes: float) -> list[str]:
    """Take texts until they have so many bytes, or until there are no more. The last one may go beyond."""
    taken: list[str] = []
    iterator = iter(texts)
    while wanted_bytes > 0:
        text = next(iterator, None)
        if text is None:
            break
        taken.append(text)
        wanted_bytes -= len(text.encode())
    return taken


def _num_bytes(texts: Iterable[str]) -> int:
    return sum(len(text.encode()) for text in texts)
