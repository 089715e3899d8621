"""verl's, EasyR1's and TRL's names of settings and mars' names for them, in error messages and docs/coming_from.md.

An entry is mars' key or keys, followed in brackets by how values differ; or "-" and why there is no such key.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mars.config.trl_names import RESUMING, TRL

_GPUS = "- set the number of workers over all nodes instead: actor.num_workers and rollout.num_workers"
_SAVING = "checkpoint.every (0 is at the end of the run only, not -1)"
_OFFLOAD = "actor.offload (cpu is true; it moves weights, gradients, optimizer states alike)"
_MICRO_BATCH = "actor.tokens_per_forward (micro-batches are counted in padded tokens, not rows)"
_ADVANTAGE = "algorithm.estimator (grpo is group_norm, rloo is leave_one_out)"
_KL_ESTIMATOR = "algorithm.kl_estimator (kl is k1, mse is k2, low_var_kl is k3, abs is abs)"
_WARMUP = "actor.warmup_steps (a number of optimizer steps, not a share)"
_NO_LIMIT = "rollout.top_k (0 is all, not -1)"
_COLUMN = "- columns have fixed names, see docs/data.md"

_SHARED = {
    "algorithm.adv_estimator": _ADVANTAGE,
    "algorithm.gamma": "- a reward belongs to the whole response, nothing is discounted",
    "algorithm.lam": "- there is no critic",
    "algorithm.use_kl_in_reward": "algorithm.kl_placement (true is reward)",
    "data.answer_key": _COLUMN,
    "data.image_key": _COLUMN,
    "data.prompt_key": _COLUMN,
    "data.max_prompt_length": "data.max_prompt_tokens",
    "data.max_response_length": "rollout.max_response_tokens",
    "data.filter_overlong_prompts": "data.on_bad_sample (true is drop; it drops every bad row, not only long prompts)",
    "data.seed": "run.seed",
    "data.val_batch_size": "- an evaluation is one engine call",
    "data.val_files": "data.eval_files",
    "trainer.experiment_name": "run.name",
    "trainer.logger": "tracking.to (a list: [console,wandb])",
    "trainer.n_gpus_per_node": _GPUS,
    "trainer.nnodes": _GPUS,
    "trainer.project_name": "tracking.project",
    "trainer.save_freq": _SAVING,
    "trainer.total_epochs": "run.num_epochs",
    "trainer.val_before_train": "evaluation.before_training",
}

_VERL = {
    "actor_rollout_ref.actor.clip_ratio": "algorithm.clip_low and algorithm.clip_high",
    "actor_rollout_ref.actor.clip_ratio_c": "algorithm.dual_clip",
    "actor_rollout_ref.actor.clip_ratio_high": "algorithm.clip_high",
    "actor_rollout_ref.actor.clip_ratio_low": "algorithm.clip_low",
    "actor_rollout_ref.actor.entropy_coeff": "algorithm.entropy_coefficient",
    "actor_rollout_ref.actor.fsdp_config.fsdp_size": "actor.fsdp_size (null is all ranks, not -1)",
    "actor_rollout_ref.actor.fsdp_config.optimizer_offload": _OFFLOAD,
    "actor_rollout_ref.actor.fsdp_config.param_offload": _OFFLOAD,
    "actor_rollout_ref.actor.grad_clip": "actor.max_grad_norm",
    "actor_rollout_ref.actor.kl_loss_coef": "algorithm.kl_coefficient",
    "actor_rollout_ref.actor.kl_loss_type": _KL_ESTIMATOR,
    "actor_rollout_ref.actor.loss_agg_mode": "algorithm.reduction (with _ for -)",
    "actor_rollout_ref.actor.optim.lr": "actor.learning_rate",
    "actor_rollout_ref.actor.optim.lr_warmup_steps": "actor.warmup_steps",
    "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio": _WARMUP,
    "actor_rollout_ref.actor.optim.weight_decay": "actor.weight_decay",
    "actor_rollout_ref.actor.ppo_epochs": "- each rollout is trained on once",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": "actor.tokens_per_forward",
    "actor_rollout_ref.actor.ppo_micro_batch_size": _MICRO_BATCH,
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": _MICRO_BATCH,
    "actor_rollout_ref.actor.ppo_mini_batch_size": "actor.prompts_per_update",
    "actor_rollout_ref.actor.use_dynamic_bsz": _MICRO_BATCH,
    "actor_rollout_ref.actor.use_kl_loss": "algorithm.kl_coefficient (0 is off)",
    "actor_rollout_ref.model.enable_gradient_checkpointing": "actor.gradient_checkpointing",
    "actor_rollout_ref.model.lora_alpha": "actor.lora.alpha",
    "actor_rollout_ref.model.lora_rank": "actor.lora.rank",
    "actor_rollout_ref.model.target_modules": "actor.lora.targets (a list, [all-linear] for all)",
    "actor_rollout_ref.model.path": "model.path",
    "actor_rollout_ref.model.trust_remote_code": "model.trust_remote_code",
    "actor_rollout_ref.ref.fsdp_config.param_offload": _OFFLOAD,
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": _MICRO_BATCH,
    "actor_rollout_ref.rollout.enforce_eager": "rollout.vllm.enforce_eager",
    "actor_rollout_ref.rollout.gpu_memory_utilization": "rollout.vllm.gpu_memory_utilization",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": _MICRO_BATCH,
    "actor_rollout_ref.rollout.max_model_len": "rollout.max_model_len",
    "actor_rollout_ref.rollout.max_num_seqs": "rollout.max_num_seqs",
    "actor_rollout_ref.rollout.n": "rollout.samples_per_prompt",
    "actor_rollout_ref.rollout.name": "rollout.engine",
    "actor_rollout_ref.rollout.prompt_length": "data.max_prompt_tokens",
    "actor_rollout_ref.rollout.response_length": "rollout.max_response_tokens",
    "actor_rollout_ref.rollout.temperature": "rollout.temperature",
    "actor_rollout_ref.rollout.tensor_model_parallel_size": "rollout.tensor_parallel_size",
    "actor_rollout_ref.rollout.top_k": _NO_LIMIT,
    "actor_rollout_ref.rollout.top_p": "rollout.top_p",
    "actor_rollout_ref.rollout.val_kwargs.n": "evaluation.samples_per_prompt",
    "actor_rollout_ref.rollout.val_kwargs.temperature": "evaluation.temperature",
    "actor_rollout_ref.rollout.val_kwargs.top_p": "evaluation.top_p",
    "actor_rollout_ref.actor.policy_loss.loss_mode": "algorithm.loss (vanilla is clip)",
    "actor_rollout_ref.actor.tis_imp_ratio_cap": "algorithm.importance_cap",
    "algorithm.filter_groups.enable": "algorithm.selection (true is nonzero_advantage)",
    "algorithm.filter_groups.max_num_gen_batches": "algorithm.max_rounds",
    "algorithm.filter_groups.metric": "- groups are kept by their advantages: algorithm.selection",
    "algorithm.kl_ctrl.kl_coef": "algorithm.kl_coefficient",
    "algorithm.kl_penalty": _KL_ESTIMATOR,
    "algorithm.norm_adv_by_std_in_grpo": "algorithm.normalize_std",
    "algorithm.rollout_correction.rollout_is": "algorithm.importance_level",
    "algorithm.rollout_correction.rollout_is_threshold": "algorithm.importance_cap",
    "algorithm.rollout_correction.rollout_rs": (
        "algorithm.importance_mode (give mask; for geometric also give algorithm.importance_level=sequence_mean)"
    ),
    "algorithm.rollout_correction.rollout_rs_threshold": "algorithm.importance_cap (with importance_mode=mask)",
    "algorithm.rollout_correction.rollout_rs_threshold_lower": "algorithm.importance_floor",
    "custom_reward_function.name": "reward.function (path/to/file.py:name)",
    "custom_reward_function.path": "reward.function (path/to/file.py:name)",
    "data.gen_batch_size": "- a round has data.prompts_per_step prompts; surplus kept prompts go to the next step",
    "data.train_batch_size": "data.prompts_per_step",
    "reward_model.overlong_buffer.enable": "algorithm.overlong_buffer_tokens (null is off)",
    "reward_model.overlong_buffer.len": "algorithm.overlong_buffer_tokens",
    "reward_model.overlong_buffer.penalty_factor": "algorithm.overlong_factor",
    "reward_model.reward_manager": "reward.function",
    "trainer.default_local_dir": "run.dir",
    "trainer.log_val_generations": "tracking.rollout_prompts (every tracking.rollouts_every steps)",
    "trainer.max_actor_ckpt_to_keep": "checkpoint.keep_last",
    "trainer.resume_from_path": RESUMING,
    "trainer.resume_mode": RESUMING,
    "trainer.rollout_data_dir": "tracking.rollouts_every (they are written in run.dir)",
    "trainer.test_freq": "evaluation.every (0 is never, not -1)",
    "trainer.total_training_steps": "run.num_steps",
}

_EASY_R1 = {
    "algorithm.disable_kl": "algorithm.kl_coefficient (0 is off)",
    "algorithm.kl_coef": "algorithm.kl_coefficient",
    "algorithm.online_filtering": "algorithm.selection (true is nonzero_advantage)",
    "algorithm.use_kl_loss": "algorithm.kl_coefficient (0 is off)",
    "data.image_dir": "data.image_root",
    "data.max_pixels": "data.max_image_pixels",
    "data.min_pixels": "data.min_image_pixels",
    "data.rollout_batch_size": "data.prompts_per_step",
    "trainer.load_checkpoint_path": RESUMING,
    "trainer.max_steps": "run.num_steps",
    "trainer.save_checkpoint_path": "run.dir",
    "trainer.save_limit": "checkpoint.keep_last",
    "trainer.total_episodes": "run.num_epochs",
    "trainer.val_freq": "evaluation.every (0 is never, not -1)",
    "trainer.val_generations_to_log": "tracking.rollout_prompts (every tracking.rollouts_every steps)",
    "worker.actor.clip_ratio_dual": "algorithm.dual_clip",
    "worker.actor.clip_ratio_high": "algorithm.clip_high",
    "worker.actor.clip_ratio_low": "algorithm.clip_low",
    "worker.actor.fsdp.fsdp_size": "actor.fsdp_size (null is all ranks, not -1)",
    "worker.actor.global_batch_size": "actor.prompts_per_update",
    "worker.actor.loss_avg_mode": "algorithm.reduction (token is token_mean, seq is seq_mean_token_mean)",
    "worker.actor.max_grad_norm": "actor.max_grad_norm",
    "worker.actor.micro_batch_size_per_device_for_experience": _MICRO_BATCH,
    "worker.actor.micro_batch_size_per_device_for_update": _MICRO_BATCH,
    "worker.actor.model.enable_gradient_checkpointing": "actor.gradient_checkpointing",
    "worker.actor.model.freeze_vision_tower": "actor.freeze ([vision,projector] is true, [] false)",
    "worker.actor.model.model_path": "model.path",
    "worker.actor.model.trust_remote_code": "model.trust_remote_code",
    "worker.actor.offload.offload_optimizer": _OFFLOAD,
    "worker.actor.offload.offload_params": _OFFLOAD,
    "worker.actor.optim.lr": "actor.learning_rate",
    "worker.actor.optim.lr_warmup_ratio": _WARMUP,
    "worker.actor.optim.weight_decay": "actor.weight_decay",
    "worker.reward.reward_function": "reward.function (path/to/file.py:name)",
    "worker.reward.score_function": "reward.function (path/to/file.py:name)",
    "worker.rollout.enforce_eager": "rollout.vllm.enforce_eager",
    "worker.rollout.gpu_memory_utilization": "rollout.vllm.gpu_memory_utilization",
    "worker.rollout.n": "rollout.samples_per_prompt",
    "worker.rollout.temperature": "rollout.temperature",
    "worker.rollout.tensor_parallel_size": "rollout.tensor_parallel_size",
    "worker.rollout.top_k": _NO_LIMIT,
    "worker.rollout.top_p": "rollout.top_p",
    "worker.rollout.val_override_config.n": "evaluation.samples_per_prompt",
    "worker.rollout.val_override_config.temperature": "evaluation.temperature",
    "worker.rollout.val_override_config.top_p": "evaluation.top_p",
}

LIBRARIES: Mapping[str, Mapping[str, str]] = {
    "verl": {**_SHARED, **_VERL},
    "EasyR1": {**_SHARED, **_EASY_R1},
    "TRL": TRL,
}
NAMES = {name: entry for names in LIBRARIES.values() for name, entry in names.items()}


def library(key: str) -> str:
    """Whose name a translated `key` is: "TRL", or "verl" for verl and for EasyR1, which is derived from verl."""
    return "TRL" if key in TRL else "verl"


def translation(key: str, known: Collection[str]) -> str | None:
    """The entry of NAMES for `key`: a name of verl, EasyR1 or TRL, or the end of such a name ("rollout.n").

    None if there is no such name, if several names with different entries end so, or if the key of mars that the entry
    begins with is not in `known`.
    """
    ends = {entry for name, entry in NAMES.items() if name.endswith("." + key)}
    entry = NAMES.get(key) or (ends.pop() if len(ends) == 1 else None)
    return entry if entry and (entry.startswith("- ") or entry.split()[0] in known) else None
