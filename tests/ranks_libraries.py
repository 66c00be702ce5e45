"""What a process that trains imports, for the one that ranks are forked from."""

import accelerate
import torch
import torch.distributed.fsdp
import transformers.trainer

import miniplm_assets.training.trainer
import tests.test_training

LIBRARIES = (accelerate, torch, transformers, miniplm_assets, tests)
