"""The names of settings in TRL's GRPOConfig, and in the classes that are used with it.

These are TrainingArguments, ModelConfig, ScriptArguments (dataset_name) and GRPOTrainer (reward_funcs). The names of
GRPOConfig are from TRL's public grpo_config.py; max_prompt_length is a name of its older versions. An entry is as in
`mars.config.verl_names`.
"""

from __future__ import annotations

_MICRO_BATCH = "actor.tokens_per_forward (micro-batches are counted in padded tokens, not completions)"
_UPDATE = "actor.prompts_per_update (prompts of one optimizer step over all ranks, not completions)"
_EVALUATE = "evaluation.every (0 is never)"
_IMPORTANCE = "algorithm.importance_cap (null is no correction)"
_REFERENCE = "algorithm.reference_every (null is never)"
RESUMING = "run.resume (true goes on from the newest checkpoint in run.dir; mars resume does the same)"
_RATE = "- the learning rate stays as it is after its warm-up"

TRL = {
    "adam_beta1": "actor.betas (a list of both)",
    "adam_beta2": "actor.betas (a list of both)",
    "attn_implementation": "model.attention",
    "beta": "algorithm.kl_coefficient",
    "bf16": "model.dtype (bfloat16; the trainer keeps float32 weights)",
    "dataset_name": "data.train_files (files, or hub names with @split)",
    "delta": "algorithm.dual_clip",
    "epsilon": "algorithm.clip_low and algorithm.clip_high",
    "epsilon_high": "algorithm.clip_high",
    "eval_steps": _EVALUATE,
    "eval_strategy": _EVALUATE,
    "generation_batch_size": "data.prompts_per_step (prompts, not completions)",
    "gradient_accumulation_steps": _UPDATE,
    "gradient_checkpointing": "actor.gradient_checkpointing",
    "importance_sampling_level": "algorithm.loss (token is clip, sequence is gspo)",
    "learning_rate": "actor.learning_rate",
    "log_completions": "tracking.rollouts_every (they are written in run.dir)",
    "logging_steps": "- every step is logged",
    "lora_alpha": "actor.lora.alpha",
    "lora_dropout": "- adapters have no dropout",
    "lora_r": "actor.lora.rank",
    "lora_target_modules": "actor.lora.targets (a list, [all-linear] for all)",
    "loss_type": (
        "algorithm.reduction (grpo is seq_mean_token_mean, dapo is token_mean, dr_grpo is seq_mean_token_sum_norm; "
        "cispo is algorithm.loss=cispo)"
    ),
    "lr_scheduler_type": _RATE,
    "mask_truncated_completions": "algorithm.truncated_responses (true is mask)",
    "max_completion_length": "rollout.max_response_tokens",
    "max_prompt_length": "data.max_prompt_tokens (a row with a longer prompt is a bad row; nothing is cut off)",
    "max_steps": "run.num_steps (steps of sampling with all their updates, not optimizer steps)",
    "model_name_or_path": "model.path",
    "multi_objective_aggregation": "algorithm.part_weights (weights for normalize_then_sum; {} is sum_then_normalize)",
    "num_completions_to_print": "tracking.rollout_prompts (prompts with all their responses)",
    "num_generations": "rollout.samples_per_prompt",
    "num_generations_eval": "evaluation.samples_per_prompt",
    "num_iterations": "- each rollout is trained on once",
    "num_train_epochs": "run.num_epochs",
    "output_dir": "run.dir",
    "per_device_eval_batch_size": "- an evaluation is one engine call",
    "per_device_train_batch_size": _MICRO_BATCH,
    "ref_model_mixup_alpha": "algorithm.reference_decay (1 - alpha)",
    "ref_model_sync_steps": _REFERENCE,
    "report_to": "tracking.to (a list: [console,wandb])",
    "resume_from_checkpoint": RESUMING,
    "reward_funcs": "reward.function (path/to/file.py:name; one function for each data_source in reward.functions)",
    "reward_weights": "- one function gives the whole score, with its weights",
    "run_name": "run.name",
    "save_steps": "checkpoint.every (0 is at the end of the run only)",
    "save_total_limit": "checkpoint.keep_last",
    "scale_rewards": "algorithm.normalize_std (true is group, false is none)",
    "seed": "run.seed",
    "shuffle_dataset": "data.shuffle",
    "steps_per_generation": "data.prompts_per_step (actor.prompts_per_update times steps_per_generation)",
    "sync_ref_model": _REFERENCE,
    "temperature": "rollout.temperature",
    "top_k": "rollout.top_k",
    "top_p": "rollout.top_p",
    "trust_remote_code": "model.trust_remote_code",
    "use_peft": "actor.lora.rank (0 is off)",
    "use_vllm": "rollout.engine (vllm, or hf)",
    "vllm_enable_sleep_mode": "cluster.placement (colocated: the engine sleeps while the trainer works)",
    "vllm_gpu_memory_utilization": "rollout.vllm.gpu_memory_utilization",
    "vllm_importance_sampling_cap": _IMPORTANCE,
    "vllm_importance_sampling_correction": _IMPORTANCE,
    "vllm_importance_sampling_mode": (
        "algorithm.importance_mode (truncate or mask; for a mode of sequences also algorithm.importance_level=sequence)"
    ),
    "vllm_max_model_length": "rollout.max_model_len",
    "vllm_mode": "cluster.placement (colocate is colocated, server is separate)",
    "vllm_tensor_parallel_size": "rollout.tensor_parallel_size",
    "warmup_ratio": "actor.warmup_steps (a number of optimizer steps, not a share)",
    "warmup_steps": "actor.warmup_steps",
    "weight_decay": "actor.weight_decay",
}
