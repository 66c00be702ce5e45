"""Evaluates a random model on the tasks of a folder, by one of the backends; writes down its answers."""

import json
import sys
from pathlib import Path

from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.corpus.tokenizer import load_tokenizer, train_tokenizer
from miniplm_assets.evaluation.evaluated_tasks import evaluate_task
from miniplm_assets.evaluation.loaded_tasks import open_tasks
from miniplm_assets.experiment import Tasks

SHAPE = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
}


def write_student(folder: Path) -> Path:
    """Write a model of random weights, and a tokenizer of this file's own text."""
    if not folder.is_dir():
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPE))
        model.save_pretrained(folder)
        train_tokenizer([Path(__file__).read_text(encoding="utf-8")], vocab_size=300, folder=folder)
    return folder


def main(place: Path, backend: str) -> None:
    """Evaluate, and write the answers."""
    from miniplm_assets.evaluation.harness_model import open_student

    student_folder = write_student(place / "student")
    names = ["mine", "last_word", "written", "bits"]
    answers = []
    with (
        open_tasks(names, place / "tasks", num_fewshot=0, limit=None) as loaded,
        open_student(
            student_folder,
            Tasks(names=names, backend=backend),
            max_tokens=64,
            end_of_document_id=load_tokenizer(student_folder).end_of_document_id,
            report=print,
            look=lambda: None,
        ) as (student, requests),
    ):
        for task in loaded:
            requests.begin(task.name)
            answers += evaluate_task(task, task.describe(), student)[1]
            assert requests.num_requests == requests.num_passed or task.name == "written", task.name
    (place / f"{backend}.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except MiniplmError as error:
        sys.exit(str(error))
