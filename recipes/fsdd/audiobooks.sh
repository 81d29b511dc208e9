#!/usr/bin/env bash
# From audio books to words.safetensors, from which the recipe fsdd goes on, and to digits by it (README.md). Run again, it
# resumes.
#   [BOOKS="data.root=/corpora/LibriSpeech …"] [MEMBERS=1] bash recipes/fsdd/audiobooks.sh [data.root=/copy/of/fsdd …]
# BOOKS: overrides of mini_librispeech, for where the books are; the arguments: of the last step.
set -euo pipefail
read -ra books <<< "${BOOKS-}"
members=${MEMBERS-3}

# 1. Every word of the audio books as a recording of its own; the development set adds further voices.
if [ ! -f words/words.jsonl ]; then
  corpus=$(asr prepare mini_librispeech "${books[@]}")
  mkdir -p words
  cat "$corpus"/{train,dev}.jsonl > words/books.jsonl
  asr align words/books.jsonl --model english -o words/books.ctm \
      --cut words --per_word 100 || [ -f words/words.jsonl ] # utterances that cannot be aligned are named
fi

# 2. Models of these words, one file; then of the digits.
asr run fsdd/words members="$members"
asr export --model exp/fsdd/words/model -o words/words.safetensors
asr run fsdd members="$members" training.start_from=words/words.safetensors exp=exp/fsdd/audiobooks "$@"
