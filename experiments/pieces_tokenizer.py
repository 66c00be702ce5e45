"""Trains a tokenizer as SentencePiece's: pieces of words with a mark for the space in front, single bytes for the rest.

    python experiments/pieces_tokenizer.py ../pieces_tokenizer

From the demo's corpus, for experiments/families.yaml. A student of the family of Llama 2, Mistral or Gemma brings one.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from miniplm_assets.corpus.demo import write_demo_corpus
from miniplm_assets.experiment.sources import DemoSource

VOCAB_SIZE = 1_024
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def texts_of(folder: Path) -> Iterator[str]:
    """Go through the documents of the demo's corpus."""
    source = DemoSource(type="demo", num_shards=1, megabytes=6, noise_share=0.22)
    write_demo_corpus(source, folder, print)
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)["text"]


def train(texts: Iterator[str]) -> Tokenizer:
    """Return the tokenizer: BPE over words that begin with the mark, a byte where a character is in no piece."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=["<unk>", "<s>", "</s>", *BYTES], limit_alphabet=200, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Bytes are in the vocabulary as the special tokens are, but a text is spelt with them.
    written = json.loads(tokenizer.to_str())
    written["added_tokens"] = [token for token in written["added_tokens"] if token["content"] not in BYTES]
    return Tokenizer.from_str(json.dumps(written))


def main() -> None:
    """Write the folder."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = train(texts_of(Path(scratch)))
    tokenizer.save(str(target / "tokenizer.json"))
    config = {"eos_token": "</s>", "bos_token": "<s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (target / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    print(f"{target}: {tokenizer.get_vocab_size():,} entries")


if __name__ == "__main__":
    main()
