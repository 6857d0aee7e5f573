#!/bin/sh
# Trains the five tiny stages and their text encoder: sh scripts/train_tiny.sh CORPUS RUNS
# Each line can be stopped (Ctrl-C) and resumes where it stopped. More steps make a better model.
set -eu
corpus=$1
runs=$2

noise2music train text_encoder --corpus "$corpus" --run "$runs/text" --steps 1500 --batch-size 64 --peak-lr 2e-3
for stage in spectrogram_generator waveform_generator waveform_cascader; do
  noise2music train $stage --config tiny --corpus "$corpus" --run "$runs/$stage" --text-encoder "$runs/text"
done
for stage in spectrogram_vocoder super_resolution_cascader; do
  noise2music train $stage --config tiny --corpus "$corpus" --run "$runs/$stage"
done
