"""Every setting of a training run, with its meaning, range and default.

The models are data: nothing here opens a file or imports torch. A field's docstring is its
documentation (`use_attribute_docstrings`), so that the reference in the docs is made from this
file.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from voxformer.config.locations import check_url

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A section of the file: unknown keys are errors, docstrings are descriptions."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        # Python counts True as 1, so `batch_size: yes` would be a batch of one.
        wants = cls.model_fields[str(info.field_name)].annotation
        items = value if isinstance(value, list) else [value]
        if wants is not bool and any(isinstance(item, bool) for item in items):
            raise ValueError("should not be true or false")
        return value


class Stage(str, Enum):
    """What a run optimises; the four are chained by `training.init_from`."""

    PRETRAIN = "pretrain"
    CTC = "ctc"
    ATTENTION = "attention"
    HYBRID = "hybrid"


STAGE_NUMBERS = {1: Stage.PRETRAIN, 2: Stage.CTC, 3: Stage.ATTENTION, 4: Stage.HYBRID}


class ModelConfig(Section):
    """Sizes of the network. A checkpoint fits only the architecture that it was trained with."""

    vocab_size: int = Field(500, ge=2, le=100_000)
    """SentencePiece pieces; CTC has one output more (`<blank>`), the decoder two (`<sos/eos>`)."""
    d_model: int = Field(256, ge=16, le=4096)
    """Width of encoder and decoder; a multiple of both head counts, with an even width per head."""
    encoder_num_heads: int = Field(4, ge=1, le=64)
    """Self-attention heads in each encoder layer."""
    encoder_num_blocks: int = Field(3, ge=1, le=16)
    """Multi-rate blocks; each runs at its own frame rate (see `encoder_downsampling`)."""
    encoder_layers_per_block: int = Field(4, ge=1, le=32)
    """Conformer layers in each block."""
    encoder_downsampling: list[Annotated[int, Field(ge=1, le=8)]] | None = None
    """Frame-rate divisor of each block against 25 frames/s; default: 1 at both ends, 2 between."""
    encoder_ff_multiplier: int = Field(4, ge=1, le=8)
    """Width of the encoder's feed-forward modules over `d_model`."""
    encoder_conv_kernel: int = Field(15, ge=3, le=63)
    """Taps of the depthwise convolution, in frames of the block's rate; odd."""
    subsampling_channels: int = Field(64, ge=8, le=1024)
    """Channels of the convolutions that bring 100 frames/s down to 25."""
    decoder_num_heads: int = Field(4, ge=1, le=64)
    """Heads of self- and cross-attention in each decoder layer."""
    decoder_num_layers: int = Field(4, ge=1, le=32)
    """Transformer decoder layers."""
    decoder_ff_multiplier: int = Field(4, ge=1, le=8)
    """Width of the decoder's feed-forward modules over `d_model`."""
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """Dropout after every sub-layer, in encoder and decoder."""
    ctc_weight: Probability | Annotated[list[Probability], Field(min_length=2, max_length=2)] = 0.3
    """w in loss = w·CTC + (1 - w)·CE; [start, end] anneals linearly over the run's steps."""
    sample_rate: Literal[8000, 16000] = 16000
    """Samples per second that the front end takes; other audio is resampled."""
    n_mels: int = Field(80, ge=20, le=128)
    """Log-mel bins per 10 ms frame."""

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        faults = []
        for key in ("encoder_num_heads", "decoder_num_heads"):
            heads = getattr(self, key)
            if self.d_model % (2 * heads):
                faults.append(
                    f"d_model {self.d_model} does not divide into {key} {heads} heads of even "
                    f"width; use a multiple of {2 * heads}"
                )
        if self.encoder_conv_kernel % 2 == 0:
            faults.append(f"encoder_conv_kernel {self.encoder_conv_kernel} must be odd")
        rates = self.encoder_downsampling
        if rates is not None and len(rates) != self.encoder_num_blocks:
            faults.append(
                f"encoder_downsampling has {len(rates)} entries for "
                f"encoder_num_blocks {self.encoder_num_blocks}"
            )
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @property
    def block_downsampling(self) -> list[int]:
        """Frame-rate divisor of each encoder block, with the default filled in."""
        if self.encoder_downsampling is not None:
            return list(self.encoder_downsampling)
        last = self.encoder_num_blocks - 1
        return [1 if i in (0, last) else 2 for i in range(self.encoder_num_blocks)]

    @property
    def ctc_weight_range(self) -> tuple[float, float]:
        """`ctc_weight` at the first and at the last step."""
        if isinstance(self.ctc_weight, list):
            return self.ctc_weight[0], self.ctc_weight[1]
        return self.ctc_weight, self.ctc_weight


class PretrainConfig(Section):
    """BEST-RQ (Chiu et al. 2022): masked prediction of random-projection labels."""

    mask_probability: float = Field(0.04, gt=0.0, lt=1.0)
    """Chance that a masked span starts at an encoder frame (25 frames/s)."""
    mask_frames: int = Field(8, ge=1, le=100)
    """Length of a masked span in encoder frames of 40 ms."""
    codebook_size: int = Field(1024, ge=2, le=65536)
    """Vectors in each fixed codebook, hence classes to predict."""
    codebook_dim: int = Field(16, ge=2, le=256)
    """Width of the projected frames and of the codebook's vectors."""
    num_codebooks: int = Field(1, ge=1, le=16)
    """Independent codebooks; the loss is their mean."""


class TrainingConfig(Section):
    """How a stage is optimised and what it leaves on disk."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` (Jordan et al. 2024) takes the matrices inside the layers; AdamW has the rest."""
    learning_rate: float = Field(1e-3, gt=0.0, le=1.0)
    """Peak learning rate, of either optimiser."""
    batch_size: int = Field(16, ge=1, le=4096)
    """Utterances in a micro-batch, at most."""
    batch_seconds: Annotated[float, Field(gt=0.0)] | Literal["auto"] | None = None
    """Seconds of audio in a micro-batch, at most, padding counted; default: no such limit. `auto`
    is what the GPU holds, found by trying with the longest utterances, up to `batch_size` of them,
    and 60 on a CPU; a run that goes on keeps the number that it began with."""
    gradient_accumulation_steps: int = Field(1, ge=1, le=1024)
    """Micro-batches per step (optimiser update), of each process under torchrun."""
    num_epochs: int = Field(10, ge=1, le=100_000)
    """Passes over the training set."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after so many steps, whichever of it and `num_epochs` comes first."""
    max_minutes: float | None = Field(None, gt=0.0)
    """Stop after so many minutes in steps (all resumed parts together), saving as at the end; where
    they are too few for all steps, the schedules follow the clock and still come to their end."""
    warmup_steps: int = Field(500, ge=0)
    """Steps over which the learning rate rises linearly from 0."""
    schedule: Literal["cosine", "inverse_sqrt", "constant"] = "cosine"
    """Learning rate after the warm-up."""
    final_learning_rate_ratio: float = Field(0.01, ge=0.0, le=1.0)
    """Where the cosine ends, over `learning_rate`."""
    weight_decay: float = Field(0.01, ge=0.0, le=10.0)
    """Decoupled weight decay; biases, norms and embeddings are exempt."""
    adam_betas: Annotated[
        list[Annotated[float, Field(ge=0.0, lt=1.0)]], Field(min_length=2, max_length=2)
    ] = [0.9, 0.98]
    """AdamW's moment decay rates."""
    gradient_clip: float = Field(5.0, gt=0.0)
    """Largest global gradient norm; larger gradients are scaled down to it."""
    label_smoothing: float = Field(0.1, ge=0.0, lt=1.0)
    """Share of the decoder's target spread evenly over its outputs but `<blank>`."""
    decoder_input_noise: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the tokens that the decoder reads in training that are replaced by random ones
    (SwitchOut, Wang et al. 2018), so that it goes by the speech and gets over its own mistakes."""
    cr_ctc_weight: float = Field(0.0, ge=0.0, le=10.0)
    """Weight of the CR-CTC consistency loss (Yao et al. 2024); 0 trains on one view."""
    inter_ctc_weight: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of CTC's loss that is taken at the ends of the encoder's blocks before the last (Lee
    and Watanabe 2021); 0 is off."""
    crf_weight: float = Field(0.0, ge=0.0, le=1.0)
    """Share of CTC's loss that is CTC-CRF's (Xiang and Ou 2019), which weighs the transcript's
    paths against those of all token sequences by a bigram of the training transcripts; 0 is off.
    Such a model needs a search with a language model: `ctc_greedy` says little of it. Stage 3,
    which trains no CTC, evaluates with that bigram where this is above 0."""
    ema_decay: float = Field(0.0, ge=0.0, lt=1.0)
    """Decay of the weights' moving average that evaluation and `best.pt` use; 0 is off."""
    save_interval: int = Field(500, ge=1)
    """Steps between `step_N.pt` checkpoints."""
    eval_interval: int = Field(500, ge=1)
    """Steps between evaluations on the validation manifest."""
    log_interval: int = Field(10, ge=1)
    """Steps between rows of `metrics.jsonl`."""
    keep_last_n: int = Field(3, ge=1)
    """`step_N.pt` files to keep; `latest.pt` and `best.pt` are always kept."""
    keep_epochs_n: int = Field(1, ge=0)
    """`epoch_N.pt` files to keep; 0 writes none."""
    max_unsaved_minutes: float = Field(60.0, ge=0.0)
    """When a save fails, as on a full disk, training goes on and the save is tried again; the run
    stops with exit code 3 when saving has failed for so many minutes since the last good save."""
    resume_from: str | None = None
    """Checkpoint to continue; the run's own `latest.pt` starts fresh when the run has none yet. A
    URL names a mirror, whose newest verified checkpoint is fetched, or a `step_N.pt` in one."""
    init_from: str | None = None
    """Checkpoint of an earlier stage to take weights from; missing parts start at random."""
    checkpoint_dir: str | None = None
    """The run folder; default `checkpoints/<name of the config>`."""
    seed: int = Field(1, ge=0, lt=2**31)
    """All randomness is a function of this, the epoch, the step and the utterance."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """`auto` takes CUDA where there is one; a device that is named and missing is an error. Under
    torchrun, `auto` and `cuda` give each process of a host a GPU of its own."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """What layers compute in; `auto` is bf16 on a GPU that has it and fp32 elsewhere. `tf32` rounds
    the factors of matrix products on NVIDIA GPUs from Ampere on; `fp16`, for GPUs before that,
    scales the loss."""
    compile: bool = False
    """Fuse the layers' operations with torch.compile, which takes a minute or two at the start; the
    weights and their names are the same. Evaluations run uncompiled."""
    deterministic: bool = False
    """Only deterministic CUDA kernels, so that a resumed run is bit-equal there as well."""
    num_threads: int = Field(0, ge=0, le=1024)
    """CPU threads for the arithmetic; 0 leaves torch's own choice."""
    num_workers: int = Field(1, ge=0, le=256)
    """Processes that read and augment audio; 0 does it in the training process. Under torchrun each
    training process has so many."""
    process_timeout_minutes: float = Field(10.0, ge=0.1, le=1440.0)
    """Under torchrun: how long a process waits in a step for another that says nothing; one that
    has died is noticed at once."""
    max_nonfinite_steps: int = Field(20, ge=1)
    """Steps with a non-finite loss or gradient, in a row, that stop the run."""

    @property
    def batch_seconds_limit(self) -> float | None:
        """`batch_seconds` where it is a number; a run puts one in the place of `auto`."""
        return None if self.batch_seconds == "auto" else self.batch_seconds

    @field_validator("resume_from", "init_from")
    @classmethod
    def _no_secret(cls, value: str | None) -> str | None:
        return None if value is None else check_url(value)


class SpecAugmentConfig(Section):
    """SpecAugment (Park et al. 2019), with the options of its sequel (Park et al. 2020): bands and
    spans of the features set to the mean."""

    frequency_masks: int = Field(2, ge=0, le=20)
    """Bands per utterance."""
    frequency_width: int = Field(27, ge=1, le=128)
    """Widest band, in mel bins."""
    time_masks: int = Field(10, ge=0, le=100)
    """Spans per utterance, at most; short utterances get one per `time_width`·2 frames."""
    time_width: int = Field(25, ge=1, le=500)
    """Longest span, in 10 ms frames."""
    time_mask_ratio: float = Field(0.0, ge=0.0, le=1.0)
    """Spans per frame (p_M of Park et al. 2020), up to `time_masks`; 0 is off."""
    time_width_ratio: float = Field(0.0, ge=0.0, le=1.0)
    """Longest span over the utterance's length (p_S of Park et al. 2020), in place of `time_width`;
    short utterances then get as many as others, unless `time_mask_ratio` is set. 0 is off."""
    max_time_fraction: float = Field(0.3, ge=0.0, le=1.0)
    """Share of an utterance that spans may cover together."""
    warmup_share: Probability = 0.0
    """Share of the run over which the largest widths grow linearly from 0 to what they are here; 0
    is off."""


class AugmentConfig(Section):
    """What is done to training speech; nothing of it is done in evaluation."""

    speed_factors: Annotated[list[Annotated[float, Field(ge=0.5, le=2.0)]], Field(min_length=1)] = [
        0.9,
        1.0,
        1.1,
    ]
    """Speed perturbation by resampling (Ko et al. 2015): one factor is drawn per utterance."""
    tempo_factors: Annotated[
        list[Annotated[float, Field(ge=0.8, le=1.25)]], Field(min_length=1)
    ] = [1.0]
    """The same at constant pitch (WSOLA, Verhelst and Roelands 1993), after the speed; one factor
    is drawn per utterance, so that naming 1.0 more often leaves more of them as they are."""
    gain_db: float = Field(6.0, ge=0.0, le=40.0)
    """Level drawn evenly from -gain_db to +gain_db."""
    noise_probability: Probability = 0.2
    """Share of utterances that get additive noise."""
    noise_snr_db: Annotated[list[float], Field(min_length=2, max_length=2)] = [10.0, 30.0]
    """Range of signal-to-noise ratios, in dB."""
    noise_manifest: str | None = None
    """Recordings of noise; default: white and pink noise made on the spot."""
    reverb_probability: Probability = 0.0
    """Share of utterances that are heard in a room: a direct path and a noisy tail that decays."""
    reverb_seconds: Annotated[
        list[Annotated[float, Field(gt=0.0, le=3.0)]], Field(min_length=2, max_length=2)
    ] = [0.1, 0.5]
    """Range of the time in which a room's tail falls by 60 dB."""
    vocal_tract: Annotated[
        list[Annotated[float, Field(ge=0.5, le=2.0)]], Field(min_length=2, max_length=2)
    ] = [1.0, 1.0]
    """Range of the factor that stretches an utterance's spectrum below 4.8 kHz (VTLP, Jaitly and
    Hinton 2013), for want of speakers; [1.0, 1.0] is off."""
    spec_augment: SpecAugmentConfig = SpecAugmentConfig()
    """Masks on the log-mel features."""

    @property
    def slowest(self) -> float:
        """Least factor of speed and tempo together: an utterance gets no longer than over it."""
        return min(self.speed_factors) * min(self.tempo_factors)


class TrainingSet(Section):
    """One of several training sets."""

    path: str
    """JSONL manifest."""
    weight: float = Field(1.0, gt=0.0, le=1000.0)
    """How often an epoch draws each of its utterances."""


class DataConfig(Section):
    """Where the speech is."""

    train_manifest: str | Annotated[list[str | TrainingSet], Field(min_length=1)] | None = None
    """JSONL manifest of the training set, or several, each a path or `{path: FILE, weight: W}`. An
    epoch draws an utterance W times (default 1), each time augmented anew; of a fraction, such as
    0.25 or the half in 2.5, as many of the set as it says, others in each epoch."""
    valid_manifest: str | None = None
    """JSONL manifest that evaluations and `best.pt` use; default: no evaluation."""
    tokenizer: str | None = None
    """Folder that `voxformer tokenizer` wrote; default: one is trained from `train_manifest`."""
    tokenizer_type: Literal["unigram", "bpe", "char"] = "unigram"
    """SentencePiece model when one is trained here."""
    pronunciation: str | None = None
    """Voice of eSpeak NG, such as `en-us`, by which transcripts are turned into phones; the model
    then writes phones, and decoding needs a lexicon (`voxformer lexicon`). Default: letters."""
    min_duration: float = Field(0.1, ge=0.0)
    """Shorter utterances are skipped; seconds."""
    max_duration: float = Field(30.0, gt=0.0)
    """Longer utterances are skipped; seconds."""
    memory_hours: float = Field(2.0, ge=0.0)
    """A training set of no more hours is decoded once and kept in memory, 115 MB an hour."""
    max_bad_fraction: Probability = 0.01
    """A manifest with a larger share of unusable utterances is an error."""
    max_valid_utterances: int | None = Field(None, ge=1)
    """Evaluate on so many utterances at most, spread evenly over the manifest."""

    @field_validator("train_manifest", mode="before")
    @classmethod
    def _sets_are_plain(cls, value: object) -> object:
        # What a choice of types says of a wrong item would be longer and say less.
        for item in value if isinstance(value, list) else []:
            if isinstance(item, (str, TrainingSet)):
                continue
            if not isinstance(item, dict) or not isinstance(item.get("path"), str):
                raise ValueError("each set should be a path, or {path: FILE, weight: W}")
            unknown = set(item) - set(TrainingSet.model_fields)
            if unknown:
                named = min(map(str, unknown))
                raise ValueError(f"{item['path']}: unknown key {named}; a set has path and weight")
            weight = item.get("weight", 1.0)
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            if not number or not 0.0 < weight <= 1000.0:
                raise ValueError(f"{item['path']}: weight should be above 0 and at most 1000")
        return value

    @property
    def training_sets(self) -> list[TrainingSet]:
        """`train_manifest` as a list, weights filled in; empty where it is not set."""
        named = self.train_manifest
        sets = [named] if isinstance(named, str) else named or []
        return [TrainingSet(path=s) if isinstance(s, str) else s for s in sets]  # type: ignore[call-arg]

    @model_validator(mode="after")
    def _durations_fit(self) -> DataConfig:
        if self.min_duration >= self.max_duration:
            raise ValueError(
                f"min_duration {self.min_duration:g} is not below max_duration "
                f"{self.max_duration:g}"
            )
        return self


class DecodingConfig(Section):
    """Search options for evaluation, and the defaults written into an exported bundle."""

    beam_size: int = Field(10, ge=1, le=1000)
    """Hypotheses kept by the CTC prefix search."""
    attention_beam_size: int = Field(10, ge=1, le=1000)
    """Hypotheses kept by the attention search, where each costs a step of the decoder."""
    n_best: int = Field(10, ge=1, le=1000)
    """Hypotheses of the CTC search that the attention decoder rescores."""
    ctc_weight: Probability = 0.5
    """CTC's share in the rescored score."""
    length_bonus: float = Field(0.0, ge=-100.0, le=100.0)
    """Added per token."""
    length_penalty: float = Field(0.0, ge=0.0, le=5.0)
    """Exponent of the ranking divisor ((5 + n)/6) (Wu et al. 2016) with CTC; 0 is off."""
    attention_length_penalty: float = Field(1.0, ge=0.0, le=5.0)
    """The same for the `attention` mode, where without it an unsure decoder says nothing."""
    repetition_penalty: float = Field(1.0, ge=1.0, le=10.0)
    """Factor on ln p of tokens that the hypothesis already holds (Keskar et al. 2019); 1 is off."""
    no_repeat_ngram: int = Field(0, ge=0, le=20)
    """The attention search never repeats an n-gram of this size; 0 is off."""
    max_tokens_per_second: float | None = Field(None, gt=0.0)
    """Cap on an attention hypothesis; default: 1.5 times the fastest training utterance."""
    eval_modes: list[Literal["ctc_greedy", "ctc_beam", "attention", "rescoring"]] = [
        "ctc_greedy",
        "attention",
    ]
    """Modes that evaluations during training report."""

    @model_validator(mode="after")
    def _n_best_fits(self) -> DecodingConfig:
        if self.n_best > self.beam_size:
            raise ValueError(
                f"n_best {self.n_best} is larger than beam_size {self.beam_size}; set n_best too"
            )
        return self


Action = Literal["none", "warn", "stop"]


class WatchConfig(Section):
    """What the run looks for in itself, after warm-up and in each decoding mode apart, and what it
    does then: `none`, `warn` (a log line, a row of `metrics.jsonl`, a note on the dashboard), or
    `stop` (that, and if it lasts, save and leave with exit code 4)."""

    critical_action: Action = "warn"
    """WER above 100 %."""
    high_action: Action = "none"
    """WER of 50 % or more."""
    moderate_action: Action = "none"
    """WER of 25 % or more."""
    good_action: Action = "none"
    """WER of 15 % or more."""
    loop_action: Action = "warn"
    """Many hypotheses repeat themselves or are cut by the length cap."""
    loop_share: Probability = 0.2
    """Share of a mode's hypotheses that counts as many, for `loop_action`."""
    blank_action: Action = "warn"
    """Many hypotheses are empty or nearly so: CTC has collapsed to `<blank>`, or the decoder ends
    at once."""
    blank_share: Probability = 0.5
    """Share of a mode's hypotheses that counts as many, for `blank_action`."""
    attention_action: Action = "warn"
    """Every head of the decoder's cross-attention rests on one place, whatever is to be written."""
    attention_share: Probability = 0.5
    """Share of attention within 120 ms that counts as resting there, for `attention_action`."""
    stale_action: Action = "warn"
    """No training loss (CTC and cross-entropy apart) fell; `stop` stops at once."""
    stale_steps: int = Field(2000, ge=1)
    """Steps in a window; its mean loss is compared with the best earlier window's."""
    stale_improvement: float = Field(0.001, ge=0.0, lt=1.0)
    """Relative fall of a loss from window to window that counts as one."""
    stop_after_evaluations: int = Field(5, ge=1)
    """Evaluations in a row with the same finding after which `stop` stops the run."""
    early_stopping: int = Field(0, ge=0)
    """Evaluations without a better WER (in pre-training: loss) that end the run as if it were
    complete; needs `data.valid_manifest`; 0 is off."""


class MirrorConfig(Section):
    """A copy of the run at another place, kept in the background and resumed from when the run
    folder is empty."""

    url: str | None = None
    """Folder for this run alone: `sftp://user@host/path` (`/~/` for the home folder), with keys,
    agent, aliases and known hosts as ssh has them, a mounted folder, or what else fsspec knows."""
    every_minutes: float = Field(5.0, gt=0.0, le=1440.0)
    """Time between looks for what is new."""
    keep_last_n: int = Field(3, ge=1)
    """`step_N.pt` files to keep there; the newest that verifies and `best.pt` are always kept."""
    megabytes_per_second: float | None = Field(None, gt=0.0)
    """Most that is sent and read back, in 10^6 bytes a second; default: no limit."""
    final_minutes: float = Field(10.0, ge=0.0, le=1440.0)
    """Longest wait for the last checkpoint to get there when the run ends or is stopped."""
    timeout_seconds: float = Field(30.0, ge=1.0, le=600.0)
    """Silence from the other end after which the connection counts as cut."""

    @field_validator("url")
    @classmethod
    def _no_secret(cls, value: str | None) -> str | None:
        return None if value is None else check_url(value)


class RunConfig(Section):
    """One training run."""

    stage: Stage = Stage.HYBRID
    """`pretrain`, `ctc`, `attention` or `hybrid`; the numbers 1 to 4 mean the same."""
    model: ModelConfig = ModelConfig()  # type: ignore[call-arg]
    """Sizes of the network."""
    training: TrainingConfig = TrainingConfig()  # type: ignore[call-arg]
    """How it is optimised."""
    data: DataConfig = DataConfig()  # type: ignore[call-arg]
    """Where the speech is."""
    augment: AugmentConfig = AugmentConfig()  # type: ignore[call-arg]
    """What is done to training speech."""
    pretrain: PretrainConfig = PretrainConfig()  # type: ignore[call-arg]
    """The objective of stage 1."""
    decoding: DecodingConfig = DecodingConfig()  # type: ignore[call-arg]
    """Search options for evaluation."""
    watch: WatchConfig = WatchConfig()  # type: ignore[call-arg]
    """What the run looks for in itself, and what it does then."""
    mirror: MirrorConfig = MirrorConfig()  # type: ignore[call-arg]
    """Where a copy of the run is kept."""

    @field_validator("stage", mode="before")
    @classmethod
    def _stage_number(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool):
            if value not in STAGE_NUMBERS:
                raise ValueError("should be 1 to 4, or pretrain, ctc, attention or hybrid")
            return STAGE_NUMBERS[value]
        return value
