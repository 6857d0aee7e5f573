#!/bin/sh
# Trains the five tiny stages and their text encoder: sh scripts/train_tiny.sh CORPUS RUNS
# Each line can be stopped (Ctrl-C) and resumes where it stopped. More steps make a better model.
set -eu
corpus=$1
runs=$2
common="--log-every 50 --validate-every 500 --checkpoint-every 500"

noise2music train text_encoder --corpus "$corpus" --run "$runs/text" --steps 1500 --batch-size 64 --peak-lr 2e-3
# shellcheck disable=SC2086
{
  # Generators see whole clips: fewer at a time. A low clip-norm keeps the rare bad batch from throwing Adam off.
  noise2music train spectrogram_generator --corpus "$corpus" --run "$runs/spectrogram_generator" --steps 10000 \
    --batch-size 8 --peak-lr 8e-4 --warmup 150 --lr-end-step 10000 --ema-decay 0.999 --clip-norm 0.3 \
    --text-encoder "$runs/text" $common
  noise2music train waveform_generator --corpus "$corpus" --run "$runs/waveform_generator" --steps 8000 \
    --batch-size 4 --peak-lr 1e-3 --warmup 200 --lr-end-step 8000 --ema-decay 0.998 --clip-norm 0.5 \
    --text-encoder "$runs/text" $common
  noise2music train waveform_cascader --corpus "$corpus" --run "$runs/waveform_cascader" --steps 2000 \
    --batch-size 8 --peak-lr 1.5e-3 --warmup 100 --lr-end-step 2000 --ema-decay 0.998 --clip-norm 0.5 \
    --text-encoder "$runs/text" $common
  noise2music train spectrogram_vocoder --corpus "$corpus" --run "$runs/spectrogram_vocoder" --steps 2000 \
    --peak-lr 1.5e-3 --warmup 200 --lr-end-step 4000 --ema-decay 0.998 --clip-norm 1.0 $common
  noise2music train super_resolution_cascader --corpus "$corpus" --run "$runs/super_resolution_cascader" --steps 1200 \
    --peak-lr 2e-3 --warmup 100 --lr-end-step 1200 --ema-decay 0.998 --clip-norm 1.0 $common
}
