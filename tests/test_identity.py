"""Which setting changes which kinds of results, for every setting there is; and that nothing else changes one.

The table is written by hand, from what each setting is for. A setting that a release adds fails
`test_every_setting_stands_in_the_table` until it stands here, with its default: a default that changes gives other
results under the same fingerprints, so that it asks for another code version of every kind that reads it.
"""

import json
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.experiment import Experiment
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.registry import PROJECT, all_kinds
from miniplm_assets.lineage.fingerprints import Fingerprints
from miniplm_assets.lineage.graph import build_graph
from miniplm_assets.storage.sql_project import load_sql_project

SHARDS = {"b.jsonl": "2" * 32, "a.jsonl": "1" * 32}
HASH = "0123456789abcdef0123456789abcdef01234567"
REQUIRED = object()

# What shows everything that was made.
CATALOG = {"warehouse_catalog", "report"}
COMPARISON = {"comparison"} | CATALOG
# What a gate scores is paid for.
COSTS = {"ledger", "break_even"} | CATALOG
REPORTS = COSTS | COMPARISON | {"student_differences", "scaling_laws"}
STUDENT = {"student_checkpoint", "student_evaluation"} | REPORTS
EVALUATED = STUDENT - {"student_checkpoint"}
# What hangs on a text beside the corpus.
BESIDE = {"evaluation_text", "text_evaluation", "student_differences"} | COMPARISON
CONTAMINATED = {"contaminated_documents"} | CATALOG
OVERLAP = {"selection_overlap", "selection_differences"}
MARTS = {
    "difference_scores",
    "selection_cutoff",
    "refined_corpus",
    "score_distribution",
    "domain_shift",
    "length_bias",
    "extreme_sequences",
    "what_if",
    "score_deciles",
    "selection_diversity",
} | OVERLAP
# What looks at a cutoff a second time moves with it.
SECOND = {"agreement_teacher_scores", "agreement_reference_scores", "score_agreement"}
RESCORED = {"rescored_teacher_scores", "rescored_reference_scores"}
# What hangs on the scores of a teacher or of a reference.
AFTER_SCORES = MARTS | SECOND | RESCORED | STUDENT
TEACHER_SCORES = {"teacher_scores", "pilot_teacher_scores", "pilot"} | AFTER_SCORES
REFERENCE_SCORES = {"reference_scores", "pilot_reference_scores", "pilot"} | AFTER_SCORES
TEACHER = {"teacher_model"} | TEACHER_SCORES
REFERENCE = {"reference_model"} | REFERENCE_SCORES
AFTER_SEQUENCES = TEACHER | REFERENCE | {"corpus_profile"}
AFTER_TOKENIZER = {"sequences"} | AFTER_SEQUENCES
AFTER_DOCUMENTS = {"tokenizer"} | AFTER_TOKENIZER
DOCUMENTS = {"documents"} | AFTER_DOCUMENTS
SELECTION = {"pilot"} | AFTER_SCORES
LISTING = {"raw_corpus"} | CATALOG
# They tell where the corpus is from, and what it was made with.
EXPORTED = {"exported_student", "exported_corpus"}
# What follows the rank of a selection that nobody learns from.
RANK = MARTS - {"difference_scores"} | CATALOG
CORRECTED = {"scale_corrected_scores", "score_scales"}
PER_BYTE = {"difference_scores", "per_byte_scores"} | RANK
# Of a selection whose reference has another tokenizer than its teacher.
READ_ANEW = {"retokenised_reference_scores"} | PER_BYTE
PRIOR = {"token_counts", "token_priors", "prior_statistics", "prior_scores"}
GENERATED = {"generated_corpus"} | STUDENT
RETOKENISED = {"refined_sequences"} | STUDENT
SURVIVING = {"surviving_sequences", "surviving_teacher_scores", "surviving_reference_scores"}
# What follows a proxy, of a selection that nobody learns from, where others have both models score everything.
PREDICTED = {"proxy_agreement", "proxy_differences", "proxy_scores"} | RANK - {"corpus_profile"}
LEARNT = {"proxy_model"} | PREDICTED
# What hangs on how students are asked; and on what they are asked.
ASKED = {"student_tasks", "task_comparison"} | CATALOG
TASKS = {"tasks"} | ASKED
HELD_OUT_TASKS = {"held_out_tasks"} | TASKS
NOTHING: set[str] = set()


def experiment() -> dict[str, Any]:
    """One of everything: trained and copied models, both gates, a second pass, a hub, a folder."""
    training = {"token_budget": 10}
    half = {"teacher": "large", "reference": "small", "keep_fraction": 0.5}
    trained = {"tokenizer": "bpe", "model": {"source": "trained", "architecture": "tiny", "training": training}}
    student = {"architecture": "tiny", "tokenizer": "bpe", "training": training}
    content = {
        "warehouse": "results",
        "seed": 1,
        "corpus": {
            "source": {"type": "jsonl", "path": "texts"},
            "splits": {"validation": 0.01, "reference": 0.05, "teacher": 0.2},
        },
        "sequences": {"sequence_length": 64},
        "tokenizers": {
            "bpe": {"source": "trained", "vocab_size": 300},
            "local": {"source": "folder", "path": "there"},
            "hub": {"source": "hub", "id": "a/b", "revision": HASH},
        },
        "architectures": {"tiny": {"model_type": "qwen2"}, "other": {"model_type": "llama"}},
        "teachers": {
            "large": {**trained, "scoring": {}},
            "copied": {"tokenizer": "bpe", "model": {"source": "folder", "path": "model"}},
            "fetched": {"tokenizer": "bpe", "model": {"source": "hub", "id": "a/b", "revision": HASH}},
        },
        "references": {
            "small": {**trained, "scoring": {}},
            "other": {**trained, "model": {**trained["model"], "training": {"token_budget": 12}}},
        },
        "pilot": {"share": 0.1},
        "selections": {
            "half": {**half, "agreement": {"dtype": "bfloat16"}},
            "again": {**half, "rescoring": {"around": "half", "within_nats": 0.1, "dtype": "bfloat16"}},
        },
        "students": {
            "plain": student,
            "better": {**student, "corpus": "refined_corpus/half", "baseline": "plain"},
            "again": {**student, "corpus": "refined_corpus/again", "baseline": "plain"},
        },
    }
    return json.loads(json.dumps(content))  # no section is the same object twice


VARIANTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "": lambda content: None,
    "demo": lambda content: content["corpus"].update(source={"type": "demo"}),
    "parquet": lambda content: content["corpus"].update(source={"type": "parquet", "path": "texts"}),
    "text": lambda content: content["corpus"].update(source={"type": "text", "path": "texts"}),
    "hub": lambda content: content["corpus"].update(
        source={"type": "huggingface", "id": "a/b", "revision": HASH, "files": "*.jsonl"}
    ),
    "alike": lambda content: content["corpus"].update(cleaning={"duplicates": "near"}),
    "beside": lambda content: content.update(evaluation={"texts": {"own": {"path": "beside"}}}),
    "counted": lambda content: content["corpus"].update(decontamination={"against": ["validation", "evals/a.txt"]}),
    "removed": lambda content: content["corpus"].update(
        decontamination={"against": ["validation", "evals/a.txt"], "action": "remove"}
    ),
    "published": lambda content: content.update(publishing={"students": {"better": {}}, "selections": {"half": {}}}),
    "vllm": lambda content: content["teachers"]["large"].update(scoring={"backend": "vllm"}),
    "ray": lambda content: content["teachers"]["large"].update(scoring={"engine": "ray"}),
    "asked": lambda content: content.update(
        evaluation={"tasks": {"names": ["held_out_cloze", "held_out_bits_per_byte", "mine"], "folder": "tasks"}}
    ),
    "minillm": lambda content: content["students"]["plain"].update(
        objective={"type": "minillm", "teacher": "large", "num_sampled_tokens": 16}
    ),
}


@dataclass(frozen=True)
class Row:
    """A setting, its default, another value, and the kinds of which a result changes with it."""

    paths: str  # several, separated by a blank, where they must agree
    default: Any
    other: Any
    kinds: set[str]
    variant: str = ""


ROWS = [
    Row("warehouse", REQUIRED, "elsewhere", {"warehouse_catalog"}),
    Row("warehouse", REQUIRED, "elsewhere", LISTING, "demo"),  # whose files lie in it
    Row("seed", 0, 2, DOCUMENTS),
    Row("owners", (), ["team:data"], NOTHING),
    Row("corpus.source.type", REQUIRED, "parquet", LISTING | DOCUMENTS),
    Row("corpus.source.type", REQUIRED, "jsonl", LISTING | DOCUMENTS, "parquet"),
    Row("corpus.source.type", REQUIRED, None, NOTHING, "demo"),
    Row("corpus.source.type", REQUIRED, None, NOTHING, "text"),
    Row("corpus.source.type", REQUIRED, None, NOTHING, "hub"),
    Row("corpus.source", REQUIRED, {"type": "jsonl", "path": "texts"}, LISTING | DOCUMENTS, "text"),
    Row("corpus.source", REQUIRED, {"type": "text", "path": "texts"}, LISTING | DOCUMENTS, "hub"),
    Row("corpus.source.path", REQUIRED, "moved", LISTING),
    Row("corpus.source.path", REQUIRED, "moved", LISTING, "parquet"),
    Row("corpus.source.path", REQUIRED, "moved", LISTING, "text"),
    Row("corpus.source.pattern", "*.txt", "*.md", LISTING, "text"),
    Row("corpus.source.id", REQUIRED, "a/c", LISTING, "hub"),
    Row("corpus.source.revision", REQUIRED, HASH[::-1], LISTING, "hub"),
    Row("corpus.source.files", REQUIRED, "*.parquet", LISTING, "hub"),
    Row("corpus.source.num_shards", 4, 5, LISTING, "demo"),
    Row("corpus.source.megabytes", 8.0, 1.0, LISTING, "demo"),
    Row("corpus.source.noise_share", 0.33, 0.2, LISTING, "demo"),
    Row("corpus.source.boilerplate_share", 0.07, 0.1, LISTING, "demo"),
    Row("corpus.fields.text_field", "text", "content", DOCUMENTS),
    Row("corpus.fields.domain_field", None, "meta.source", DOCUMENTS),
    Row("corpus.cleaning.languages", (), ["de", "en"], DOCUMENTS),
    Row("corpus.cleaning.duplicates", "none", "exact", DOCUMENTS),
    Row("corpus.cleaning.duplicates", "none", "near", DOCUMENTS),
    Row("corpus.cleaning.near.min_similarity", 0.8, 0.7, DOCUMENTS, "alike"),
    Row("corpus.cleaning.near.shingle_words", 5, 3, DOCUMENTS, "alike"),
    Row("corpus.cleaning.near.num_permutations", 128, 64, DOCUMENTS, "alike"),
    Row("corpus.decontamination.ngram", 13, 8, {"protected_ngrams"} | CONTAMINATED, "counted"),
    Row("corpus.decontamination.against", REQUIRED, ["validation"], {"protected_ngrams"} | CONTAMINATED, "counted"),
    Row("corpus.decontamination.action", "count", "remove", CONTAMINATED | DOCUMENTS, "counted"),
    Row("corpus.decontamination.ngram", 13, 8, {"protected_ngrams"} | CONTAMINATED | DOCUMENTS, "removed"),
    Row("corpus.max_rejected_share", 0.01, 0.5, set()),
    Row("corpus.fields.max_document_bytes", 10_000_000, 9, DOCUMENTS),
    Row("corpus.splits.validation", 0.01, 0.02, DOCUMENTS),
    Row("corpus.splits.reference", 0.05, 0.06, DOCUMENTS),
    Row("corpus.splits.teacher", 0.0, 0.3, DOCUMENTS),
    Row("corpus.expected_tokens", None, 7, NOTHING),
    Row("processing.engine", "local", "ray", NOTHING),
    Row("processing.num_processes", None, 3, NOTHING),
    Row("models_at_once", "auto", 2, NOTHING),
    Row("sequences.sequence_length", 1_024, 32, AFTER_TOKENIZER),
    Row("sequences.trim_to_sentence_end", True, False, AFTER_TOKENIZER),
    Row("tokenizers.bpe.vocab_size", REQUIRED, 301, AFTER_DOCUMENTS),
    Row("tokenizers.bpe.shards", ("*",), ["a.*"], AFTER_DOCUMENTS),
    Row("tokenizers.local.path", REQUIRED, "moved", NOTHING),  # the content counts
    Row("tokenizers.hub.id", REQUIRED, "a/c", {"tokenizer", "sequences"} | CATALOG),
    Row("tokenizers.hub.revision", REQUIRED, HASH[::-1], {"tokenizer", "sequences"} | CATALOG),
    Row("tokenizers.local", REQUIRED, {"source": "trained", "vocab_size": 9_999}, {"tokenizer", "sequences"} | CATALOG),
    Row("tokenizers.hub.source", REQUIRED, None, NOTHING),
    Row("tokenizers.local.source", REQUIRED, None, NOTHING),
    Row("tokenizers.bpe.source", REQUIRED, None, NOTHING),
    Row("architectures.tiny.model_type", REQUIRED, "llama", TEACHER | REFERENCE),
    Row("teachers.copied.tokenizer", REQUIRED, "hub", {"teacher_scores", "pilot_teacher_scores"} | CATALOG),
    Row("teachers.copied.model.path", REQUIRED, "moved", NOTHING),
    Row("teachers.copied.model.source", REQUIRED, None, NOTHING),
    Row("teachers.large.model.source", REQUIRED, None, NOTHING),
    Row("teachers.fetched.model.source", REQUIRED, None, NOTHING),
    Row("teachers.large.model", REQUIRED, {"source": "hub", "id": "a/b", "revision": HASH}, TEACHER),
    Row("teachers.large.model.architecture", REQUIRED, "other", TEACHER),
    Row("teachers.large.model.shards", ("*",), ["a.*"], TEACHER),
    Row("teachers.large.owners", (), ["a@b.c"], NOTHING),
    Row(
        "teachers.fetched.model.id",
        REQUIRED,
        "a/c",
        {"teacher_model", "teacher_scores", "pilot_teacher_scores"} | CATALOG,
    ),
    Row(
        "teachers.fetched.model.revision",
        REQUIRED,
        HASH[::-1],
        {"teacher_model", "teacher_scores", "pilot_teacher_scores"} | CATALOG,
    ),
    Row("teachers.fetched.model.num_parameters", None, 5, NOTHING),
    Row("references.small.model.architecture", REQUIRED, "other", REFERENCE),
    Row("references.small.model.shards", ("*",), ["a.*"], REFERENCE),
    Row("teachers.large.scoring.backend", "torch", "vllm", TEACHER_SCORES),
    Row("teachers.large.scoring.dtype", "float32", "bfloat16", TEACHER_SCORES),
    Row("teachers.large.scoring.begin_of_sequence", "model", "none", TEACHER_SCORES),
    Row("references.small.scoring.dtype", "float32", "bfloat16", REFERENCE_SCORES),
    Row(
        "teachers.large.scoring.score_after_end_of_document references.small.scoring.score_after_end_of_document",
        False,
        True,
        TEACHER_SCORES | REFERENCE_SCORES,
    ),
    Row("teachers.large.scoring.keep_token_logprobs", False, True, {"teacher_scores"} | AFTER_SCORES),
    Row("teachers.large.scoring.keep_tokens.method", "sampled", "top_k", {"teacher_scores"} | AFTER_SCORES, "kept"),
    Row("teachers.large.scoring.keep_tokens.number", 12, 5, {"teacher_scores"} | AFTER_SCORES, "kept"),
    Row("teachers.large.scoring.keep_tokens.seed", 0, 5, {"teacher_scores"} | AFTER_SCORES, "kept"),
    Row("teachers.large.scoring.device", "auto", "cpu", NOTHING),
    Row("teachers.large.scoring.tokens_per_batch", 16_384, 5, NOTHING),
    Row("teachers.large.scoring.sequences_per_part", 4_096, 5, NOTHING),
    Row("teachers.large.scoring.engine", "local", "ray", NOTHING),
    Row("teachers.large.scoring.num_workers", None, 3, NOTHING, "ray"),
    Row("teachers.large.scoring.tensor_parallel_size", 1, 2, NOTHING, "vllm"),
    Row("teachers.large.scoring.compile", None, False, NOTHING, "vllm"),
    Row("pilot.share", REQUIRED, 0.2, {"pilot_teacher_scores", "pilot_reference_scores", "pilot"} | COSTS),
    Row("pilot.max_share_below_zero", 0.5, 0.6, {"pilot"} | CATALOG),
    Row("pilot.min_spread_nats_per_token", 0.05, 0.1, {"pilot"} | CATALOG),
    Row("pilot.max_rank_correlation_with_one_model", 0.95, 0.9, {"pilot"} | CATALOG),
    Row("selections.half.teacher selections.again.teacher", None, "copied", SELECTION),
    Row("selections.half.reference selections.again.reference", None, "other", SELECTION),
    Row("selections.hard.scale_correction", "none", "residual", {"pilot"} | CORRECTED | RANK, "hard"),
    Row(
        "selections.corrected.scale_correction",
        "none",
        "residual",
        {"pilot"} | CORRECTED - {"score_scales"} | RANK,
        "corrected",
    ),
    Row("selections.hard.order", "highest", "lowest", {"pilot", "reversed_scores"} | RANK, "hard"),
    Row("selections.hard.temperature", None, 2.0, {"pilot", "random_scores", "perturbed_scores"} | RANK, "hard"),
    Row("selections.hard.rank_by", "nats_per_token", "nats_per_byte", {"pilot", "scored_bytes"} | PER_BYTE, "hard"),
    Row("references.foreign.tokenizer", REQUIRED, "local", {"retokenised_sequences"} | READ_ANEW, "unlike"),
    Row("references.foreign.scoring.dtype", "float32", "bfloat16", READ_ANEW, "unlike"),
    Row("references.foreign.scoring.keep_token_logprobs", False, True, NOTHING, "unlike"),  # of its own sequences
    Row(
        "tokenizers.hub.revision",
        REQUIRED,
        HASH[::-1],
        {"tokenizer", "sequences", "retokenised_sequences"} | READ_ANEW,
        "unlike",
    ),
    Row("selections.unlike.keep_fraction", None, 0.4, RANK, "unlike"),
    Row(
        "teachers.large.scoring.score_after_end_of_document references.small.scoring.score_after_end_of_document "
        "references.foreign.scoring.score_after_end_of_document",
        False,
        True,
        (TEACHER_SCORES | REFERENCE_SCORES | READ_ANEW | {"retokenised_sequences", "scored_bytes"})
        - {"pilot", "pilot_teacher_scores", "pilot_reference_scores"},
        "unlike",
    ),
    Row("selections.soft.temperature", None, 2.0, {"pilot", "perturbed_scores"} | RANK, "soft"),
    Row("selections.soft.seed", None, 5, {"pilot", "random_scores", "perturbed_scores"} | RANK, "soft"),
    Row("selections.drawn.seed", None, 5, {"random_scores"} | RANK, "drawn"),
    Row("selections.drawn.seed", None, 1, NOTHING, "drawn"),  # the experiment's one
    Row("selections.drawn.tokenizer", None, "hub", {"random_scores", "corpus_profile"} | RANK, "drawn"),
    Row("selections.drawn.score", "difference", "prior", {"random_scores"} | PRIOR | RANK, "drawn"),
    Row(
        "selections.after.pre_filter",
        None,
        "other",
        SURVIVING | {"difference_scores"} | RANK - {"corpus_profile"} - OVERLAP,
        "filtered",
    ),
    Row(
        "selections.guessed.proxy.share",
        REQUIRED,
        0.2,
        {"sampled_teacher_scores", "sampled_reference_scores"} | LEARNT,
        "guessed",
    ),
    Row("selections.guessed.proxy.held_out_share", 0.1, 0.2, LEARNT, "guessed"),
    Row("selections.guessed.proxy.min_rank_correlation", 0.5, 0.6, {"proxy_agreement"} | CATALOG, "guessed"),
    Row("selections.guessed.proxy.shards", ("*",), ["a.*"], LEARNT, "guessed"),
    Row(
        "selections.guessed.rank_by",
        "nats_per_token",
        "nats_per_sequence",
        {"pilot", "proxy_agreement"} | PREDICTED - {"proxy_differences"},
        "guessed",
    ),
    Row("selections.drawn.unwanted_domains", (), ["noise"], {"labelled_scores"} | RANK, "drawn"),
    Row("selections.drawn.within", None, "domain", {"domain_places"} | RANK, "drawn"),
    Row("selections.half.keep_fraction selections.again.keep_fraction", None, 0.4, SELECTION),
    Row("selections.half.rank_by selections.again.rank_by", "nats_per_token", "nats_per_sequence", SELECTION),
    Row("selections.half.owners", (), ["a@b.c"], NOTHING),
    Row("selections.half.agreement.backend", None, "vllm", SECOND | COSTS),
    Row("selections.half.agreement.dtype", None, "bfloat16", NOTHING),
    Row("selections.half.agreement.dtype", None, "float16", SECOND | COSTS),
    Row("selections.half.agreement.num_random", 512, 20, SECOND | COSTS),
    Row("selections.half.agreement.num_around_cutoff", 512, 20, SECOND | COSTS),
    Row("selections.half.agreement.max_mean_difference_nats_per_token", None, 0.1, {"score_agreement"} | CATALOG),
    Row("selections.half.agreement.max_difference_nats_per_token", None, 0.1, {"score_agreement"} | CATALOG),
    Row("selections.half.agreement.min_rank_correlation", None, 0.9, {"score_agreement"} | CATALOG),
    Row("selections.half.agreement.max_flip_share", None, 0.1, {"score_agreement"} | CATALOG),
    # The same cutoff by another name, which the report tells.
    Row("selections.again.rescoring.around", REQUIRED, "third", {"report"}, "third"),
    Row("selections.again.rescoring.within_nats", REQUIRED, 0.2, RESCORED | MARTS | STUDENT),
    Row("selections.again.rescoring.backend", None, "vllm", RESCORED | MARTS | STUDENT),
    Row("selections.again.rescoring.dtype", None, "bfloat16", NOTHING),
    Row("selections.again.rescoring.dtype", None, "float16", RESCORED | MARTS | STUDENT),
    Row("selections.again.token_budget", None, 9, SELECTION - SECOND - RESCORED - {"difference_scores"}, "budget"),
    Row("students.plain.architecture", REQUIRED, "other", STUDENT),
    Row("students.plain.tokenizer", REQUIRED, "hub", STUDENT),
    Row("students.plain.corpus", "candidates", "refined_corpus/half", STUDENT),
    Row("students.plain.objective.type", "cross_entropy", "cross_entropy", NOTHING),
    Row("students.kd.objective.type", REQUIRED, None, NOTHING, "distilled"),
    Row("students.kd.objective.teacher", REQUIRED, "copied", STUDENT, "distilled"),
    Row("students.kd.objective.dtype", "float32", "bfloat16", STUDENT, "distilled"),
    Row("students.kd.objective.weight", 0.5, 0.4, STUDENT, "distilled"),
    Row("students.kd.objective.temperature", 1.0, 2.0, STUDENT, "distilled"),
    Row("students.kd.objective.divergence", "forward_kl", "jsd", STUDENT, "distilled"),
    Row("students.some.objective.type", REQUIRED, None, NOTHING, "distilled"),
    Row("students.some.objective.teacher", REQUIRED, "copied", STUDENT, "distilled"),
    Row("students.some.objective.reference", REQUIRED, "other", STUDENT, "distilled"),
    Row("students.some.objective.keep_fraction", 0.6, 0.5, STUDENT, "distilled"),
    Row("students.plain.training.last_checkpoints.number", REQUIRED, 3, STUDENT, "last"),
    Row("students.plain.training.last_checkpoints.apart", 0.02, 0.05, STUDENT, "last"),
    Row("students.equal.training.same_flops_as", None, "plain", STUDENT, "distilled"),
    Row("students.plain.objective.type", REQUIRED, None, NOTHING, "sparse_kd"),
    Row("students.plain.objective.teacher", REQUIRED, "copied", STUDENT, "sparse_kd"),
    Row("students.plain.objective.weight", 0.5, 0.4, STUDENT, "sparse_kd"),
    Row("students.plain.objective.type", REQUIRED, None, NOTHING, "minillm"),
    Row("students.plain.objective.teacher", REQUIRED, "copied", STUDENT, "minillm"),
    Row("students.plain.objective.dtype", "float32", "bfloat16", STUDENT, "minillm"),
    Row("students.plain.objective.num_sampled_tokens", 256, 15, STUDENT, "minillm"),
    Row("students.plain.objective.teacher_mix", 0.2, 0.1, STUDENT, "minillm"),
    Row("students.plain.objective.length_normalised", True, False, STUDENT, "minillm"),
    Row("students.plain.objective.pretraining_weight", 1.0, 0.0, STUDENT, "minillm"),
    Row("students.plain.seeds", (), [5], STUDENT),
    Row("students.plain.seeds", (), [1], NOTHING),  # the experiment's one
    Row("students.plain.baseline", None, "better", REPORTS - {"scaling_laws"}),
    Row("students.plain.owners", (), ["a@b.c"], NOTHING),
    Row("publishing.students.better.license", None, "mit", {"exported_student"}, "published"),
    Row("publishing.selections.half.license", None, "mit", {"exported_corpus"}, "published"),
    Row("corpus.source.path", REQUIRED, "moved", LISTING | EXPORTED, "published"),
    Row("teachers.large.scoring.dtype", "float32", "bfloat16", TEACHER_SCORES | EXPORTED, "published"),
    Row("teachers.large.scoring.device", "auto", "cpu", NOTHING, "published"),
    Row("students.better.training.weight_decay", 0.01, 0.1, STUDENT | {"exported_student"}, "published"),
    Row("evaluation.excluded_domains", (), ["noise"], EVALUATED | {"exported_student"}, "published"),
    Row("generations.continued.teacher", REQUIRED, "copied", GENERATED, "generated"),
    Row("generations.continued.corpus", "candidates", "refined_corpus/half", GENERATED, "generated"),
    Row("generations.continued.prompt_tokens", None, 47, GENERATED, "generated"),
    Row("generations.continued.prompt_tokens", None, 48, NOTHING, "generated"),  # three quarters
    Row("generations.continued.prompt_has_loss", True, False, STUDENT, "generated"),
    Row("generations.continued.sampling.do_sample", False, True, GENERATED, "generated"),
    Row("generations.drawn.sampling.temperature", 1.0, 0.7, GENERATED - STUDENT | CATALOG, "generated"),
    Row("generations.drawn.sampling.top_k", None, 5, GENERATED - STUDENT | CATALOG, "generated"),
    Row("generations.drawn.sampling.top_p", None, 0.9, GENERATED - STUDENT | CATALOG, "generated"),
    Row("generations.drawn.sampling.seed", None, 5, GENERATED - STUDENT | CATALOG, "generated"),
    Row("generations.drawn.sampling.seed", None, 1, NOTHING, "generated"),  # the experiment's one
    Row("generations.continued.dtype", "float32", "bfloat16", GENERATED, "generated"),
    Row("generations.continued.begin_of_sequence", "model", "none", GENERATED, "generated"),
    Row("generations.continued.sequences_per_batch", 64, 32, GENERATED, "generated"),
    Row("generations.continued.sequences_per_part", 1_024, 5, NOTHING, "generated"),
    Row("generations.continued.device", "auto", "cpu", NOTHING, "generated"),
    Row("generations.continued.backend", "torch", "vllm", GENERATED, "generated"),
    Row("generations.continued.engine", "local", "ray", NOTHING, "generated"),
    Row("generations.continued.num_workers", None, 3, NOTHING, "generated_on_ray"),
    Row("generations.continued.tensor_parallel_size", 1, 2, NOTHING, "generated_by_vllm"),
    Row("generations.continued.owners", (), ["a@b.c"], NOTHING, "generated"),
    Row("students.seqkd.corpus", "candidates", "generated_corpus/drawn", STUDENT, "generated"),
    Row("teachers.large.model.training.token_budget", REQUIRED, 11, TEACHER | GENERATED, "generated"),
    Row("teachers.large.scoring.dtype", "float32", "bfloat16", TEACHER_SCORES, "generated"),  # it writes all the same
    Row("selections.half.keep_fraction selections.again.keep_fraction", None, 0.4, SELECTION, "generated"),
    Row("sequences.sequence_length", 1_024, 32, AFTER_TOKENIZER | GENERATED, "generated"),
    Row("students.foreign.tokenizer", REQUIRED, "local", RETOKENISED, "families"),
    Row("students.foreign.tokenizer", REQUIRED, "bpe", RETOKENISED, "families"),  # in which the selection is
    Row("students.foreign.corpus", "candidates", "refined_corpus/again", RETOKENISED, "families"),
    Row("students.plain.tokenizer", REQUIRED, "hub", STUDENT, "families"),  # of the candidates
    Row("selections.half.keep_fraction selections.again.keep_fraction", None, 0.4, SELECTION | RETOKENISED, "families"),
    Row("sequences.sequence_length", 1_024, 32, AFTER_TOKENIZER | RETOKENISED, "families"),
    Row("sequences.trim_to_sentence_end", True, False, AFTER_TOKENIZER | RETOKENISED, "families"),
    Row("tokenizers.hub.revision", REQUIRED, HASH[::-1], {"tokenizer", "sequences"} | RETOKENISED, "families"),
    Row("corpus.fields.text_field", "text", "content", DOCUMENTS | RETOKENISED, "families"),
    Row("corpus.expected_tokens", None, 7, NOTHING, "families"),
    Row("evaluation.excluded_domains", (), ["noise"], {"student_evaluation"} | REPORTS),
    Row("evaluation.texts.own.path", REQUIRED, "moved", NOTHING, "beside"),  # the content counts
    Row("evaluation.texts.own.fields.text_field", "text", "body", BESIDE, "beside"),
    Row("evaluation.texts.own.fields.domain_field", None, "kind", BESIDE, "beside"),
    Row("evaluation.texts.own.fields.max_document_bytes", 10_000_000, 9, BESIDE, "beside"),
    Row("evaluation.tasks.names", REQUIRED, ["held_out_cloze"], HELD_OUT_TASKS, "asked"),
    Row("evaluation.tasks.names", REQUIRED, ["mine", "held_out_cloze", "held_out_bits_per_byte"], TASKS, "asked"),
    Row("evaluation.tasks.num_fewshot", 0, 5, TASKS, "asked"),
    Row("evaluation.tasks.limit", None, 5, TASKS, "asked"),
    Row("evaluation.tasks.folder", None, "moved", NOTHING, "asked"),  # the content counts
    Row("evaluation.tasks.backend", "torch", "vllm", ASKED, "asked"),
    Row("evaluation.tasks.dtype", "float32", "bfloat16", ASKED, "asked"),
    Row("evaluation.tasks.requests_per_batch", 16, 5, NOTHING, "asked"),
    Row("evaluation.tasks.held_out.num_documents", 500, 5, HELD_OUT_TASKS, "asked"),
    Row("evaluation.tasks.held_out.context_characters", 200, 5, HELD_OUT_TASKS, "asked"),
    Row("evaluation.tasks.held_out.continuation_characters", 80, 5, HELD_OUT_TASKS, "asked"),
    Row(
        "evaluation.excluded_domains",
        (),
        ["noise"],
        {"student_evaluation"} | REPORTS | HELD_OUT_TASKS,
        "asked",
    ),
    Row("students.better.training.weight_decay", 0.01, 0.1, STUDENT | ASKED, "asked"),
    Row("students.plain.baseline", None, "better", (REPORTS - {"scaling_laws"}) | {"task_comparison"}, "asked"),
    Row("sequences.sequence_length", 1_024, 32, AFTER_TOKENIZER | ASKED, "asked"),
    Row("reporting.paper", {}, {"plain": "200M no KD"}, {"report"}),
    Row("automation.seconds_between_looks", 15, 5, NOTHING),
    Row("automation.quiet_seconds", 60, 5, NOTHING),
    Row("automation.nightly", "0 3 * * *", "0 4 * * *", NOTHING),
    Row("automation.timezone", "UTC", "Europe/Berlin", NOTHING),
    Row("automation.keep_runs", 200, 10, NOTHING),
    Row("automation.fresh_within_hours", {}, {"documents": 24}, NOTHING),
    Row("automation.on_failure", (), ["MINIPLM_FAILURE_URLS"], NOTHING),
]
for _name, _default, _other in (
    ("token_budget", REQUIRED, 11),  # of a student: it may name another instead
    ("sequences_per_step", 512, 3),
    ("peak_learning_rate", 6e-4, 1e-3),
    ("final_learning_rate_share", 0.1, 0.2),
    ("warmup_share", 0.02, 0.1),
    ("beta1", 0.9, 0.8),
    ("beta2", 0.98, 0.9),
    ("epsilon", 1e-6, 1e-8),
    ("weight_decay", 0.01, 0.1),
    ("decay_norms_and_biases", False, True),
    ("gradient_clip", 1.0, 2.0),
    ("loss_mean_over", "tokens", "sequences"),
    ("later_epochs", "reshuffled", "repeated"),
    ("dtype", "float32", "bfloat16"),
):
    ROWS += [
        Row(f"teachers.large.model.training.{_name}", _default, _other, TEACHER),
        Row(f"references.small.model.training.{_name}", _default, _other, REFERENCE),
        Row(f"students.plain.training.{_name}", None if _default is REQUIRED else _default, _other, STUDENT),
    ]
for _name, _default, _other in (
    ("token_budget", REQUIRED, 11),
    ("sequences_per_step", 64, 3),
    ("peak_learning_rate", 1e-4, 1e-3),
    ("final_learning_rate_share", 0.1, 0.2),
    ("warmup_share", 0.05, 0.1),
    ("weight_decay", 0.01, 0.1),
    ("gradient_clip", 1.0, 2.0),
    ("dtype", "float32", "bfloat16"),
):
    ROWS += [Row(f"selections.guessed.proxy.training.{_name}", _default, _other, LEARNT, "guessed")]
for _name, _default, _other in (("sequences_per_device", None, 1), ("checkpoint_minutes", 10.0, 1.0)):
    ROWS += [Row(f"selections.guessed.proxy.training.{_name}", _default, _other, NOTHING, "guessed")]
for _name, _default, _other in (
    ("num_evaluations", 20, 5),
    ("num_held_out_sequences", 512, 7),
    ("sequences_per_device", None, 1),
    ("checkpoint_minutes", 10.0, 1.0),
    ("gradient_checkpointing", False, True),
    ("compile", False, True),
    ("num_processes", 1, 2),
    ("parallelism", "ddp", "fsdp"),
    ("max_loss_rise_nats_per_token", None, 1.5),
    ("reporters", (), ["wandb"]),
    ("num_nodes", 1, 2),
):
    # The comparison alone says where a student was measured less than the file asks for.
    _shown = COMPARISON if _name in ("num_evaluations", "num_held_out_sequences") else NOTHING
    _variant = "spread" if _name == "num_nodes" else ""
    ROWS += [
        Row(f"teachers.large.model.training.{_name}", _default, _other, NOTHING, _variant),
        Row(f"references.small.model.training.{_name}", _default, _other, NOTHING, _variant),
        Row(f"students.plain.training.{_name}", _default, _other, _shown, _variant),
    ]


def third(content: dict[str, Any]) -> None:
    """Another selection like the first."""
    half = content["selections"]["half"]
    content["selections"]["third"] = {name: half[name] for name in ("teacher", "reference", "keep_fraction")}


def budget(content: dict[str, Any]) -> None:
    """One selection, by a token budget."""
    content["selections"]["again"] = {"teacher": "large", "reference": "small", "token_budget": 8}


def one_more(name: str, **settings: Any) -> Callable[[dict[str, Any]], object]:
    """Another selection, which nobody learns from."""
    return lambda content: content["selections"].update({name: {"keep_fraction": 0.5, **settings}})


def filtered(content: dict[str, Any]) -> None:
    """Three more, the last of which ranks what the first keeps."""
    for name, settings in (("drawn", {"seed": 5}), ("other", {"seed": 6})):
        one_more(name, score="random", tokenizer="bpe", **settings)(content)
    one_more("after", **PAIR, pre_filter="drawn")(content)


def unlike(content: dict[str, Any]) -> None:
    """One more, of two tokenizers; without a pilot, which needs one."""
    del content["pilot"]
    content["references"]["foreign"] = {"tokenizer": "hub", "model": content["teachers"]["fetched"]["model"]}
    one_more("unlike", teacher="large", reference="foreign", rank_by="nats_per_byte")(content)


def distilled(content: dict[str, Any]) -> None:
    """Every objective but cross-entropy, and a student that costs what another costs."""
    student = {"architecture": "tiny", "tokenizer": "bpe", "training": {"token_budget": 10}, "baseline": "plain"}
    content["students"]["kd"] = {**student, "objective": {"type": "vanilla_kd", "teacher": "large"}}
    for of in ("teachers", "references"):
        for one in content[of].values():
            one["scoring"] = {"keep_token_logprobs": True}
    content["students"]["some"] = {
        **student,
        "objective": {"type": "token_selection", "teacher": "large", "reference": "small"},
    }
    content["students"]["equal"] = {**student, "training": {"same_flops_as": "kd"}}


def kept(content: dict[str, Any]) -> None:
    """Two teachers whose scores keep tokens of their distributions."""
    for name in ("large", "copied"):
        content["teachers"][name]["scoring"] = {"keep_tokens": {}}


def last(content: dict[str, Any]) -> None:
    """A student whose last states are kept."""
    content["students"]["plain"]["training"]["last_checkpoints"] = {"number": 2}


def spread(content: dict[str, Any]) -> None:
    """Models that two processes train."""
    for model in (content["teachers"]["large"]["model"], content["references"]["small"]["model"]):
        model["training"]["num_processes"] = 2
    content["students"]["plain"]["training"]["num_processes"] = 2


def sparse_kd(content: dict[str, Any]) -> None:
    """A student that learns from these."""
    kept(content)
    content["students"]["plain"]["objective"] = {"type": "sparse_kd", "teacher": "large"}


def guessed(content: dict[str, Any]) -> None:
    """One more, with a proxy."""
    one_more("guessed", **PAIR, proxy={"share": 0.1, "training": {"token_budget": 10}})(content)


def generated(content: dict[str, Any]) -> None:
    """A student of what a teacher wrote; and a corpus that is drawn, which nobody learns from."""
    content["generations"] = {
        "continued": {"teacher": "large"},
        "drawn": {"teacher": "large", "sampling": {"do_sample": True}},
    }
    seqkd = {**content["students"]["plain"], "corpus": "generated_corpus/continued", "baseline": "plain"}
    content["students"]["seqkd"] = seqkd


def generated_by(**settings: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        generated(content)
        content["generations"]["continued"].update(settings)

    return change


def families(content: dict[str, Any]) -> None:
    """A student of another tokenizer, of what the first selection keeps."""
    student = {"architecture": "other", "tokenizer": "hub", "training": {"token_budget": 10}}
    content["students"]["foreign"] = {**student, "corpus": "refined_corpus/half", "baseline": "plain"}


PAIR = {"teacher": "large", "reference": "small"}
VARIANTS |= {
    "families": families,
    "unlike": unlike,
    "distilled": distilled,
    "last": last,
    "kept": kept,
    "sparse_kd": sparse_kd,
    "spread": spread,
    "third": third,
    "budget": budget,
    "hard": one_more("hard", **PAIR),
    "corrected": one_more("corrected", **PAIR, scale_correction="standardised"),
    "soft": one_more("soft", **PAIR, temperature=1.0),
    "drawn": one_more("drawn", score="random", tokenizer="bpe"),
    "filtered": filtered,
    "guessed": guessed,
    "generated": generated,
    "generated_on_ray": generated_by(engine="ray"),
    "generated_by_vllm": generated_by(backend="vllm"),
}


def set_at(content: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        content = content.setdefault(name, {})
    if value is not None:
        content[last] = value


SQL = load_sql_project(PROJECT / "dbt_like_sql")
KINDS = all_kinds(SQL)


def fingerprints(content: dict[str, Any]) -> dict[str, str]:
    """Return the fingerprint of every result and every piece of one, by its address."""
    graph = build_graph(KINDS, Experiment.model_validate(content), SQL)
    found = Fingerprints(graph, SHARDS, lambda node: fingerprint_of(node.names))
    whole = {key: found.recipe(key).fingerprint for key in graph}
    pieces = {
        f"{key} {piece}": recipe.fingerprint
        for key, node in graph.items()
        for piece, recipe in (found.pieces(key) if node.kind.pieces else {}).items()
    }
    return whole | pieces


@cache
def before_of(variant: str) -> dict[str, str]:
    return fingerprints(content_of(variant))


def content_of(variant: str) -> dict[str, Any]:
    content = experiment()
    VARIANTS[variant](content)
    return content


def kind_of(address: str) -> str:
    return address.partition(" ")[0].rpartition("/")[2]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.paths} {row.other} {row.variant}".strip())
def test_a_setting_changes_the_results_that_it_is_for_and_no_others(row):
    before = before_of(row.variant)
    content = content_of(row.variant)
    for path in row.paths.split():
        set_at(content, path, row.other)
    after = fingerprints(content)
    assert {kind_of(key) for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == row.kinds


def sections(annotation: Any) -> Iterator[type[Settings]]:
    """Go through the sections that a type of the schema holds, at every depth."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
        for declared in annotation.model_fields.values():
            yield from sections(declared.annotation)
    for inner in typing.get_args(annotation):
        yield from sections(inner)


def declared_at(content: dict[str, Any], path: str) -> tuple[type[Settings], str] | None:
    """Return the section and the name of a setting; None for what lies in a free-form value."""
    section: Any = Experiment.model_validate(content)
    *parents, last = path.split(".")
    for name in parents:
        section = section[name] if isinstance(section, dict) else getattr(section, name)
    return (type(section), last) if isinstance(section, Settings) else None


def test_every_setting_stands_in_the_table_with_its_default():
    defaults = {}
    for row in ROWS:
        for path in row.paths.split():
            declared = declared_at(content_of(row.variant), path)
            if declared is not None:
                defaults[declared] = row.default
    leaves = {
        (section, name): REQUIRED if declared.is_required() else declared.get_default(call_default_factory=True)
        for section in set(sections(Experiment))
        for name, declared in section.model_fields.items()
        if not set(sections(declared.annotation)) and (section, name) != (Experiment, "architectures")
    }
    missing = {f"{section.__name__}.{name}" for section, name in leaves.keys() - defaults.keys()}
    assert not missing
    assert {key: defaults[key] for key in leaves} == leaves


def test_the_fingerprints_of_a_release_are_those_of_the_next():
    """Pinned: where one changes, results that are stored in the world are made anew. It must be meant."""
    found = before_of("")
    pinned = {}
    for key, fingerprint in sorted(found.items()):
        if kind_of(key) in MARTS | {"corpus_profile"}:
            continue  # their code version follows from their SQL, which changes when it is meant to
        pinned.setdefault(kind_of(key), []).append(fingerprint)
    assert {kind: fingerprint_of(values)[:8] for kind, values in pinned.items()} == {
        "agreement_reference_scores": "ca50bcbb",
        "agreement_teacher_scores": "0346ac57",
        "break_even": "7fcf81f3",
        "comparison": "f805517d",
        "documents": "f84e4e6d",
        "ledger": "342fb79e",
        "pilot": "f5c15bd4",
        "pilot_reference_scores": "018fd049",
        "pilot_teacher_scores": "e12f31b5",
        "raw_corpus": "8e03ba79",
        "reference_model": "90f97875",
        "reference_scores": "8c8ef7fc",
        "report": "dcdedec7",
        "rescored_reference_scores": "20e2ca2b",
        "rescored_teacher_scores": "7f0b9847",
        "score_agreement": "f0cbed8d",
        "scaling_laws": "78b8c673",
        "sequences": "c8141972",
        "student_checkpoint": "1d38465b",
        "student_differences": "63fd29b8",
        "student_evaluation": "d393df78",
        "teacher_model": "77dd325a",
        "teacher_scores": "61000757",
        "tokenizer": "3788cd1e",
        "warehouse_catalog": "3e120cac",
    }


def test_another_seed_of_a_student_is_one_more_result_and_leaves_the_first():
    content = experiment()
    content["students"]["better"]["seeds"] = [1, 2]
    before, after = before_of(""), fingerprints(content)
    assert after.keys() - before.keys() == {"better/student_checkpoint 2", "better/student_evaluation 2"}
    assert {key for key in before if before[key] != after[key]} == {
        "better/student_checkpoint",
        "better/student_evaluation",
        "student_differences",
        "comparison",
        "ledger",
        "break_even",
        "scaling_laws",
        "report",
        "warehouse_catalog",
    }


def test_students_of_one_tokenizer_share_what_is_tokenised_anew_and_others_do_not():
    content = content_of("families")
    content["students"]["second"] = dict(content["students"]["foreign"])
    content["students"]["third"] = {**content["students"]["foreign"], "tokenizer": "local"}
    found = {key for key in fingerprints(content) if kind_of(key) == "refined_sequences"}
    assert found == {
        f"half/{tokenizer}/refined_sequences{piece}"
        for tokenizer in ("hub", "local")
        for piece in ("", " a.jsonl", " b.jsonl")
    }


def test_a_name_is_no_content():
    """What is renamed is the same result; only what shows names is another one."""
    content = experiment()
    content["teachers"] = {{"large": "renamed"}.get(name, name): one for name, one in content["teachers"].items()}
    for selection in content["selections"].values():
        selection["teacher"] = "renamed"
    content["students"]["plain_renamed"] = content["students"].pop("plain")
    for name in ("better", "again"):
        content["students"][name]["baseline"] = "plain_renamed"
    content["tokenizers"]["bpe_renamed"] = content["tokenizers"].pop("bpe")
    for section in ("teachers", "references", "students"):
        for one in content[section].values():
            one["tokenizer"] = "bpe_renamed"
    before, after = before_of(""), fingerprints(content)

    def by_kind(found: dict[str, str]) -> set[tuple[str, str]]:
        return {(kind_of(key), fingerprint) for key, fingerprint in found.items() if kind_of(key) not in REPORTS}

    assert by_kind(before) == by_kind(after)


def test_an_unrelated_selection_and_a_student_that_nobody_compares_leave_the_comparison():
    content = experiment()
    content["selections"]["third"] = {"teacher": "copied", "reference": "small", "keep_fraction": 0.1}
    before, after = before_of(""), fingerprints(content)
    assert {key for key in before if before[key] != after[key]} == CATALOG | OVERLAP


def test_what_is_named_has_its_own_owners_or_those_of_the_whole():
    content = experiment() | {"owners": ["team:all"]}
    for section, name in (
        ("teachers", "large"),
        ("references", "small"),
        ("selections", "half"),
        ("students", "plain"),
    ):
        content[section][name]["owners"] = [f"team:{name}"]
    graph = build_graph(KINDS, Experiment.model_validate(content), SQL)
    named = {"large", "small", "half", "plain"}
    for node in graph.values():
        expected = f"team:{node.names[0]}" if named.intersection(node.names[:1]) else "team:all"
        assert node.owners == (expected,), node.key


def test_a_folder_goes_in_as_the_fingerprint_of_its_content():
    graph = build_graph(KINDS, Experiment.model_validate(experiment()), SQL)
    found = Fingerprints(graph, SHARDS, lambda node: f"content of {node.key}")
    for key in ("local/tokenizer", "copied/teacher_model"):
        assert found.recipe(key).settings == {"source": "folder", "content": f"content of {key}"}
