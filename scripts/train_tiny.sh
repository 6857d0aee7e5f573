#!/bin/sh
# Trains the five tiny stages and their text encoder: sh scripts/train_tiny.sh CORPUS RUNS
# Each line can be stopped (Ctrl-C) and resumes where it stopped. More steps make a better model.
set -eu
corpus=$1
runs=$2
common="--ema-decay 0.998 --clip-norm 1.0 --log-every 50 --validate-every 250 --checkpoint-every 250"

noise2music train text_encoder --corpus "$corpus" --run "$runs/text" --steps 1200 --batch-size 64 --peak-lr 2e-3
# shellcheck disable=SC2086
{
  noise2music train spectrogram_generator --corpus "$corpus" --run "$runs/spectrogram_generator" --steps 12000 \
    --peak-lr 1e-3 --warmup 200 --lr-end-step 12000 --text-encoder "$runs/text" $common
  noise2music train spectrogram_vocoder --corpus "$corpus" --run "$runs/spectrogram_vocoder" --steps 2000 \
    --peak-lr 1.5e-3 --warmup 200 --lr-end-step 4000 $common
  noise2music train super_resolution_cascader --corpus "$corpus" --run "$runs/super_resolution_cascader" --steps 1200 \
    --peak-lr 2e-3 --warmup 100 --lr-end-step 1200 $common
  for stage in waveform_generator waveform_cascader; do
    noise2music train "$stage" --corpus "$corpus" --run "$runs/$stage" --steps 2000 \
      --peak-lr 1.5e-3 --warmup 100 --lr-end-step 2000 --text-encoder "$runs/text" $common
  done
}
