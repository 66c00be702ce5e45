"""What the words mean that stand on pages and in the report, in a line each; of each page, those that it uses."""

import re
from collections.abc import Mapping
from typing import Final

# In the order of the method: text, scores, selection, students, how sure it is, bookkeeping.
GLOSSARY: Final[Mapping[str, str]] = {
    "document": "one text of the corpus, with the domain that it is from",
    "corpus file": "a file of the corpus, also called a shard: the unit in which results are stored and found again",
    "sequence": "so many tokens of documents, given to a model at once: what is scored, and kept or left out",
    "candidate": "a sequence that may be selected: none that teacher or reference learnt from, nor any of the test",
    "held-out": "of documents that nobody learnt from, and that no selection may take: the validation split",
    "sample loss": "of a few hundred held-out sequences of all domains, while a model is trained; evaluations take all",
    "teacher": "the large model, which knows what the text is like",
    "reference": "the small model, trained on a part of the corpus of its own, which knows what is common",
    "student": "a model that is trained on some of the corpus, to be compared with others",
    "nat": "of a loss: minus the natural logarithm of the probability that a model gave a token; less is better",
    "bits a byte": "a loss by the bytes of the text in place of tokens, so that models of different tokenizers compare",
    "perplexity": "e to the power of the loss in nats a token; comparable within one tokenizer alone",
    "NLL": "negative log-likelihood: the loss of a text, in nats",
    "log-probability": "logarithm of the probability that a model gave a text: the nearer to 0, the better it knew it",
    "difference": "the teacher's log-probability less the reference's: high where the teacher finds a text far easier",
    "score": "what a selection ranks by: the difference by the token, unless the experiment file says otherwise",
    "cutoff": "the lowest score that is kept, ties decided by the number of the sequence",
    "keep fraction": "alpha of the paper: which share of the candidates is kept, from the highest score downwards",
    "fill share": "how full the sequences are: their tokens, by as many as there is room for in them",
    "epoch": "once through all of a corpus",
    "Spearman": "of two rankings: 1 where they are the same, 0 where one says nothing of the other",
    "tenth": "of the ranked candidates, the best first: tenth 1 is what ranks highest",
    "token budget": "how many tokens are kept, or trained on",
    "refined corpus": "the sequences that a selection kept, with their texts",
    "difficulty": "the teacher's loss of a text: high for what is hard to predict",
    "diversity": "how far the texts of a selection lie from one another, by the teacher's own embeddings",
    "baseline": "the student that another one is held against; as a rule the same student on text drawn by chance",
    "no KD": "trained on text drawn by chance from the corpus, with nothing of a teacher (KD: knowledge distillation)",
    "MiniPLM": "trained on what the difference of teacher and reference selects (arXiv 2410.17215)",
    "vanilla KD": "trained to give the probabilities that a teacher gives, beside the text's own tokens",
    "SeqKD": "trained on text that a teacher wrote",
    "seed": "the number that chance is drawn from; several trainings that differ in it alone show how far chance goes",
    "95 % interval": "where the true value lies in 95 of 100 such measurements; if 0 is in it, nothing can be told",
    "told apart": "the 95 % interval of the difference leaves 0 out",
    "FLOP": "an addition or a multiplication: what computing takes, on any device",
    "tokens saved": "how many times fewer tokens a student needs to reach the loss at which its baseline ends",
    "ledger": "what every result took to make, and what was not computed because it was found stored",
    "pilot": "small models that are trained first, to see whether the method works on this corpus before it costs much",
    "proxy": "small models in place of the teacher, to say in advance what it would select",
    "perfect labels": "the domains that the experiment file calls unwanted, left out by their name: no model is asked",
    "fingerprint": "a hash of all that a result follows from; the same fingerprint is the same result",
}
# A plural, and upper case where a sentence begins; abbreviations as they are.
_PATTERNS: Final = {
    term: re.compile(rf"(?<![\w/-]){re.escape(term)}(?:s|es)?(?![\w/-])", 0 if term.isupper() else re.IGNORECASE)
    for term in GLOSSARY
}


def words_of(text: str) -> dict[str, str]:
    """Return the terms that a text uses, each with its meaning."""
    return {term: meaning for term, meaning in GLOSSARY.items() if _PATTERNS[term].search(text)}
