"""Writes a corpus of uneven worth that every machine with Python packages has: their own files, by what they are.

    python experiments/package_texts.py corpus/packages --megabytes 300

Sources and documentation stand beside tests, headers, type stubs, web files, tables of data, licences, records of what
was installed, and translations; the domain of a document says which it is. A document is a file, or as many lines of
it as MAX_CHARACTERS hold; of a file, the first MAX_DOCUMENTS documents. Files come in an order that a hash of their
names decides, until there is enough; no domain has more than MAX_SHARE of all. The same packages give the same corpus;
what was taken and left is printed.
"""

import argparse
import hashlib
import json
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MAX_CHARACTERS: Final = 20_000
MAX_DOCUMENTS: Final = 10
MIN_CHARACTERS: Final = 200
MAX_SHARE: Final = 0.35
LICENCES: Final = ("licen", "copying", "notice", "authors", "third_party", "thirdparty")
TEST_FOLDERS: Final = {"test", "tests", "testing"}
BY_ENDING: Final = {
    ".pyi": "type stubs",
    **dict.fromkeys((".h", ".hpp", ".cuh", ".cu", ".cpp", ".cc", ".c", ".inc", ".pxd", ".pyx"), "native sources"),
    **dict.fromkeys((".md", ".rst", ".txt", ".tex"), "documentation"),
    **dict.fromkeys((".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".cfg", ".ini"), "data"),
    **dict.fromkeys((".js", ".mjs", ".ts", ".css", ".html", ".map"), "web files"),
    ".po": "translations",
}


def domain_of(path: Path) -> str | None:
    """Return what a file is; None where it is not text."""
    name = path.name.lower()
    if any(word in name for word in LICENCES) or "licenses" in path.parts:
        return "licences"
    if path.parent.name.endswith(".dist-info"):
        return "installation records"
    if path.suffix == ".py":
        is_test = bool(TEST_FOLDERS & set(path.parts)) or name.startswith("test_") or name.endswith("_test.py")
        return "python tests" if is_test else "python sources"
    return BY_ENDING.get(path.suffix)


def documents_of(text: str) -> Iterator[str]:
    """Cut a text at the ends of lines; a line that is longer than a document is cut inside."""
    start = 0
    for _ in range(MAX_DOCUMENTS):
        if len(text) - start <= MAX_CHARACTERS:
            yield text[start:]
            return
        end = text.rfind("\n", start, start + MAX_CHARACTERS) + 1 or start + MAX_CHARACTERS
        yield text[start:end]
        start = end


def write_corpus(roots: list[Path], target: Path, *, megabytes: int, num_shards: int) -> None:
    """Write JSON lines, and print what was taken and left.

    Raises:
        SystemExit: if the target is there already, or the packages hold too little.
    """
    if target.exists() and any(target.iterdir()):
        sys.exit(f"{target} is not empty; remove it, or name another folder")
    target.mkdir(parents=True, exist_ok=True)
    named = {f"{root.name}/{path.relative_to(root)}": path for root in roots for path in root.rglob("*")}
    order = sorted(named, key=lambda name: hashlib.blake2b(name.encode(), digest_size=16).digest())
    num_bytes, num_documents, left = Counter[str](), Counter[str](), Counter[str]()
    enough = megabytes * 1_000_000
    shards = [(target / f"packages-{number:03d}.jsonl").open("w", encoding="utf-8") for number in range(num_shards)]
    for name in order:
        path = named[name]
        domain = domain_of(path)
        if domain is None or not path.is_file() or path.is_symlink():
            continue
        if num_bytes[domain] > MAX_SHARE * enough:
            left[f"{domain}, of which there is enough"] += 1
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            left["not UTF-8"] += 1
            continue
        for document in documents_of(text):
            if len(document) < MIN_CHARACTERS:
                left[f"documents under {MIN_CHARACTERS} characters"] += 1
                continue
            row = {"text": document, "domain": domain, "file": name}
            shards[num_documents.total() % num_shards].write(json.dumps(row, ensure_ascii=False) + "\n")
            num_documents[domain] += 1
            num_bytes[domain] += len(document.encode())
        if num_bytes.total() >= enough:
            break
    for shard in shards:
        shard.close()
    for domain, size in num_bytes.most_common():
        print(
            f"{domain:<24}{num_documents[domain]:>9,} documents{size / 1e6:>10,.1f} MB{size / num_bytes.total():>8.1%}"
        )
    print(f"{'together':<24}{num_documents.total():>9,} documents{num_bytes.total() / 1e6:>10,.1f} MB")
    for reason, number in left.most_common():
        print(f"left: {number:,} ({reason})")
    if num_bytes.total() < enough:
        print(f"the packages hold no {megabytes:,} MB", file=sys.stderr)


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--roots", nargs="+", type=Path, help="default: the packages and the library of this Python")
    arguments = parser.parse_args()
    paths = sysconfig.get_paths()
    roots = arguments.roots or [Path(paths["purelib"]), Path(paths["stdlib"])]
    write_corpus(roots, arguments.target, megabytes=arguments.megabytes, num_shards=arguments.shards)


if __name__ == "__main__":
    main()
